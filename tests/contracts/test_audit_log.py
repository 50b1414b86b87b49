"""One behaviour for every audit log, and every way to tamper with one: in memory and, under the triggers, on PostgreSQL."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import psycopg
import pytest

from governance.audit import event
from governance.audit_verification import Verified, verify_log
from governance.checkpoints import Checkpoints, anchor
from governance.signing import Signer
from rag.adapters.ledger import open_ledger
from rag.adapters.memory.audit import MemoryAuditLog
from rag.adapters.memory.objects import MemoryObjects
from rag.errors import Unavailable
from rag.ids import NO_LINK, Ids, link
from rag.models import AuditEntry, AuditEvent, AuditHead, AuditQuery

IDS = Ids(b"0123456789abcdef")
ALICE, BOB = IDS.caller_id("acme", "alice"), IDS.caller_id("acme", "bob")
DOCUMENT = "document:5a1c2f00-0000-4000-8000-000000000001"


class Tampering(Protocol):
    """Changes of one chain by somebody who owns the database."""

    async def read(self, tenant: str) -> list[AuditEntry]: ...

    async def replace(self, tenant: str, entries: list[AuditEntry], head: AuditHead | None) -> None:
        """Put other entries and another head (None: the last entry's) in place of the chain."""


def _last(entries: list[AuditEntry]) -> AuditHead:
    return AuditHead(entries[-1].number, entries[-1].link) if entries else AuditHead(0, NO_LINK)


class MemoryTampering:
    def __init__(self, log: MemoryAuditLog) -> None:
        self._log = log

    async def read(self, tenant: str) -> list[AuditEntry]:
        return list(self._log.chains[tenant])

    async def replace(self, tenant: str, entries: list[AuditEntry], head: AuditHead | None) -> None:
        self._log.chains[tenant] = entries
        self._log.heads[tenant] = head or _last(entries)


class PostgresTampering:
    """Direct statements, by a superuser, with the triggers disabled."""

    def __init__(self, url: str, log: Any) -> None:
        self._url, self._log = url, log

    async def read(self, tenant: str) -> list[AuditEntry]:
        found: list[AuditEntry] = await self._log.audit_entries(tenant, AuditQuery())
        return found

    async def replace(self, tenant: str, entries: list[AuditEntry], head: AuditHead | None) -> None:
        last = head or _last(entries)
        async with await psycopg.AsyncConnection.connect(self._url) as db:
            await db.execute("set local session_replication_role = replica")  # no trigger fires
            await db.execute("delete from audit_entries where tenant = %s", (tenant,))
            for entry in entries:
                made = entry.event
                await db.execute(
                    """
                    insert into audit_entries (tenant, number, previous, link, event_id, at, actor, action, objects, outcome, reason,
                        details, seal)
                    values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, '{}', %s)
                    """,
                    (tenant, entry.number, entry.previous, entry.link, made.event_id, made.at, made.actor, made.action,
                     list(made.objects), made.outcome, made.reason, made.seal),
                )  # fmt: skip
            await db.execute(
                "update audit_heads set number = %s, link = %s where tenant = %s", (last.number, last.link, tenant)
            )


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.heavy)])
async def opened(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Any, Tampering]]:
    if request.param == "memory":
        memory = MemoryAuditLog()
        yield memory, MemoryTampering(memory)
        return
    url = request.getfixturevalue("database_url")
    async with open_ledger(url) as ledger:
        yield ledger, PostgresTampering(url, ledger)


@pytest.fixture
def log(opened: tuple[Any, Tampering]) -> Any:
    return opened[0]


@pytest.fixture
def tampering(opened: tuple[Any, Tampering]) -> Tampering:
    return opened[1]


@pytest.fixture
def tenant() -> str:
    """A chain of its own for every test: they share a database."""
    return uuid.uuid4().hex


