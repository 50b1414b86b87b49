from __future__ import annotations

from dataclasses import replace

import pytest

from consumers.listing import differences
from rag.adapters.memory.ledger import MemoryLedger
from rag.adapters.memory.objects import MemoryObjects
from rag.errors import Unavailable
from rag.ingest.deletions import MASS
from rag.ingest.roots import Roots
from rag.models import DocumentStatus, Inventoried
from rag.sources import Source

SOURCE = Source("s3", "acme", "s3://docs", ("group:staff",))


class Ledger(MemoryLedger):
    """A ledger with the recorded state of some documents: uri → change token."""

    def __init__(self, known: dict[str, str], status: DocumentStatus = DocumentStatus.LIVE) -> None:
        super().__init__()
        self.known = {
            uri: Inventoried(str(n), token, SOURCE.config_hash(uri), status)
            for n, (uri, token) in enumerate(known.items())
        }

    async def inventory(self, index_id: str, tenant: str, source: str) -> dict[str, Inventoried]:
        return self.known if (tenant, source) == ("acme", "s3") else {}


async def announced(objects: MemoryObjects, ledger: Ledger, source: Source = SOURCE) -> set[tuple[str, bool]]:
    found = await differences(source, "i", objects, ledger)
    return {(change.uri.rsplit("/", 1)[1], change.is_deletion) for change in found.changes}


async def test_new_changed_and_missing_objects_are_announced() -> None:
    objects = MemoryObjects("s3://docs")
    same = await objects.put("s3://docs/same.md", b"1")
    await objects.put("s3://docs/changed.md", b"2")
    await objects.put("s3://docs/new.md", b"3")
    known = {"s3://docs/same.md": same.change_token, "s3://docs/changed.md": "older", "s3://docs/gone.md": "s"}
    assert await announced(objects, Ledger(known)) == {("changed.md", False), ("new.md", False), ("gone.md", True)}


async def test_markers_hidden_and_unfinished_files_are_not_documents() -> None:
    objects = MemoryObjects("s3://docs")
    for name in (".hidden.md", "~$open.docx", "half.part", "half.tmp", "backup.md~", ".tidemark-source"):
        await objects.put(f"s3://docs/{name}", b"x")
    assert await announced(objects, Ledger({})) == set()


async def test_a_mass_deletion_needs_a_confirmation_and_holds_back_nothing_else() -> None:
    objects = MemoryObjects("s3://docs")
    await objects.put("s3://docs/new.md", b"x")
    ledger = Ledger({f"s3://docs/{n}.md": "s" for n in range(MASS + 1)})
    found = await differences(SOURCE, "i", objects, ledger)
    assert ([change.uri for change in found.changes], found.held) == (["s3://docs/new.md"], MASS + 1)
    confirmed = await differences(SOURCE, "i", objects, ledger, confirmed=True)
    assert (len(confirmed.changes), confirmed.held) == (MASS + 2, 0)


async def test_a_confirmed_deletion_stays_confirmed_until_it_is_done() -> None:
    objects = MemoryObjects("s3://docs")
    ledger = Ledger({f"s3://docs/{n}.md": "s" for n in range(MASS + 1)})
    await differences(SOURCE, "i", objects, ledger, confirmed=True)
    again = await differences(SOURCE, "i", objects, ledger)
    assert (len(again.changes), again.held) == (MASS + 1, 0)
    await objects.put("s3://docs/0.md", b"back")
    await differences(SOURCE, "i", objects, ledger)
    assert set(await ledger.held_deletions("i", "acme", "s3")) == {str(n) for n in range(1, MASS + 1)}


@pytest.mark.parametrize(
    "changed",
    [{"principals": ("group:hr",)}, {"rules": {"a": ("group:hr",)}}, {"mappings": {"a": "another"}}],
)
async def test_a_changed_setting_announces_the_documents_that_it_applies_to(changed: dict[str, object]) -> None:
    objects = MemoryObjects("s3://docs")
    token = (await objects.put("s3://docs/a.md", b"1")).change_token
    ledger = Ledger({"s3://docs/a.md": token})
    assert await announced(objects, ledger) == set()
    assert await announced(objects, ledger, replace(SOURCE, **changed)) == {("a.md", False)}  # type: ignore[arg-type]
    assert await announced(objects, ledger, replace(SOURCE, rules={"b/": ("group:hr",)})) == set()


async def test_a_document_that_was_refused_by_its_id_is_not_announced_again() -> None:
    objects = MemoryObjects("s3://docs")
    await objects.put("s3://docs/a.md", b"1")
    ledger = Ledger({"s3://docs/a.md": ""}, DocumentStatus.SUPPRESSED)
    assert await announced(objects, ledger) == set()


async def test_another_root_is_an_outage_until_a_person_accepts_it() -> None:
    objects = MemoryObjects("s3://docs")
    objects.identities["s3://docs"] = {"inode": "1"}
    token = (await objects.put("s3://docs/a.md", b"1")).change_token
    ledger = Ledger({"s3://docs/a.md": token})
    assert await announced(objects, ledger) == set()
    objects.identities["s3://docs"] = {"inode": "2"}
    for content in (b"other", None):
        with pytest.raises(Unavailable, match="not the folder that was watched"):
            await announced(objects, ledger)
        if content:
            await objects.delete(["s3://docs/a.md"])
    found = await differences(SOURCE, "i", objects, ledger, confirmed=True)
    assert [change.is_deletion for change in found.changes] == [True]
    await Roots(objects, ledger).prove(SOURCE)


async def test_an_empty_root_that_never_showed_a_document_is_not_believed() -> None:
    objects = MemoryObjects("s3://docs")
    objects.identities["s3://docs"] = {"inode": "1"}
    assert await announced(objects, Ledger({})) == set()
    with pytest.raises(Unavailable, match="not shown a document"):
        await announced(objects, Ledger({"s3://docs/a.md": "s"}))
