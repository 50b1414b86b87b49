"""The loop of every source. The order of delivery is the order of the lines in ``step``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from rag.errors import Rejected, Unavailable
from rag.ids import Ids
from rag.ingest.announcements import Notice, publish
from rag.ports import EventLog
from rag.sources import Source
from rag.telemetry import SOURCE_ERRORS, SOURCE_UP, logger, span

_log = logger(__name__)


class Stream(Protocol):
    """What a source must say of itself."""

    source: Source

    async def receive(self) -> Sequence[Any]:
        """The next messages, waiting a while for them; empty when there are none. Uncommitted ones come again."""

    def decode(self, message: Any) -> Sequence[Notice]:
        """Raises Rejected for a message that is none of ours."""

    async def handle(self, notices: Sequence[Notice]) -> Sequence[Notice]:
        """What must be done before the world is told, such as writing row objects; returns what is to be told."""

    async def commit(self, messages: Sequence[Any]) -> None:
        """The messages need not come again."""


async def step(stream: Stream, ids: Ids, events: EventLog) -> int:
    """One turn; returns the number of events published. A crash anywhere repeats messages and loses none."""
    messages = await stream.receive()
    if not messages:
        return 0
    with span("source.handle", source=stream.source.name, messages=len(messages)):
        notices = [notice for message in messages for notice in _decode(stream, message)]  # 1 decode
        told = await stream.handle(notices)  # 2 handle
        await publish(told, stream.source, ids, events)  # 3 publish, 4 flush: it returns when all are acknowledged
        await stream.commit(messages)  # 5 commit
    return len(told)


async def run(stream: Stream, ids: Ids, events: EventLog) -> None:
    """Turn for ever. A dependency that fails is waited for; so is a bug, loudly: it must not stop the other sources."""
    name = stream.source.name
    while True:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(Exception), wait=wait_random_exponential(multiplier=0.5, max=30)
        ):
            with attempt:
                try:
                    await step(stream, ids, events)
                    SOURCE_UP.labels(name).set(1)
                except Unavailable as error:
                    SOURCE_UP.labels(name).set(0)
                    _log.warning(
                        "source.waits", source=name, why=str(error), attempt=attempt.retry_state.attempt_number
                    )
                    raise
                except Exception as error:
                    SOURCE_UP.labels(name).set(0)
                    SOURCE_ERRORS.labels(name, "bug").inc()
                    _log.error("source.bug", source=name, error=type(error).__name__, exc_info=True)
                    raise
        await asyncio.sleep(0)


def _decode(stream: Stream, message: Any) -> Sequence[Notice]:
    """A message that cannot be understood is counted and passed over: the next listing finds what it may have meant."""
    try:
        return stream.decode(message)
    except Rejected as error:
        SOURCE_ERRORS.labels(stream.source.name, error.reason).inc()
        _log.warning("source.undecodable", source=stream.source.name, reason=error.reason)
        return ()
