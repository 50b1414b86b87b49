"""Change events of Debezium in Kafka topics, as JSON (with or without its schema) or Avro, one topic per table.

A row is written as an object and announced, as in ``consumers.snowflake``. Offsets are committed when the changes are announced and their
hashes are recorded, so that a crash repeats changes and loses none.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from consumers.debezium_values import Semantics, avro_semantics, connect_semantics, is_unsent, json_columns
from rag.adapters.kafka import CLIENT
from rag.adapters.kafka.topics import GroupReader, RawMessage
from rag.errors import Rejected, Unavailable
from rag.ids import row_hash
from rag.ingest.change_events import ObjectChange
from rag.ingest.tasks import windows
from rag.ingest.warehouse_rows import RowChange, object_change, record_hashes, row_uri, write_rows
from rag.ports import Cursors, ObjectStore, Row
from rag.settings import SourceSettings
from rag.sources import Source
from rag.tables import Table, plain_text, row_body, row_key, template_columns
from rag.telemetry import SOURCE_ERRORS, logger
from rag.wiring import Services
from schemas.clients import client_options
from schemas.codec import Malformed, RegistryUnavailable
from schemas.datums import DatumDecoder, is_registered
from schemas.registry import ConfluentRegistry

_log = logger(__name__)

PAGE = 500  # messages of one turn: bounds memory and the work that a crash repeats
PAGE_BYTES = 16 * 2**20
WAIT_SECONDS = 1.0  # for the first message of a turn


class DebeziumOptions(BaseModel, extra="forbid", hide_input_in_errors=True):
    """The ``options`` of a source of the kind ``debezium``."""

    topic_prefix: str = ""  # of the connector: the topic of a table is <topic_prefix>.<table>
    topics: dict[str, str] = {}  # table → topic, where that differs
    group: str = Field("", pattern=r"^[A-Za-z0-9._-]{0,200}$")  # the consumer group; tidemark-<source> when empty
    bootstrap: str = ""  # of another cluster than KAFKA_BOOTSTRAP
    client_config: Path | None = None  # TLS and credentials of that cluster and registry, as KAFKA_CLIENT_CONFIG
    schema_registry_url: str = ""  # of another registry than SCHEMA_REGISTRY_URL


def streams(chosen: SourceSettings, opened: Services) -> Mapping[str, DebeziumStream]:
    """Make the stream of the topics of all tables."""
    options, settings = DebeziumOptions.model_validate(chosen.options), opened.settings
    topics = table_topics(options, [each.mapped() for each in chosen.tables])
    client = client_options(options.client_config if options.bootstrap else settings.kafka_client_config)
    registry = ConfluentRegistry(options.schema_registry_url or settings.schema_registry_url, client.registry)
    reader = GroupReader(
        {"bootstrap.servers": options.bootstrap or settings.kafka_bootstrap, **CLIENT, **client.kafka},
        options.group or f"tidemark-{chosen.name}",
        list(topics),
    )
    stream = DebeziumStream(chosen.source(), topics, reader, DatumDecoder(registry), opened.objects, opened.ledger)
    return {chosen.name: stream}


def table_topics(options: DebeziumOptions, tables: Sequence[Table]) -> dict[str, Table]:
    """Return topic → table. Raises ValueError for a table without a topic, and for two tables of one topic."""
    if unknown := sorted(options.topics.keys() - {table.name for table in tables}):
        raise ValueError(f"topics names the table {unknown[0]!r}, which tables does not map: map it in SOURCES")
    topics: dict[str, Table] = {}
    for table in tables:
        topic = options.topics.get(table.name) or (options.topic_prefix and f"{options.topic_prefix}.{table.name}")
        if not topic or topic in topics:
            raise ValueError(f"table {table.name!r} has no topic of its own: set topic_prefix, or topics, in SOURCES")
        topics[topic] = table
    if not topics:
        raise ValueError("a source of the kind 'debezium' maps no table: add tables in SOURCES")
    return topics


@dataclass(frozen=True, slots=True)
class RowEvent:
    """The meaning of one message for its table: ``key`` is written or (``row`` None) deleted, and ``old`` is deleted as well.

    ``unsent`` names the columns whose value is unchanged and was not sent.
    """

    key: str = ""
    row: Row | None = None
    old: str | None = None
    unsent: tuple[str, ...] = ()
    is_truncate: bool = False


Found = dict[tuple[str, str], RowChange]
"""(table, key) → the last change of the row."""


class DebeziumStream:
    """The stream of a consumer group. Messages that were not committed are returned again."""

    def __init__(
        self,
        source: Source,
        topics: Mapping[str, Table],
        reader: GroupReader,
        decoder: DatumDecoder,
        objects: ObjectStore,
        cursors: Cursors,
    ) -> None:
        self.source = source
        self._topics = topics
        self._reader = reader
        self._decoder = decoder
        self._objects = objects
        self._cursors = cursors
        self._messages: list[RawMessage] = []  # polled and not committed
        self._waiting: list[list[RowChange]] = []  # their changes; the first page is in work
        self._changes: dict[str, RowChange] = {}

    async def receive(self) -> Sequence[RowChange]:
        """Return the next changes, each row once."""
        try:
            if self._messages and not await self._reader.holds():
                self._forget()
            if not self._messages:
                self._messages = await self._reader.poll(PAGE, PAGE_BYTES, WAIT_SECONDS)
                self._waiting = []
            if self._messages and not self._waiting:
                changes = await self._read(self._messages)
                self._waiting = [list(page) for page in windows(changes, PAGE)] or [[]]
        except asyncio.CancelledError:
            await asyncio.shield(self.close())
            raise
        page = self._waiting[0] if self._waiting else []
        self._changes = {row_uri(self.source, change.table, change.key): change for change in page}
        if self._waiting and not page:
            await self._proceed()
        return list(self._changes.values())

    def decode(self, message: RowChange) -> Sequence[ObjectChange]:
        return (object_change(self.source, message),)

    async def handle(self, changes: Sequence[ObjectChange]) -> Sequence[ObjectChange]:
        """Write the row objects first, so that a reader of the event finds the row."""
        written = await write_rows(self.source, [self._changes[each.uri] for each in changes], self._objects)
        return [object_change(self.source, change) for change in written]

    async def commit(self, messages: Sequence[RowChange]) -> None:
        await record_hashes(self.source, messages, self._cursors)
        await self._proceed()

    async def close(self) -> None:
        """Leave the group. Messages that are not committed come again."""
        self._forget()
        await self._reader.close()

    async def _proceed(self) -> None:
        """Commit the offsets with the last page. When that fails, the messages come again, and their hashes show that they are known."""
        del self._waiting[0]
        if self._waiting:
            return
        messages, self._messages = self._messages, []
        try:
            await self._reader.commit(messages)
        except Unavailable as error:
            _log.warning("debezium.uncommitted", source=self.source.name, why=str(error))
            await self.close()

    def _forget(self) -> None:
        self._messages, self._waiting = [], []

    # -- messages to changes

    async def _read(self, messages: Sequence[RawMessage]) -> list[RowChange]:
        found: Found = {}
        for message in messages:
            table = self._topics[message.topic]
            try:
                event = await asyncio.to_thread(read_event, message, table, self._decoder)
                if event is not None:
                    await self._apply(event, table, found)
            except Rejected as error:
                SOURCE_ERRORS.labels(self.source.name, error.reason).inc()
                _log.warning(
                    "source.undecodable", source=self.source.name, reason=error.reason, topic=message.topic,
                    partition=message.partition, offset=message.offset,
                )  # fmt: skip
        return await self._unknown(found)

    async def _apply(self, event: RowEvent, table: Table, found: Found) -> None:
        if event.is_truncate:
            announced = await self._cursors.row_hashes(self.source.name, table.name)
            for key in dict.fromkeys([*announced, *(key for name, key in found if name == table.name)]):
                found[table.name, key] = RowChange(table, key, None)
            return
        earlier = found.get((table.name, event.old or event.key))
        if event.old is not None:
            found[table.name, event.old] = RowChange(table, event.old, None)
        found[table.name, event.key] = RowChange(table, event.key, None)  # also a row that cannot be completed
        row = event.row
        if row is not None and event.unsent:
            row = await self._completed(row, event, table, earlier)
        found[table.name, event.key] = RowChange(table, event.key, row)

    async def _completed(self, row: Row, event: RowEvent, table: Table, earlier: RowChange | None) -> Row:
        """Return the row with the values that were not sent, from its earlier change or its object. A column that the document does
        not need is left out. Raises Rejected when a value is nowhere."""
        columns: dict[str, Any] = json.loads(row.body)
        known = await self._known_columns(table, event.old or event.key, earlier)
        needed = (
            None
            if table.text is None
            else {name.casefold() for name in (*template_columns(table.text), *table.columns)}
        )
        for name in event.unsent:
            if name in known:
                columns[name] = known[name]
            elif needed is None or name.casefold() in needed:
                raise Rejected(
                    f"a change of {table.name} lacks the unchanged value of {name!r}: set REPLICA IDENTITY FULL on the table",
                    reason="value_not_sent",
                )
        return Row(row.key, row.changed, row_body(columns), row.columns)

    async def _known_columns(self, table: Table, key: str, earlier: RowChange | None) -> Mapping[str, Any]:
        if earlier is not None:
            return json.loads(earlier.row.body) if earlier.row else {}
        stored = await self._objects.get(row_uri(self.source, table, key))
        return json.loads(stored.content)["columns"] if stored else {}

    async def _unknown(self, found: Found) -> list[RowChange]:
        """Return the changes without the rows that are announced as they are."""
        changes: list[RowChange] = []
        for table in self._topics.values():
            own = [change for (name, _), change in found.items() if name == table.name]
            upserts = [change.key for change in own if change.row]
            known = await self._cursors.row_hashes(self.source.name, table.name, upserts) if upserts else {}
            changes += [
                change
                for change in own
                if not change.row or known.get(change.key) != table.recorded_hash(row_hash(change.row.body))
            ]
        return changes


def read_event(message: RawMessage, table: Table, decoder: DatumDecoder) -> RowEvent | None:
    """Return the meaning of a message, or None for one that changes no row.

    Raises Rejected for a message that is not a change event of Debezium, and Unavailable when the registry does not answer.
    """
    key = _key_of(message, table, decoder)
    envelope, semantics = _decode(message.value, decoder)
    if envelope is None:  # a tombstone
        if key is None:
            raise Rejected("a tombstone has no key of its table", reason="no_key")
        return RowEvent(key)
    operation = envelope.get("op")
    if operation in ("m", "t"):
        return RowEvent(is_truncate=True) if operation == "t" else None
    before = _columns(envelope.get("before"), semantics.get("before", {}))
    after = _columns(envelope.get("after"), semantics.get("after", {}))
    old = _row_key(before, table)
    if operation == "d":
        if old is None and key is None:
            raise Rejected(f"a deletion in {table.name} has no key: map the table's primary key", reason="no_key")
        return RowEvent(old if old is not None else str(key))
    if operation not in ("c", "r", "u") or after is None:
        raise Rejected("the message is not a change event of Debezium: do not flatten it", reason="unknown_envelope")
    new = _row_key(after, table)
    if new is None:
        raise Rejected(f"a row of {table.name} lacks its key column: correct the key in SOURCES", reason="no_key")
    unsent = tuple(name for name, value in after.items() if is_unsent(value))
    try:
        body = row_body({name: value for name, value in after.items() if name not in unsent})
    except (ValueError, TypeError, RecursionError) as error:
        raise Rejected("a row has a value that JSON lacks", reason="undecodable") from error
    row = Row(new, _moment(envelope), body, tuple(after))
    return RowEvent(new, row, old if old not in (None, new) else None, unsent)


def _decode(data: bytes | None, decoder: DatumDecoder) -> tuple[dict[str, Any] | None, Mapping[str, Semantics]]:
    """Return an envelope, or a key, and the meaning of its columns by the part of the envelope ("" for a key)."""
    if data is None:
        return None, {}
    try:
        if is_registered(data):
            value, schema = decoder.decode(data)
            semantics = avro_semantics(schema)
        else:
            value, semantics = json.loads(data), {}
            if isinstance(value, dict) and value.keys() == {"schema", "payload"}:
                semantics = connect_semantics(value["schema"])
                value = value["payload"]
    except RegistryUnavailable as error:
        raise Unavailable(f"a change event cannot be decoded: {error}") from error
    except (Malformed, ValueError, RecursionError) as error:
        raise Rejected(f"a message is neither JSON nor Avro ({type(error).__name__})", reason="undecodable") from error
    if value is not None and not isinstance(value, dict):
        raise Rejected("a message is not an object: it is not a change event of Debezium", reason="unknown_envelope")
    return value, semantics


def _key_of(message: RawMessage, table: Table, decoder: DatumDecoder) -> str | None:
    """Return the row's key that the message's own key has, if it has one."""
    try:
        value, semantics = _decode(message.key, decoder)
    except Rejected:
        return None  # such as a plain text; the value may have the key
    return _row_key(_columns(value, semantics.get("", {})), table)


def _columns(values: Any, semantics: Semantics) -> dict[str, Any] | None:
    if values is None:
        return None
    if not isinstance(values, dict):
        raise Rejected("a row is not an object: it is not a change event of Debezium", reason="unknown_envelope")
    try:
        return json_columns(values, semantics)
    except (ValueError, TypeError, ArithmeticError, LookupError, RecursionError) as error:
        raise Rejected(
            f"a row has a value that does not fit its schema ({type(error).__name__})", reason="undecodable"
        ) from error


def _row_key(columns: Mapping[str, Any] | None, table: Table) -> str | None:
    folded = {name.casefold(): value for name, value in (columns or {}).items()}
    values = [folded.get(name.casefold()) for name in table.key_columns]
    if any(value is None or isinstance(value, (dict, list)) for value in values):
        return None
    key = row_key([plain_text(value) for value in values])
    if any("\ud800" <= character <= "\udfff" for character in key):
        raise Rejected("a key has a lone surrogate, which no encoding has", reason="undecodable")
    return key


def _moment(envelope: Mapping[str, Any]) -> datetime:
    """Return the time of the change at its database, else that of its event."""
    source = envelope.get("source")
    milliseconds = source.get("ts_ms") if isinstance(source, dict) else None
    for value in (milliseconds, envelope.get("ts_ms")):
        try:
            if isinstance(value, int) and value > 0:
                return datetime.fromtimestamp(value / 1000, UTC)
        except (ValueError, OverflowError, OSError):
            continue
    return datetime.now(UTC)