@pytest.fixture
def checkpoints() -> Checkpoints:
    return Checkpoints(MemoryObjects("s3://internal"), "s3://internal/audit", Signer.load("A" * 43))


def made(tenant: str, action: str = "query.search", **values: Any) -> AuditEvent:
    return event(action, tenant=tenant, ids=IDS, **({"actor": ALICE} | values))


async def filled(log: Any, tenant: str, count: int = 8) -> None:
    for _ in range(count):
        await log.append_audit([made(tenant, objects=[DOCUMENT])])


async def verified(log: Any, tenant: str, checkpoints: Checkpoints) -> Verified:
    return await verify_log(tenant, log=log, checkpoints=checkpoints, ids=IDS)


async def anchored(log: Any, tenant: str, checkpoints: Checkpoints) -> None:
    heads = await log.audit_heads()
    await anchor({tenant: heads[tenant]}, {}, checkpoints)


# -- the port


async def test_entries_are_numbered_and_linked_in_the_order_of_their_events(log: Any, tenant: str) -> None:
    events = [made(tenant, objects=[DOCUMENT], details={"route": "GET:/v1"}), made(tenant, actor=BOB), made(tenant)]
    await log.append_audit(events[:1])
    await log.append_audit(events[1:])
    entries = await log.audit_entries(tenant, AuditQuery())
    assert [entry.event for entry in entries] == events
    assert [entry.number for entry in entries] == [1, 2, 3]
    assert [entry.previous for entry in entries] == [NO_LINK, entries[0].link, entries[1].link]
    assert [entry.link for entry in entries] == [link(entry.previous, entry.event.fields()) for entry in entries]
    assert (await log.audit_heads())[tenant] == AuditHead(3, entries[2].link)


async def test_an_event_that_is_appended_again_has_one_entry(log: Any, tenant: str) -> None:
    first, second = made(tenant), made(tenant)
    await log.append_audit([first])
    await log.append_audit([first, second, second])
    assert [entry.event for entry in await log.audit_entries(tenant, AuditQuery())] == [first, second]
    assert (await log.audit_heads())[tenant].number == 2


async def test_each_tenant_has_a_chain_of_its_own(log: Any, tenant: str) -> None:
    other = uuid.uuid4().hex
    await log.append_audit([made(tenant), made(other), made(tenant)])
    assert [entry.number for entry in await log.audit_entries(tenant, AuditQuery())] == [1, 2]
    assert [entry.event.tenant for entry in await log.audit_entries(other, AuditQuery())] == [other]


async def test_writers_that_append_at_once_make_one_chain(log: Any, tenant: str, checkpoints: Checkpoints) -> None:
    other = uuid.uuid4().hex
    batches = [[made(tenant), made(other)] if n % 2 else [made(other), made(tenant)] for n in range(12)]
    await asyncio.gather(*(log.append_audit(batch) for batch in batches))
    for each in (tenant, other):
        found = await verified(log, each, checkpoints)
        assert (found.entries, found.findings) == (12, ())


async def test_a_search_finds_by_each_field(log: Any, tenant: str) -> None:
    now = datetime.now(UTC)
    events = [
        made(tenant, objects=[DOCUMENT, "source:s3"]),
        made(tenant, "document.erase", actor=BOB, objects=[DOCUMENT], outcome="started"),
        made(tenant, "request.deny", outcome="denied", reason="missing_scope"),
    ]
    events = [replace(each, at=now + timedelta(hours=n)) for n, each in enumerate(events)]
    await log.append_audit(events)

    async def found(**wanted: Any) -> list[int]:
        return [entry.number for entry in await log.audit_entries(tenant, AuditQuery(**wanted))]

    assert await found() == [1, 2, 3]
    assert await found(actor=BOB) == [2]
    assert await found(action="document.erase") == await found(action="document") == [2]
    assert await found(action="doc") == []
    assert await found(object=DOCUMENT) == [1, 2]
    assert await found(object="source:s3") == [1]
    assert await found(outcome="denied") == [3]
    assert await found(since=now + timedelta(hours=1)) == [2, 3]
    assert await found(until=now + timedelta(hours=1)) == [1]
    assert await found(object=DOCUMENT, actor=ALICE) == [1]


