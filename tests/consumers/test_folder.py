from __future__ import annotations

from pathlib import Path

from consumers.folder import FolderStream
from consumers.runner import step
from rag.adapters.memory.events import MemoryEventLog
from rag.adapters.memory.ledger import MemoryLedger
from rag.adapters.objects import Folder, Objects
from rag.ids import Ids
from rag.ingest.deletions import MASS
from rag.sources import Source
from schemas.topics import CHANGED

SOURCE = Source("folder", "acme", "folder://inbox", ("group:staff",))
IDS = Ids(b"0123456789abcdef")


class World:
    def __init__(self, inbox: Path) -> None:
        self.inbox = inbox
        self.log = MemoryEventLog()
        self.stream = FolderStream(SOURCE, Objects({"folder://inbox": Folder(inbox)}), MemoryLedger(), "i", every=0)
        self._read: set[tuple[int, int]] = set()

    async def announced(self) -> list[tuple[str, str]]:
        """Run one turn of the stream and return the announced changes as (path, kind)."""
        await step(self.stream, IDS, self.log)
        state = await self.log.describe(CHANGED)
        records = [r for p, (low, end) in state.bounds.items() for r in await self.log.read(CHANGED, p, low, end)]
        fresh = [r.value for r in records if (r.partition, r.offset) not in self._read]
        self._read |= {(record.partition, record.offset) for record in records}
        return sorted((event.uri.removeprefix("folder://inbox/"), event.kind.value) for event in fresh)


async def test_new_changed_and_deleted_files_are_announced_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    (tmp_path / "a.md").write_text("one")
    (tmp_path / ".hidden").write_text("no")
    assert await world.announced() == [("a.md", "CHANGED")]
    assert await world.announced() == []
    (tmp_path / "a.md").write_text("changed")
    (tmp_path / "b.md").write_text("two")
    assert await world.announced() == [("a.md", "CHANGED"), ("b.md", "CHANGED")]
    (tmp_path / "a.md").unlink()
    assert await world.announced() == [("a.md", "DELETED")]


async def test_an_emptied_folder_deletes_nothing_until_it_is_confirmed(tmp_path: Path) -> None:
    world = World(tmp_path)
    for number in range(MASS + 2):
        (tmp_path / f"{number}.md").write_text("x")
    await world.announced()
    for file in tmp_path.iterdir():
        file.unlink()
    (tmp_path / "new.md").write_text("x")
    assert await world.announced() == [("new.md", "CHANGED")]
    for number in range(MASS + 2):
        (tmp_path / f"{number}.md").write_text("x")
    assert "DELETED" not in {kind for _, kind in await world.announced()}


async def test_a_folder_that_is_up_to_date_waits_between_two_listings(tmp_path: Path) -> None:
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    objects = Objects({"folder://inbox": Folder(tmp_path)})
    stream = FolderStream(SOURCE, objects, MemoryLedger(), "i", every=2.0, wait=wait)
    for _ in range(4):
        assert await step(stream, IDS, MemoryEventLog()) == 0
    assert waits == [2.0] * 3  # only the first turn, which compares with the ledger, begins at once
