"""The third walk in memory: a request hides at once, every store is emptied and verified, and nothing comes back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from consumers.erasures import eraser, turn
from consumers.runner import step
from governance.certificates import verified
from governance.erasing import Eraser
from governance.signing import Signer
from rag.adapters.dagster import DagsterReports
from rag.adapters.memory.models import HashEmbedder, WordBm25
from rag.errors import Unavailable
from rag.ids import point_id
from rag.ingest.artifacts import CONTAINER
from rag.ingest.change_events import ObjectChange
from rag.models import DocumentStatus, Embedding, ErasureState, OffsetRange, Point
from rag.ports import OutboxEvent
from schemas.topics import CHANGED, ERASURES_COMPLETED, ERASURES_REQUESTED
from tests.fakes.gateway import SETTINGS, Gateway, gateway
from tests.fakes.world import IDS, SOURCE, SPEC, World

BASE, ERASE = "s3://docs/", "rag:query rag:erase"
CANARY = "zqxcanary"
GONE, ABOUT, MENTION, OTHER = "hr/gone.md", "about.md", "mention.md", "other.md"
PERSON = "Pat.Doe@Example.com"


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def door(world: World) -> AsyncIterator[Gateway]:
    await world.put(GONE, f"# Gone\n\nThe {CANARY} zeppelin has ropes.\n")
    await world.put(ABOUT, "# Pilot\n\nA pilot ties ropes to the zeppelin.\n", subjects="pat.doe@example.com")
    await world.put(MENTION, "# Ropes\n\nAsk pat.doe@example.com or Pat Doe for ropes of the zeppelin.\n")
    await world.put(OTHER, "# Galley\n\nThe zeppelin has soup and ropes.\n")
    await world.run_lane()
    async with gateway(world) as opened:
        yield opened


class Office:
    """The consumers' worker over the world, with a clock of its own."""

    def __init__(self, world: World, **settings: Any) -> None:
        self.world, self.now, self.signer = world, datetime.now(UTC), Signer.load("")
        pipeline = world.pipeline
        self.services: Any = SimpleNamespace(
            settings=SETTINGS.model_copy(update=settings), spec=SPEC, ids=IDS, sources=world.sources, objects=world.objects,
            events=world.log, ledger=world.ledger, vectors=world.vectors, cache=world.cache, pipeline=pipeline,
        )  # fmt: skip
        self.worker: Eraser = eraser(self.services, self.signer)
        self.dagster: DagsterReports | None = None

    async def turn(self) -> int:
        return await turn(self.worker, self.services, clock=lambda: self.now, dagster=self.dagster)

    async def until_certified(self, erasure_id: str) -> dict[str, Any]:
        """Let the worker take steps, in the time that it wants, and return the claims of the certificate."""
        for _ in range(50):
            erasure = await self.world.ledger.erasure("acme", erasure_id)
            assert erasure
            if erasure.state is ErasureState.CERTIFIED:
                return verified(erasure.certificate, self.signer.jwks())
            assert erasure.next_at
            self.now = max(self.now, erasure.next_at)
            await self.turn()
        raise AssertionError(f"not certified: {erasure.history}")


async def ask(door: Gateway, expected: int = 202, **body: Any) -> dict[str, Any]:
    answer = await door.call("alice", "POST", "/v1/erasures", ERASE, json=body)
    assert answer.status_code == expected, answer.text
    found: dict[str, Any] = answer.json()
    return found


def document_id(key: str) -> str:
    return IDS.document_id("acme", "s3", BASE + key)


async def found(door: Gateway) -> set[str]:
    """Return the keys that searches and lists show. Both show the same."""
    hits = {hit["uri"].removeprefix(BASE) for hit in await door.search("alice", "zeppelin ropes pilot soup", top_k=50)}
    listed = (await door.get("alice", "/v1/documents"))["documents"]
    assert hits == {each["uri"].removeprefix(BASE) for each in listed}
    return hits


async def contents(world: World) -> str:
    """Return all that the stores hold, as one text."""
    objects = [stored.content for store in (world.objects, world.artifacts) for stored in store._objects.values()]
    held = [repr(world.vectors._points), repr(world.cache._entries), repr(vars(world.ledger))]
    return b"".join(objects).decode("utf-8", "replace") + "".join(held) + " ".join(world.objects._objects)


