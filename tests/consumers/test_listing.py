from __future__ import annotations

import pytest

from consumers.listing import MASS, MassDeletion, differences
from rag.adapters.memory.objects import MemoryObjects
from rag.sources import Source

SOURCE = Source("s3", "acme", "s3://docs", ("group:staff",))


class Inventory:
    """The part of the catalog that a listing uses."""

    def __init__(self, known: dict[str, tuple[str, str]]) -> None:
        self.known = known

    async def inventory(self, index_id: str, source: str) -> dict[str, tuple[str, str]]:
        return self.known


async def test_new_changed_and_missing_objects_are_announced() -> None:
    objects = MemoryObjects("s3://docs")
    same = await objects.put("s3://docs/same.md", b"1")
    await objects.put("s3://docs/changed.md", b"2")
    await objects.put("s3://docs/new.md", b"3")
    known = {
        "s3://docs/same.md": ("d1", same.change_token),
        "s3://docs/changed.md": ("d2", "older"),
        "s3://docs/gone.md": ("d3", "s"),
    }
    changes = await differences(SOURCE, "i", objects, Inventory(known))  # type: ignore[arg-type]
    announced = {(change.uri.rsplit("/", 1)[1], change.is_deletion) for change in changes}
    assert announced == {("changed.md", False), ("new.md", False), ("gone.md", True)}


async def test_markers_hidden_and_unfinished_files_are_not_documents() -> None:
    objects = MemoryObjects("s3://docs")
    for name in (".hidden.md", "~$open.docx", "half.part", "half.tmp", "backup.md~"):
        await objects.put(f"s3://docs/{name}", b"x")
    assert await differences(SOURCE, "i", objects, Inventory({})) == []  # type: ignore[arg-type]


async def test_a_mass_deletion_needs_a_confirmation_and_holds_back_nothing_else() -> None:
    objects = MemoryObjects("s3://docs")
    await objects.put("s3://docs/new.md", b"x")
    known = {f"s3://docs/{n}.md": (str(n), "s") for n in range(MASS + 1)}
    with pytest.raises(MassDeletion, match="reconcile --confirm") as caught:
        await differences(SOURCE, "i", objects, Inventory(known))  # type: ignore[arg-type]
    assert [change.uri for change in caught.value.changes] == ["s3://docs/new.md"]
    confirmed = await differences(SOURCE, "i", objects, Inventory(known), confirmed=True)  # type: ignore[arg-type]
    assert len(confirmed) == MASS + 2
