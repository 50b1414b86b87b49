"""S3-compatible storage by the bucket notifications that MinIO writes to a Kafka topic. Their records are those of S3.

Offsets are committed when the changes are announced. A message that Kafka purged is no loss: the reconciling listing finds its change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, Field

from consumers.s3 import decode
from rag.adapters.kafka import CLIENT
from rag.adapters.kafka.topics import GroupReader, RawMessage
from rag.errors import Rejected, Unavailable
from rag.ingest.change_events import ObjectChange
from rag.settings import SourceSettings
from rag.sources import Source
from rag.wiring import Services
from schemas.clients import client_options

PAGE = 500  # messages of one turn: bounds memory and the work that a crash repeats
PAGE_BYTES = 16 * 2**20
WAIT_SECONDS = 1.0  # for the first message of a turn


class S3KafkaOptions(BaseModel, extra="forbid", hide_input_in_errors=True):
    """The ``options`` of a source of the kind ``s3_kafka``."""

    topic: str = Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")
    group: str = Field("", pattern=r"^[A-Za-z0-9._-]{0,200}$")  # the consumer group; tidemark-<source> when empty
    bootstrap: str = ""  # of another cluster than KAFKA_BOOTSTRAP
    client_config: Path | None = None  # TLS and credentials of that cluster, as KAFKA_CLIENT_CONFIG


def streams(chosen: SourceSettings, opened: Services) -> Mapping[str, S3KafkaStream]:
    """Make the stream of the topic. Raises pydantic's ValidationError for wrong options."""
    options, settings = S3KafkaOptions.model_validate(chosen.options), opened.settings
    client = client_options(options.client_config if options.bootstrap else settings.kafka_client_config)
    reader = GroupReader(
        {"bootstrap.servers": options.bootstrap or settings.kafka_bootstrap, **CLIENT, **client.kafka},
        options.group or f"tidemark-{chosen.name}",
        [options.topic],
        remedy="none is needed: the reconciling listing finds the changes",
    )
    return {chosen.name: S3KafkaStream(chosen.source(), reader)}


class S3KafkaStream:
    """The stream of a consumer group. Messages that were not committed are returned again."""

    def __init__(self, source: Source, reader: GroupReader) -> None:
        self.source = source
        self._reader = reader
        self._messages: list[RawMessage] = []  # polled and not committed

    async def receive(self) -> Sequence[RawMessage]:
        try:
            if self._messages and not await self._reader.holds():
                self._messages = []  # another member has them now
            if not self._messages:
                self._messages = await self._reader.poll(PAGE, PAGE_BYTES, WAIT_SECONDS)
        except asyncio.CancelledError:
            await asyncio.shield(self.close())
            raise
        return self._messages

    def decode(self, message: RawMessage) -> Sequence[ObjectChange]:
        try:
            return decode((message.value or b"").decode(), self.source)
        except (UnicodeDecodeError, RecursionError) as error:
            raise Rejected(f"not an S3 event message ({type(error).__name__})", reason="undecodable") from error

    async def handle(self, changes: Sequence[ObjectChange]) -> Sequence[ObjectChange]:
        return changes

    async def commit(self, messages: Sequence[RawMessage]) -> None:
        """Commit the offsets. When that fails, leave the group, so that the messages come again."""
        try:
            await self._reader.commit(messages)
        except Unavailable:
            await self.close()
            raise
        self._messages = []

    async def close(self) -> None:
        """Leave the group. Messages that are not committed come again."""
        self._messages = []
        await self._reader.close()