async def replay(world: World) -> None:
    """Run the lane over every event that the log still holds, as after a loss of all positions."""
    state = await world.log.describe(CHANGED)
    for partition, (low, end) in state.bounds.items():
        await world.lane.run(OffsetRange(CHANGED, state.epoch, partition, low, end))


async def test_an_erased_document_is_gone_at_once_and_from_every_store(world: World, door: Gateway) -> None:
    office = Office(world)
    assert CANARY in (await door.ask("alice", f"Which {CANARY} has ropes?"))["answer"]
    assert CANARY in await contents(world)
    erasure = await ask(door, document_id=document_id(GONE), reason="request 7")
    assert (erasure["state"], erasure["affected"]["documents"]) == ("requested", 1)
    assert await found(door) == {ABOUT, MENTION, OTHER}
    assert CANARY not in (await door.ask("alice", f"Which {CANARY} has ropes?"))["answer"]
    claims = await office.until_certified(erasure["erasure_id"])
    assert claims["documents"] == [document_id(GONE)]
    controls = {name: each["negative_control"] for name, each in claims["stores"].items()}
    assert controls == dict.fromkeys(
        ("source objects", "artifacts", "vector index", "ledger"), "3 of 3 controls found"
    ) | dict.fromkeys(("answer cache", "events"), "no control: see the claim")
    everything = await contents(world)
    assert CANARY not in everything
    assert "gone.md" not in everything, "the name of the file is personal data, too"
    status = (await door.call("alice", "GET", f"/v1/erasures/{erasure['erasure_id']}", ERASE)).json()
    assert status["state"] == "certified"
    signed = await door.call("alice", "GET", status["certificate_url"], ERASE)
    assert verified(signed.text, office.signer.jwks()) == claims
    (completed,) = await world.published(ERASURES_COMPLETED)
    assert (completed.erasure_id, completed.outcome) == (erasure["erasure_id"], "erased")
    assert [each.ids for each in await world.published(ERASURES_REQUESTED)] == [(document_id(GONE),)]


async def test_a_dry_run_lists_all_that_names_a_person_and_changes_nothing(world: World, door: Gateway) -> None:
    subject = {"kind": "email", "value": PERSON}
    dry = await ask(door, 200, subject=subject, dry_run=True)
    assert {each["uri"].removeprefix(BASE): each["because"] for each in dry["documents"]} == {
        ABOUT: "declared",
        MENTION: "mentioned",
    }
    assert (dry["affected"]["documents"], dry["affected"]["declared"], dry["affected"]["mentioned"]) == (2, 1, 1)
    assert await found(door) == {GONE, ABOUT, MENTION, OTHER}
    assert (await door.call("alice", "GET", "/v1/erasures", ERASE)).json()["erasures"] == []


async def test_an_erased_person_is_gone_and_refused_under_every_name(world: World, door: Gateway) -> None:
    erasure = await ask(door, subject={"kind": "email", "value": PERSON})
    assert await found(door) == {GONE, OTHER}
    claims = await Office(world).until_certified(erasure["erasure_id"])
    assert len(claims["subjects"]) == 1
    assert PERSON.casefold() not in repr(claims).casefold()
    assert "pat.doe" not in (await contents(world)).casefold()
    await world.put("new/name.md", "# New\n\nThe zeppelin again.\n", subjects=PERSON)
    await world.put("new/text.md", f"# New\n\nThe zeppelin again, ask <mailto:{PERSON.upper()}>.\n")
    await world.run_lane()
    assert await found(door) == {GONE, OTHER}
    for key in ("new/name.md", "new/text.md"):
        assert (await world.row(key)).status is DocumentStatus.SUPPRESSED


async def test_a_name_is_erased_only_as_confirmed(world: World, door: Gateway) -> None:
    subject = {"kind": "name", "value": "pat  DOE"}
    dry = await ask(door, 200, subject=subject, dry_run=True)
    assert [each["because"] for each in dry["documents"]] == ["probable"]
    await ask(door, 422, subject=subject)
    await ask(door, 409, subject=subject, documents=[document_id(OTHER)])
    assert await found(door) == {GONE, ABOUT, MENTION, OTHER}
    erasure = await ask(door, subject=subject, documents=[document_id(MENTION)])
    assert await found(door) == {GONE, ABOUT, OTHER}
    assert (await Office(world).until_certified(erasure["erasure_id"]))["documents"] == [document_id(MENTION)]