async def test_pages_follow_each_other_in_both_directions(log: Any, tenant: str) -> None:
    await filled(log, tenant, 5)

    async def numbers(**page: Any) -> list[int]:
        return [entry.number for entry in await log.audit_entries(tenant, AuditQuery(), **page)]

    assert await numbers(limit=2) == [1, 2]
    assert await numbers(after=2, limit=2) == [3, 4]
    assert await numbers(newest_first=True, limit=2) == [5, 4]
    assert await numbers(newest_first=True, after=4, limit=2) == [3, 2]


# -- tampering


async def test_an_untouched_log_is_intact_and_anchored_up_to_its_newest_checkpoint(
    log: Any, tenant: str, checkpoints: Checkpoints
) -> None:
    await filled(log, tenant, 3)
    await anchored(log, tenant, checkpoints)
    await filled(log, tenant, 2)
    found = await verified(log, tenant, checkpoints)
    assert (found.entries, found.anchored, found.checkpoints, found.findings) == (5, 3, 1, ())
    assert found.anchored_at is not None


def _edited(entry: AuditEntry, **changes: Any) -> AuditEntry:
    return replace(entry, event=replace(entry.event, **changes))


def _linked(entries: list[AuditEntry]) -> list[AuditEntry]:
    """Number and link the entries anew, as somebody would who covers the tracks."""
    chain: list[AuditEntry] = []
    for number, entry in enumerate(entries, 1):
        previous = chain[-1].link if chain else NO_LINK
        chain.append(AuditEntry(number, previous, link(previous, entry.event.fields()), entry.event))
    return chain


def _other_actor(chain: list[AuditEntry]) -> list[AuditEntry]:
    return [*chain[:4], _edited(chain[4], actor=BOB), *chain[5:]]


def _swapped(chain: list[AuditEntry]) -> list[AuditEntry]:
    fifth, sixth = replace(chain[5], number=5), replace(chain[4], number=6)
    return [*chain[:4], fifth, sixth, *chain[6:]]


def _closed(chain: list[AuditEntry]) -> list[AuditEntry]:
    """Delete the fifth entry and close the gap in the numbers."""
    return [*chain[:4], *(replace(entry, number=entry.number - 1) for entry in chain[5:])]


