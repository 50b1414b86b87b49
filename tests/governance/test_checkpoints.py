from __future__ import annotations

import asyncio

import pytest

from governance.audit import event
from governance.checkpoints import KIND, Checkpoints, anchor, anchor_forever
from governance.signing import Signer, verify
from rag.adapters.memory.audit import MemoryAuditLog
from rag.adapters.memory.objects import MemoryObjects
from rag.ids import Ids
from rag.models import AuditHead

IDS = Ids(b"0123456789abcdef")


@pytest.fixture
def objects() -> MemoryObjects:
    return MemoryObjects("s3://internal")


@pytest.fixture
def checkpoints(objects: MemoryObjects) -> Checkpoints:
    return Checkpoints(objects, "s3://internal/audit/", Signer.load("A" * 43))


async def grow(log: MemoryAuditLog, tenant: str = "acme") -> AuditHead:
    await log.append_audit([event("query.search", tenant=tenant, actor="", ids=IDS)])
    return (await log.audit_heads())[tenant]


async def test_a_checkpoint_can_be_verified_without_this_platform(checkpoints: Checkpoints) -> None:
    head = await grow(MemoryAuditLog())
    await checkpoints.write("acme", head)
    (listed,) = await checkpoints.listed("acme")
    assert listed.uri == f"s3://internal/audit/acme/000000000001-{head.link}.jws"
    stored = await checkpoints.objects.get(listed.uri)
    assert stored is not None
    payload = verify(stored.content.decode(), checkpoints.signer.jwks(), kind=KIND)
    assert payload == {"chain": "acme", "number": 1, "link": head.link}


async def test_a_checkpoint_is_written_once(checkpoints: Checkpoints, objects: MemoryObjects) -> None:
    head = await grow(MemoryAuditLog())
    await checkpoints.write("acme", head)
    (first,) = await checkpoints.listed("acme")
    before = await objects.head(first.uri)
    await checkpoints.write("acme", head)
    assert await objects.head(first.uri) == before


async def test_only_chains_that_grew_get_a_checkpoint(checkpoints: Checkpoints) -> None:
    log, written = MemoryAuditLog(), dict[str, AuditHead]()
    await grow(log, "acme")
    await grow(log, "globex")
    assert await anchor(await log.audit_heads(), written, checkpoints) == 2
    await grow(log, "acme")
    assert await anchor(await log.audit_heads(), written, checkpoints) == 1
    assert [each.head.number for each in await checkpoints.listed("acme")] == [1, 2]
    assert [each.head.number for each in await checkpoints.listed("globex")] == [1]


async def test_other_objects_and_other_tenants_are_not_listed(checkpoints: Checkpoints, objects: MemoryObjects) -> None:
    await checkpoints.write("acme-2", await grow(MemoryAuditLog()))
    await objects.put("s3://internal/audit/acme/notes.txt", b"x")
    assert await checkpoints.listed("acme") == []


async def test_the_chains_are_anchored_after_an_outage_and_when_the_process_ends(
    checkpoints: Checkpoints, objects: MemoryObjects
) -> None:
    log = MemoryAuditLog()
    await grow(log)
    objects.denied.add("s3://internal")
    task = asyncio.create_task(anchor_forever(log, checkpoints, 0.01))
    await asyncio.sleep(0.05)
    assert not objects._objects
    objects.denied.clear()
    for _ in range(500):
        if await checkpoints.listed("acme"):
            break
        await asyncio.sleep(0.01)
    assert len(objects._objects) == 1
    task.cancel()
    await asyncio.wait({task})
    later = asyncio.create_task(anchor_forever(log, checkpoints, 3600))
    await asyncio.sleep(0)
    await grow(log)
    later.cancel()
    await asyncio.wait({later})
    assert len(objects._objects) == 2