async def test_the_officer_excludes_a_document_which_stays(world: World, door: Gateway) -> None:
    erasure = await ask(door, subject={"kind": "email", "value": PERSON}, documents=[document_id(ABOUT)])
    assert erasure["affected"]["excluded"] == 1
    await Office(world).until_certified(erasure["erasure_id"])
    await replay(world)
    assert await found(door) == {GONE, MENTION, OTHER}
    await world.put(MENTION, "# Ropes\n\nAsk pat.doe@example.com for nine ropes of the zeppelin.\n")
    await world.put("copy.md", "# Ropes\n\nAsk pat.doe@example.com for nine ropes of the zeppelin.\n")
    await world.run_lane()
    assert await found(door) == {GONE, MENTION, OTHER}


async def test_a_document_that_declares_the_person_is_never_hidden_without_being_erased(
    world: World, door: Gateway
) -> None:
    body = {"subject": {"kind": "email", "value": PERSON}, "documents": [document_id(MENTION)]}
    answer = await door.call("alice", "POST", "/v1/erasures", ERASE, json=body)
    assert answer.status_code == 409
    assert document_id(ABOUT) in answer.text
    assert await found(door) == {GONE, ABOUT, MENTION, OTHER}


async def test_a_prefix_is_erased(world: World, door: Gateway) -> None:
    erasure = await ask(door, uri_prefix=BASE + "hr/")
    assert await found(door) == {ABOUT, MENTION, OTHER}
    await Office(world).until_certified(erasure["erasure_id"])
    assert CANARY not in await contents(world)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"document_id": document_id(GONE), "uri_prefix": BASE}, 422),
        ({"document_id": document_id("absent.md")}, 404),
        ({"uri_prefix": "s3://docs/none/"}, 404),
        ({"uri_prefix": "s3://"}, 422),
        ({"uri_prefix": "s"}, 422),
        ({"subject": {"kind": "email", "value": "nobody"}}, 422),
        ({"subject": {"kind": "phone", "value": "12"}}, 422),
        ({"subject": {"kind": "face", "value": "Pat"}}, 422),
        ({"document_id": document_id(GONE), "mode": "shrink"}, 422),
    ],
)
async def test_a_bad_request_erases_nothing(door: Gateway, body: dict[str, Any], status: int) -> None:
    await ask(door, status, **body)
    assert await found(door) == {GONE, ABOUT, MENTION, OTHER}


async def test_only_officers_erase_and_only_in_their_tenant(door: Gateway) -> None:
    body = {"document_id": document_id(GONE)}
    assert (await door.call("alice", "POST", "/v1/erasures", "rag:query rag:admin", json=body)).status_code == 403
    assert (await door.call("eve", "POST", "/v1/erasures", ERASE, json=body)).status_code == 404
    erasure = await ask(door, **body)
    path = f"/v1/erasures/{erasure['erasure_id']}"
    assert (await door.call("eve", "GET", path, ERASE)).status_code == 404
    assert (await door.call("eve", "GET", "/v1/erasures", ERASE)).json()["erasures"] == []
    assert (await door.call("alice", "GET", f"{path}/certificate", ERASE)).status_code == 404


# -- nothing comes back -------------------------------------------------------------------------------------------------


async def test_nothing_brings_it_back(world: World, door: Gateway) -> None:
    erasure = await ask(door, document_id=document_id(GONE))
    await Office(world).until_certified(erasure["erasure_id"])
    await replay(world)
    await world.backfill()
    await world.put(GONE, f"# Gone\n\nThe {CANARY} zeppelin is put again.\n")  # under its old name, with a late event
    await world.run_lane()
    assert await found(door) == {ABOUT, MENTION, OTHER}
    kept = {each.point_id for key in (ABOUT, MENTION, OTHER) for each in (await world.row(key)).chunks.values()}
    assert {point async for point, _ in world.vectors.scroll(SPEC.index_id)} == kept
    assert not [
        state async for state in world.artifacts.list(f"{CONTAINER}/{SPEC.index_id}") if document_id(GONE) in state.uri
    ]


