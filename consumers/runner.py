"""The loop of every source. The order of delivery is the order of the lines in ``step``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from consumers.announcements import Announcements
from consumers.health import Loop
from governance.admission import announceable
from rag.errors import Rejected, Unavailable
from rag.ids import Ids
from rag.ingest.change_events import ObjectChange, publish_changes
from rag.ports import EventLog, Suppressions
from rag.sources import Source
from rag.telemetry import SOURCE_ERRORS, logger, span

_log = logger(__name__)


class Stream(Protocol):
    """A source, as the loop drives it."""

    source: Source

    async def receive(self) -> Sequence[Any]:
        """Wait a while for the next messages. Uncommitted messages are received again."""

    def decode(self, message: Any) -> Sequence[ObjectChange]:
        """Return the changes that a message names. Raises Rejected for a message of another kind."""

    async def handle(self, changes: Sequence[ObjectChange]) -> Sequence[ObjectChange]:
        """Do the work that must precede publishing, such as writing row objects. Return the changes to publish."""

    async def commit(self, messages: Sequence[Any]) -> None:
        """Acknowledge the messages, so that they are not received again."""


async def step(
    stream: Stream,
    ids: Ids,
    log: EventLog,
    announcements: Announcements | None = None,
    suppressions: Suppressions | None = None,
) -> int:
    """Run one turn and return the number of published events. A crash at any line repeats messages and loses none.

    Nothing is written or published for a document of ``suppressions``.
    """
    messages = await stream.receive()
    if not messages:
        return 0
    with span("source.handle", source=stream.source.name, messages=len(messages)):
        changes = [change for message in messages for change in _decode(stream, message)]  # 1 decode
        if suppressions:  # before an object of an erased row or page is written again
            changes = await announceable(changes, stream.source, ids, suppressions)
        handled = await stream.handle(changes)  # 2 handle
        await publish_changes(handled, stream.source, ids, log)  # 3 publish, 4 flush: all are acknowledged on return
        if announcements:
            announcements.note(change.uri for change in handled)
        await stream.commit(messages)  # 5 commit
    return len(handled)


async def run(
    stream: Stream,
    ids: Ids,
    log: EventLog,
    loop: Loop,
    announcements: Announcements | None = None,
    suppressions: Suppressions | None = None,
) -> None:
    """Run until cancelled, and record each turn in ``loop``.

    Back off on Unavailable. Log any other exception as a bug and back off too, so that one source cannot stop the others.
    """
    while True:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(Exception), wait=wait_random_exponential(multiplier=0.5, max=30)
        ):
            with attempt:
                try:
                    await step(stream, ids, log, announcements, suppressions)
                    loop.succeed()
                except Unavailable as error:
                    loop.fail(str(error))
                    number = attempt.retry_state.attempt_number
                    _log.warning("source.waits", source=loop.name, why=str(error), attempt=number)
                    raise
                except Exception as error:
                    loop.fail(f"bug: {type(error).__name__}, see source.bug in the log")
                    SOURCE_ERRORS.labels(stream.source.name, "bug").inc()
                    _log.error("source.bug", source=loop.name, error=type(error).__name__, exc_info=True)
                    raise
        await asyncio.sleep(0)


def _decode(stream: Stream, message: Any) -> Sequence[ObjectChange]:
    """Count and skip a message that cannot be decoded. The next listing finds the change that it may have announced."""
    try:
        return stream.decode(message)
    except Rejected as error:
        SOURCE_ERRORS.labels(stream.source.name, error.reason).inc()
        _log.warning("source.undecodable", source=stream.source.name, reason=error.reason)
        return ()
