"""Absences: a lost source deletes nothing, and only a confirmation deletes most of a source."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rag.adapters.objects import Folder, Objects
from rag.errors import Unavailable
from rag.ingest.change_events import ObjectChange, publish_changes
from rag.models import DocumentStatus
from tests.fakes.world import IDS, SOURCE, World

INBOX = replace(SOURCE, base_uri="folder://inbox")


def folder_world(root: Path) -> World:
    """Return a world whose source ``s3`` is the folder ``root``."""
    return World(source=INBOX, objects=Objects({"folder://inbox": Folder(root)}))


async def announce(world: World, *names: str) -> None:
    now = datetime.now(UTC)
    await publish_changes(
        [ObjectChange(f"folder://inbox/{name}", now, "listing") for name in names], INBOX, IDS, world.log
    )


@pytest.fixture
async def mounted(tmp_path: Path) -> World:
    """Sixty indexed files of the folder ``inbox``."""
    root = tmp_path / "inbox"
    root.mkdir()
    for number in range(60):
        (root / f"{number}.md").write_text(f"# Doc {number}\n\nRopes number {number} hold.\n")
    world = folder_world(root)
    await announce(world, *(path.name for path in root.iterdir()))
    assert (await world.run_lane()).documents == 60
    return world


async def statuses(world: World) -> set[DocumentStatus]:
    ids = [IDS.document_id("acme", "s3", f"folder://inbox/{number}.md") for number in range(60)]
    return {record.status for record in (await world.ledger.recorded("f" * 16, ids)).values()}


@pytest.mark.parametrize("put_in_place", ["nothing", "an empty mount point", "another folder"])
async def test_nothing_is_deleted_while_the_watched_folder_is_not_the_right_one(
    mounted: World, tmp_path: Path, put_in_place: str
) -> None:
    (tmp_path / "inbox").rename(tmp_path / "away")
    if put_in_place != "nothing":
        (tmp_path / "inbox").mkdir()
    if put_in_place == "another folder":
        (tmp_path / "inbox" / "other.md").write_text("# Other")
    mounted.objects = Objects({"folder://inbox": Folder(tmp_path / "inbox")})  # a new process opens the folder
    with pytest.raises(Unavailable, match=r"inbox.* is gone|not the folder that was watched"):
        await mounted.backfill()
    await announce(mounted, "1.md")
    with pytest.raises(Unavailable):
        await mounted.run_lane()
    assert (tmp_path / "inbox").exists() == (put_in_place != "nothing")
    assert await statuses(mounted) == {DocumentStatus.LIVE}


async def test_the_right_folder_that_is_mounted_again_goes_on(mounted: World, tmp_path: Path) -> None:
    (tmp_path / "inbox").rename(tmp_path / "away")
    await announce(mounted, "1.md")
    with pytest.raises(Unavailable):
        await mounted.run_lane()
    (tmp_path / "away").rename(tmp_path / "inbox")
    (tmp_path / "inbox" / "1.md").unlink()
    assert (await mounted.run_lane()).documents == 1
    assert await statuses(mounted) == {DocumentStatus.LIVE, DocumentStatus.DELETED}


async def test_a_folder_that_was_copied_with_its_marker_is_the_same_folder(mounted: World, tmp_path: Path) -> None:
    root = tmp_path / "inbox"
    (root / ".tidemark-source").write_text("the inbox of acme")
    await mounted.pipeline.reader.roots.accept(INBOX)
    root.rename(tmp_path / "old")
    root.mkdir()
    for path in (tmp_path / "old").iterdir():
        if path.name != "7.md":
            (root / path.name).write_bytes(path.read_bytes())
    await announce(mounted, "7.md")
    assert (await mounted.run_lane()).documents == 1
    assert await statuses(mounted) == {DocumentStatus.LIVE, DocumentStatus.DELETED}