async def test_nothing_is_written_or_published_about_a_suppressed_document(world: World, door: Gateway) -> None:
    await ask(door, document_id=document_id(GONE))

    class Notified:
        source = SOURCE

        async def receive(self) -> Sequence[str]:
            return [GONE, OTHER]

        def decode(self, message: str) -> Sequence[ObjectChange]:
            return [ObjectChange(BASE + message, datetime.now(UTC), "notification")]

        async def handle(self, changes: Sequence[ObjectChange]) -> Sequence[ObjectChange]:
            for change in changes:
                await world.objects.put(change.uri, b"read at its source again")
            return changes

        async def commit(self, messages: Sequence[str]) -> None: ...

    await world.objects.erase([BASE + GONE])
    assert await step(Notified(), IDS, world.log, suppressions=world.ledger) == 1
    assert await world.objects.kept([BASE + GONE, BASE + OTHER]) == {BASE + OTHER}


# -- a hostile world ----------------------------------------------------------------------------------------------------


def calls_of(world: World) -> list[tuple[Any, str]]:
    return [
        (world.objects, "erase"),
        (world.log, "publish"),
        (world.cache, "forget"),
        (world.ledger, "forget"),
        (world.artifacts, "delete"),
        (world.vectors, "delete"),
        (world.vectors, "purge"),
        (world.objects, "kept"),
        (world.ledger, "remembered"),
        (world.ledger, "progress"),
    ]


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("is_executed", [False, True])
async def test_a_failure_at_any_call_delays_the_certificate_and_loses_nothing(
    world: World, door: Gateway, number: int, is_executed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call fails once: before it does anything, or with its reply lost."""
    erasure = await ask(door, document_id=document_id(GONE))
    office, (port, name) = Office(world), calls_of(world)[number]
    real: Callable[..., Any] = getattr(port, name)
    failures = [Unavailable("it does not answer")]

    async def fails_once(*arguments: Any, **options: Any) -> Any:
        if not failures:
            return await real(*arguments, **options)
        if is_executed:
            await real(*arguments, **options)
        raise failures.pop()

    monkeypatch.setattr(port, name, fails_once)
    try:
        await office.turn()
    except Unavailable:
        assert name == "progress"
    claims = await office.until_certified(erasure["erasure_id"])
    assert not failures
    assert claims["documents"] == [document_id(GONE)]
    assert CANARY not in await contents(world)


async def test_a_late_write_is_found_and_erased_before_the_certificate(world: World, door: Gateway) -> None:
    """A request to the vector index that timed out is executed after the erasure."""
    embedder = HashEmbedder(64)
    erasure = await ask(door, document_id=document_id(GONE))
    office = Office(world)
    await office.turn()
    fields = {"document_id": document_id(GONE), "tenant": "acme", "principals": ["group:staff"], "text": CANARY}
    zombie = Point(point_id(), Embedding((await embedder.embed([CANARY]))[0], WordBm25().encode([CANARY])[0]), fields)
    await world.vectors.upsert(SPEC.index_id, [zombie])
    await office.until_certified(erasure["erasure_id"])
    assert CANARY not in await contents(world)
    history = [event.text for event in (await world.ledger.erasure("acme", erasure["erasure_id"])).history]  # type: ignore[union-attr]
    assert "late remains in vector index were erased; settling again" in history


async def test_a_read_only_source_keeps_its_object_and_the_certificate_says_so(world: World, door: Gateway) -> None:
    await world.put("again.md", "# Again\n\nThe zeppelin has ropes again.\n")
    erasure = await ask(door, document_id=document_id(GONE))
    claims = await Office(world, read_only_sources=("s3",)).until_certified(erasure["erasure_id"])
    kept = claims["stores"]["source objects"]
    assert kept["claim"].startswith("NOT erased: the objects of s3")
    assert kept["negative_control"] == "no control: see the claim"
    assert claims["stores"]["vector index"]["negative_control"].endswith("controls found")
    assert await world.objects.head(BASE + GONE) is not None
    await replay(world)
    assert await found(door) == {ABOUT, MENTION, OTHER, "again.md"}


async def test_a_check_that_sees_nothing_certifies_nothing(
    world: World, door: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control is not found, so the verification is void until the store is repaired."""
    erasure = await ask(door, document_id=document_id(GONE))
    office = Office(world)
    await office.turn()

    async def blind(*_: Any, **__: Any) -> AsyncIterator[tuple[str, str]]:
        for nothing in tuple[tuple[str, str], ...]():
            yield nothing

    with monkeypatch.context() as patch:
        patch.setattr(world.vectors, "scroll", blind)
        office.now += timedelta(minutes=5)
        await office.turn()
    known = await world.ledger.erasure("acme", erasure["erasure_id"])
    assert known
    assert known.state is ErasureState.VERIFYING
    assert "finds no document that was not erased" in known.history[-1].text
    await office.until_certified(erasure["erasure_id"])


async def test_the_last_verification_removes_what_came_back_after_the_certificate(world: World, door: Gateway) -> None:
    erasure = await ask(door, document_id=document_id(GONE))
    office = Office(world)
    await office.until_certified(erasure["erasure_id"])
    await world.artifacts.put(
        f"{CONTAINER}/{SPEC.index_id}/{document_id(GONE)[:2]}/{document_id(GONE)}/1-x/parsed.json", CANARY.encode()
    )
    certified = await world.ledger.erasure("acme", erasure["erasure_id"])
    assert certified
    assert certified.next_at
    office.now = certified.next_at
    await office.turn()
    assert CANARY not in await contents(world)
    office.now += timedelta(days=1)
    await office.turn()
    last = await world.ledger.erasure("acme", erasure["erasure_id"])
    assert last
    assert [event.text.rpartition(": ")[2] for event in last.history[-2:]] == [
        "late remains removed from artifacts", "nothing came back",
    ]  # fmt: skip
    assert last.next_at is None


async def test_dagster_shows_each_change_of_state_without_a_name(world: World, door: Gateway) -> None:
    shown: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        shown.append((request.url.path, request.content.decode()))
        return httpx.Response(500)  # which delays nothing

    office = Office(world)
    erasure = await ask(door, subject={"kind": "email", "value": PERSON})
    async with httpx.AsyncClient(base_url="http://dagster.test", transport=httpx.MockTransport(answer)) as client:
        office.dagster = DagsterReports(client)
        await office.until_certified(erasure["erasure_id"])
    assert {path for path, _ in shown} == {"/report_asset_materialization/erasures"}
    reported = [json.loads(body)["metadata"] for _, body in shown]
    assert [(each["state"], each["documents"]) for each in reported] == [("verifying", 2), ("certified", 2)]
    assert {each["erasure"] for each in reported} == {erasure["erasure_id"]}
    assert not [word for _, body in shown for word in (PERSON.lower(), ABOUT, MENTION) if word in body.lower()]


async def test_two_workers_take_one_step(world: World, door: Gateway) -> None:
    erasure = await ask(door, document_id=document_id(GONE))
    first, second = Office(world), Office(world)
    stale = await world.ledger.erasure("acme", erasure["erasure_id"])
    await first.turn()
    assert stale
    with pytest.raises(Exception, match="another worker"):
        await second.worker.step(stale, second.now)


def test_a_tombstone_in_the_outbox_is_published_as_one() -> None:
    assert OutboxEvent(CHANGED, "d", None).value is None


async def test_the_audit_log_tells_the_whole_erasure_without_a_name(world: World, door: Gateway) -> None:
    erasure = await ask(door, subject={"kind": "email", "value": PERSON}, documents=[document_id(ABOUT)])
    await Office(world).until_certified(erasure["erasure_id"])
    events = [entry.event for entry in world.ledger.chains["acme"]]
    told = [(e.action, e.outcome, e.actor) for e in events if e.action.startswith("erasure")]
    officer = IDS.caller_id("acme", "alice")
    assert told == [
        ("erasure.request", "started", officer), ("erasure.request", "success", officer), ("erasure.certify", "success", "system"),
    ]  # fmt: skip
    assert {f"document:{document_id(ABOUT)}"} < set(events[-1].objects)
    assert f"erasure:{erasure['erasure_id']}" in events[-1].objects
    assert "pat" not in str(events).lower().replace("path", "")
