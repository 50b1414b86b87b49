"""The group ``events``: many events over few documents, published to Kafka at once and drained by the stream lane in bounded memory."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import httpx

from evals import loading
from evals.figures import Aim, Figure
from evals.lane_workers import STACK, lane_workers
from evals.local_stack import temporary_stack
from evals.options import Options, Say
from evals.process_cpu import peak_memory
from evals.searching import caller
from rag.errors import Unavailable
from rag.ids import object_uri
from rag.ingest.change_events import ObjectChange, publish_changes
from rag.settings import load as load_settings
from rag.wiring import Services, services
from schemas.topics import CHANGED

FOLDER = "backlog"
AT_ONCE = 5_000  # events that are published and acknowledged together
CHECKED = 50  # documents that are searched for at the end
STANDSTILL = 180.0
MEGABYTE = 2**20
ENVIRONMENT = {"EMBEDDER": "hash"}


async def backlog(options: Options, say: Say) -> list[Figure]:
    """Publish ``options.events`` events over ``options.event_documents`` documents, then start a lane and watch its memory."""
    documents, events = options.event_documents, options.events
    async with temporary_stack(keep=options.keep, only=STACK, settings=ENVIRONMENT) as folder:
        settings = load_settings(folder).model_copy(update={"embedder": "hash"})
        async with services(settings) as opened:
            await opened.pipeline.prepare()
            await asyncio.to_thread(
                loading.write, [_text(each) for each in range(documents)], loading.inbox(opened) / FOLDER
            )
            say(f"publishing {events:,} events over {documents:,} documents")
            await _publish(events, documents, opened, say)
            began = time.perf_counter()
            async with lane_workers(1, folder, opened, ENVIRONMENT) as lanes:
                (lane,) = lanes.values()
                async with peak_memory(lane) as peak:
                    drained = await _drain(opened, say)
                    await loading.until_live(documents, opened)
                seconds = time.perf_counter() - began
        async with caller(settings) as client:
            missing = [
                each for each in range(0, documents, max(1, documents // CHECKED)) if not await _is_found(each, client)
            ]
    what = f"{events:,} events over {documents:,} documents"
    return [
        Figure(f"memory of the lane, {what}", peak.shared_once / MEGABYTE, "MB", Aim("<=", 600), drained,
               "the most that was seen of the lane with its parser processes; pages that they share count once. Counted for each "
               f"process: {peak.tree / MEGABYTE:.0f} MB; without the parser processes: {peak.alone / MEGABYTE:.0f} MB"),
        Figure("events drained a second", drained / seconds, "/s", None, drained, f"{seconds:.0f} s, with the first indexing"),
        Figure("documents of the drained events not found", len(missing), "", Aim("==", 0), CHECKED, is_required=True),
    ]  # fmt: skip


async def _publish(events: int, documents: int, opened: Services, say: Say) -> None:
    source = opened.sources.named(loading.SOURCE)
    uris = [object_uri(source.base_uri, f"{FOLDER}/{number}.md") for number in range(documents)]
    for first in range(0, events, AT_ONCE):
        now = datetime.now(UTC)
        chosen = [uris[number % documents] for number in range(first, min(events, first + AT_ONCE))]
        changes = [ObjectChange(uri, now, "notification") for uri in chosen]
        await publish_changes(changes, source, opened.ids, opened.events)
        if first and first % (50 * AT_ONCE) == 0:
            say(f"published {first:,} events")


async def _drain(opened: Services, say: Say) -> int:
    """Wait until the lane has taken every event. Return their number. Raises Unavailable at a standstill."""
    last, progressed, said = -1, time.monotonic(), time.monotonic()
    while True:
        state = await opened.events.describe(CHANGED)
        positions = await opened.ledger.positions(opened.spec.index_id, CHANGED, state.epoch)
        taken = sum(max(0, positions.get(number, low) - low) for number, (low, _) in state.bounds.items())
        waiting = sum(end - max(low, positions.get(number, low)) for number, (low, end) in state.bounds.items())
        if not waiting:
            return taken
        if taken > last:
            last, progressed = taken, time.monotonic()
        if time.monotonic() - said > 20:
            said = time.monotonic()
            say(f"drained {taken:,}, {waiting:,} events wait")
        if time.monotonic() - progressed > STANDSTILL:
            raise Unavailable(f"the lane took no event for {STANDSTILL:.0f} s; {waiting:,} events wait: read its log")
        await asyncio.sleep(0.5)


async def _is_found(number: int, client: httpx.AsyncClient) -> bool:
    response = await client.post("/v1/search", json={"query": _word(number), "top_k": 3})
    return any(_word(number) in hit["text"] for hit in response.raise_for_status().json()["hits"])


def _text(number: int) -> str:
    return f"# Record {number}\n\nThe word of this record is {_word(number)}.\n"


def _word(number: int) -> str:
    return f"record{number:06}word"