Change = Callable[[list[AuditEntry]], list[AuditEntry]]
CHANGES: dict[str, tuple[Change, str, int]] = {
    "another actor": (_other_actor, "edited", 5),
    "another outcome": (lambda c: [*c[:4], _edited(c[4], outcome="failure"), *c[5:]], "edited", 5),
    "another reason": (lambda c: [*c[:4], _edited(c[4], reason="ticket-1"), *c[5:]], "edited", 5),
    "another action": (lambda c: [*c[:4], _edited(c[4], action="query.answer"), *c[5:]], "edited", 5),
    "another object": (lambda c: [*c[:4], _edited(c[4], objects=()), *c[5:]], "edited", 5),
    "another time": (lambda c: [*c[:4], _edited(c[4], at=c[4].event.at + timedelta(microseconds=1)), *c[5:]], "edited", 5),
    "another seal": (lambda c: [*c[:4], _edited(c[4], seal="0" * 32), *c[5:]], "edited", 5),
    "another link": (lambda c: [*c[:4], replace(c[4], link="0" * 64), *c[5:]], "edited", 5),
    "edited, with its own link made anew": (
        lambda c: [*c[:4], *_linked(_other_actor(c))[4:5], *c[5:]], "unlinked", 5,
    ),
    "edited, with all links made anew": (lambda c: _linked(_other_actor(c)), "forged", 5),
    "deleted": (lambda c: [*c[:4], *c[5:]], "missing", 5),
    "several deleted": (lambda c: [*c[:2], *c[5:]], "missing", 3),
    "the first deleted": (lambda c: c[1:], "missing", 1),
    "deleted, and the numbers closed": (_closed, "unlinked", 5),
    "put in another order": (_swapped, "unlinked", 5),
    "copied to the end": (lambda c: [*c, replace(c[1], number=9, event=replace(c[1].event, event_id=str(uuid.uuid4())))], "edited", 9),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_is_found_with_the_number_of_its_entry(
    log: Any, tampering: Tampering, tenant: str, checkpoints: Checkpoints, change: str
) -> None:
    """No checkpoint exists: the chain alone shows these."""
    apply, kind, number = CHANGES[change]
    await filled(log, tenant)
    await tampering.replace(tenant, apply(await tampering.read(tenant)), None)
    findings = (await verified(log, tenant, checkpoints)).findings
    assert [each for each in findings if each.kind == kind and each.first <= number <= each.last], findings


async def test_entries_cut_off_are_found_by_the_head(
    log: Any, tampering: Tampering, tenant: str, checkpoints: Checkpoints
) -> None:
    await filled(log, tenant)
    head = (await log.audit_heads())[tenant]
    await tampering.replace(tenant, (await tampering.read(tenant))[:6], head)
    (finding,) = (await verified(log, tenant, checkpoints)).findings
    assert (finding.kind, finding.first, finding.last) == ("truncated", 7, 8)


async def test_entries_cut_off_with_their_head_are_found_by_a_checkpoint(
    log: Any, tampering: Tampering, tenant: str, checkpoints: Checkpoints
) -> None:
    await filled(log, tenant)
    await anchored(log, tenant, checkpoints)
    await tampering.replace(tenant, (await tampering.read(tenant))[:6], None)
    (finding,) = (await verified(log, tenant, checkpoints)).findings
    assert (finding.kind, finding.first, finding.last) == ("truncated", 7, 8)


async def test_a_log_that_was_emptied_is_found_by_a_checkpoint(
    log: Any, tampering: Tampering, tenant: str, checkpoints: Checkpoints
) -> None:
    await filled(log, tenant)
    await anchored(log, tenant, checkpoints)
    await tampering.replace(tenant, [], None)
    (finding,) = (await verified(log, tenant, checkpoints)).findings
    assert (finding.kind, finding.first, finding.last) == ("truncated", 1, 8)


REWRITTEN: dict[str, Change] = {
    "deleted": lambda c: _linked([*c[:4], *c[5:]]),
    "put in another order": lambda c: _linked([*c[:4], c[5], c[4], *c[6:]]),
}


@pytest.mark.parametrize("change", REWRITTEN)
async def test_a_chain_that_was_made_anew_is_found_between_two_checkpoints(
    log: Any, tampering: Tampering, tenant: str, checkpoints: Checkpoints, change: str
) -> None:
    """Every seal and every link is right then: only the checkpoints outside of the database show it."""
    await filled(log, tenant, 3)
    await anchored(log, tenant, checkpoints)
    await filled(log, tenant, 4)
    await anchored(log, tenant, checkpoints)
    await filled(log, tenant, 2)
    await tampering.replace(tenant, REWRITTEN[change](await tampering.read(tenant)), None)
    (finding,) = (await verified(log, tenant, checkpoints)).findings
    assert (finding.kind, finding.first, finding.last) == ("rewritten", 4, 7)


async def test_a_checkpoint_after_a_rewriting_does_not_hide_it(
    log: Any, tampering: Tampering, tenant: str, checkpoints: Checkpoints
) -> None:
    await filled(log, tenant)
    await anchored(log, tenant, checkpoints)
    await tampering.replace(tenant, _linked((await tampering.read(tenant))[1:]), None)
    await filled(log, tenant, 1)
    await anchored(log, tenant, checkpoints)
    findings = (await verified(log, tenant, checkpoints)).findings
    assert [(each.kind, each.last) for each in findings] == [("rewritten", 8)]


async def test_a_long_log_is_verified_from_a_signed_checkpoint_on(
    log: Any, tampering: Tampering, tenant: str, checkpoints: Checkpoints
) -> None:
    for count in (3, 2, 3):
        await filled(log, tenant, count)
        await anchored(log, tenant, checkpoints)
    whole = await tampering.read(tenant)

    async def found(after: int) -> tuple[int, list[tuple[str, int]]]:
        verified = await verify_log(tenant, log=log, checkpoints=checkpoints, ids=IDS, after=after)
        return verified.first, [(each.kind, each.first) for each in verified.findings]

    assert [await found(after) for after in (2, 3, 4, 5, 99)] == [(1, []), (4, []), (4, []), (6, []), (9, [])]
    await tampering.replace(tenant, [*whole[:3], _edited(whole[3], actor=BOB), *whole[4:]], None)
    assert await found(4) == (4, [("edited", 4)])
    assert await found(5) == (6, [])
    await tampering.replace(tenant, _linked([*whole[:3], whole[4], whole[3], *whole[5:]]), None)
    assert (await found(5))[1][0] == ("unlinked", 5)
    await tampering.replace(tenant, whole[:6], None)
    assert await found(99) == (6, [("truncated", 7)])


async def test_a_checkpoint_that_nobody_signed_is_reported_and_proves_nothing(
    log: Any, tenant: str, checkpoints: Checkpoints
) -> None:
    await filled(log, tenant, 3)
    strange = replace(checkpoints, signer=Signer.load(""))
    await strange.write(tenant, AuditHead(9, "ab" * 32))
    await anchored(log, tenant, strange)
    found = await verified(log, tenant, checkpoints)
    assert sorted((each.kind, each.first) for each in found.findings) == [
        ("foreign_checkpoint", 3),
        ("foreign_checkpoint", 9),
    ]
    assert found.anchored == 0


async def test_a_checkpoint_moved_to_another_name_is_reported(log: Any, tenant: str, checkpoints: Checkpoints) -> None:
    await filled(log, tenant, 2)
    await anchored(log, tenant, checkpoints)
    (checkpoint,) = await checkpoints.listed(tenant)
    stored = await checkpoints.objects.get(checkpoint.uri)
    assert stored is not None
    await checkpoints.objects.put(checkpoint.uri.replace("000002-", "000001-"), stored.content)
    found = await verified(log, tenant, checkpoints)
    assert [(each.kind, each.first) for each in found.findings] == [("foreign_checkpoint", 1)]


async def test_a_head_that_was_moved_back_is_found_and_stops_the_next_writer(
    log: Any, tampering: Tampering, tenant: str, checkpoints: Checkpoints
) -> None:
    await filled(log, tenant)
    chain = await tampering.read(tenant)
    await tampering.replace(tenant, chain, AuditHead(5, chain[4].link))
    (finding,) = (await verified(log, tenant, checkpoints)).findings
    assert (finding.kind, finding.first, finding.last) == ("beyond_head", 6, 8)
    with pytest.raises(Unavailable, match="beyond its head"):
        await log.append_audit([made(tenant)])


# -- PostgreSQL alone


@pytest.mark.heavy
@pytest.mark.parametrize(
    "statement",
    [
        "update audit_entries set actor = ''",
        "delete from audit_entries",
        "truncate audit_entries",
        "update audit_heads set number = 0",
        "update audit_heads set link = ''",
        "delete from audit_heads",
        "truncate audit_heads",
    ],
)
async def test_the_database_refuses_to_change_the_log(database_url: str, tenant: str, statement: str) -> None:
    async with open_ledger(database_url) as ledger:
        await filled(ledger, tenant, 1)
    async with await psycopg.AsyncConnection.connect(database_url) as db:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
            await db.execute(statement)
