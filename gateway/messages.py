"""The bodies of requests and responses. Every request field is bounded, and unknown fields are refused."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from governance.access import MAX_VALUE, MAX_VALUES, NARROW_FIELDS
from governance.erasure import Located
from rag.answer.answering import MAX_TOP_K, TOP_K
from rag.ids import point_time
from rag.models import Cause, Citation, Effect, Erasure, ErasureState, Hit

MAX_QUESTION = 4000  # characters; an embedder reads a few hundred tokens of it anyway

# The rules of `_text` and `_question` as patterns, for the API's description. JSON cannot carry lone surrogates as UTF-8.
_CONTROLS = r"\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f"
_BLANKS = r"\t\n\r\u0020\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
TEXT_PATTERN = f"^[^{_CONTROLS}]*$"
QUESTION_PATTERN = f"^[^{_CONTROLS}]*[^{_CONTROLS}{_BLANKS}][^{_CONTROLS}]*$"


def _text(value: str) -> str:
    """Refuse control characters other than tabs and line breaks, and lone surrogates."""
    for character in value:
        if unicodedata.category(character) in {"Cc", "Cs"} and character not in "\t\n\r":
            raise ValueError(f"control character U+{ord(character):04X}: remove it")
    return value


def _question(value: str) -> str:
    """Refuse a blank text, and strip the blanks around any other."""
    if not value.strip():
        raise ValueError("only blanks: write a question")
    return value.strip()


def _number(value: Any) -> Any:
    """Refuse texts and truth values, which would be converted."""
    if isinstance(value, str | bool):
        raise ValueError("not a number")
    return value


Question = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_QUESTION),
    AfterValidator(_text),
    AfterValidator(_question),
    Field(json_schema_extra={"pattern": QUESTION_PATTERN}),
]
Value = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_VALUE),
    AfterValidator(_text),
    Field(json_schema_extra={"pattern": TEXT_PATTERN}),
]
Filters = Annotated[
    dict[
        Annotated[str, StringConstraints(max_length=64)],
        Value | Annotated[list[Value], Field(min_length=1, max_length=MAX_VALUES)],
    ],
    Field(
        max_length=8,
        description="document_id, language, media_type or source → accepted value or values; they can only narrow",
        examples=[{"source": ["s3"]}],
        json_schema_extra={"propertyNames": {"enum": list(NARROW_FIELDS)}},
    ),
]
TopK = Annotated[
    int, Field(ge=1, le=MAX_TOP_K, description="how many hits to find or to answer from"), BeforeValidator(_number)
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SearchRequest(_Request):
    query: Question
    top_k: TopK = TOP_K
    filters: Filters = {}


class AnswerRequest(_Request):
    question: Question
    top_k: TopK = TOP_K
    filters: Filters = {}
    session_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = Field(
        None, description="reserved for conversations; not recorded yet"
    )
    stream: bool = Field(
        False, strict=True, description="answer as server-sent events: delta (repeated), citations, done; or error"
    )


class CitationMessage(BaseModel):
    """The origin of a claim: chunk, page or span, object version, Kafka offset and Dagster run."""

    marker: int = Field(description="the number in the answer's text: [1]")
    document_id: str
    chunk_id: str
    title: str
    uri: str
    source_version: str
    page: int | None
    start: int = Field(description="first character of the quote in the parsed source")
    end: int
    quote: str = Field(description="verbatim in the parsed source at start..end")
    score: float
    topic: str
    partition: int
    offset: int = Field(description="-1: indexed by a backfill, not by an event")
    run_id: str

    @classmethod
    def of(cls, citation: Citation) -> CitationMessage:
        return cls(**{name: getattr(citation, name) for name in cls.model_fields})


class HitMessage(CitationMessage):
    text: str
    section: list[str]
    source: str
    language: str
    media_type: str
    stale: bool = Field(description="true when the source has a newer version, which cannot be read now")

    @classmethod
    def of_hit(cls, marker: int, hit: Hit) -> HitMessage:
        chunk, origin, cause = hit.chunk, hit.provenance, hit.provenance.cause
        return cls(
            marker=marker,
            document_id=origin.document_id,
            chunk_id=chunk.chunk_id,
            title=origin.title,
            uri=origin.uri,
            source_version=origin.source_version,
            page=chunk.page,
            start=chunk.start,
            end=chunk.end,
            quote=chunk.text,
            score=hit.score,
            topic=cause.topic,
            partition=cause.partition,
            offset=cause.offset,
            run_id=cause.run_id,
            text=chunk.text,
            section=list(chunk.section),
            source=hit.provenance.source,
            language=hit.provenance.language,
            media_type=hit.provenance.media_type,
            stale=hit.provenance.is_stale,
        )


class SearchResponse(BaseModel):
    hits: list[HitMessage]
    timings: dict[str, float] = Field(description="seconds")
    trace_id: str
    index_version: str


class AnswerResponse(BaseModel):
    answer: str
    citations: list[CitationMessage]
    generator: str = Field(description='"extractive": sentences of the sources; else the name of the model')
    abstained: bool = Field(description="true when the documents found contain no answer")
    cached: bool
    usage: dict[str, int]
    timings: dict[str, float] = Field(description="seconds")
    trace_id: str
    index_version: str


class UploadResponse(BaseModel):
    document_id: str
    uri: str
    status_url: str
    replaces: bool = Field(description="you had uploaded a file of this name before; it is replaced")


class DocumentMessage(BaseModel):
    """A document as the catalog has it. ``pending`` means accepted here and not yet indexed."""

    document_id: str
    status: str
    source: str
    uri: str
    title: str = ""
    media_type: str = ""
    language: str = ""
    reason: str = Field("", description="why a dead document could not be indexed, or a parked one cannot be read now")
    next_try: datetime | None = Field(
        None, description="of a parked document; its chunks are those of its older version"
    )
    source_version: str = ""
    revision: int = 0
    chunks: int = 0
    updated_at: datetime | None = None


class DocumentList(BaseModel):
    documents: list[DocumentMessage]
    next: str | None = Field(description="pass as ``after`` for the next page; null on the last one")


class CauseMessage(BaseModel):
    """The event that caused the last change of a document, and the run that handled it."""

    topic: str = Field("", description="empty: a backfill, which no event causes")
    epoch: str = Field("", description="identifies the cluster, the topic and its number of partitions")
    partition: int = -1
    offset: int = -1
    run_id: str = Field("", description="the Dagster run, or the micro-batch of the stream lane")
    trace_id: str = ""
    changed_at: datetime | None = Field(None, description="when the object changed, by the clock of its source")

    @classmethod
    def of(cls, cause: Cause) -> CauseMessage:
        changed_at = datetime.fromtimestamp(cause.changed_at, UTC) if cause.changed_at else None
        names = ("topic", "epoch", "partition", "offset", "run_id", "trace_id")
        return cls(**{name: getattr(cause, name) for name in names}, changed_at=changed_at)


class PointMessage(BaseModel):
    """A chunk, and the point that holds its vectors now."""

    chunk_id: str
    point_id: str
    start: int = Field(description="first character of the chunk in the parsed source")
    end: int
    page: int | None
    written_at: datetime | None = Field(description="null: written by an older version of this software")


class IndexedMessage(BaseModel):
    """The state of a document in one version of the index."""

    index_id: str
    is_current: bool = Field(description="whether searches use this version of the index")
    status: str
    source_version: str
    revision: int
    chunks: int
    updated_at: datetime


class LineageMessage(DocumentMessage):
    """The way of a document: object version → event → run → points → versions of the index."""

    content_hash: str
    cause: CauseMessage
    points: list[PointMessage]
    indexes: list[IndexedMessage] = Field(description="newest first")

    @classmethod
    def of(cls, row: Mapping[str, Any], index_id: str) -> LineageMessage:
        """Convert a row of ``Catalog.lineage``. ``index_id`` is the current index."""
        points = [PointMessage(**each, written_at=point_time(each["point_id"])) for each in row["points"]]
        indexes = [IndexedMessage(**each, is_current=each["index_id"] == index_id) for each in row["indexes"]]
        cause = CauseMessage.of(Cause(**row["cause"])) if row["cause"] else CauseMessage()
        return cls(**{**row, "cause": cause, "points": points, "indexes": indexes})


class _OfScope(_Request):
    """A document, or the documents of a source whose uri starts with ``uri_prefix``, or all of the source."""

    document_id: UUID | None = Field(None, description="a document; without it, name a source")
    source: Annotated[str, StringConstraints(max_length=64)] = ""
    uri_prefix: Annotated[str, StringConstraints(max_length=4096), AfterValidator(_text)] = Field(
        "", description="a folder of the source, ending with a slash", json_schema_extra={"pattern": TEXT_PATTERN}
    )

    @model_validator(mode="after")
    def _names_one_scope(self) -> Self:
        if bool(self.document_id) == bool(self.source) or (self.uri_prefix and not self.source):
            raise ValueError("name a document_id, or a source with or without a uri_prefix")
        return self


class AccessRequest(_OfScope):
    """A decision on a document, or on the documents of a source whose uri starts with ``uri_prefix``, or on all of the source."""

    effect: Effect
    principal: Value = Field(description="user:NAME or group:NAME", examples=["group:finance"])
    reason: Annotated[str, StringConstraints(max_length=MAX_VALUE), AfterValidator(_text)] = Field(
        "", json_schema_extra={"pattern": TEXT_PATTERN}
    )


class RuleMessage(BaseModel):
    """A grant or a revoke. A revoke wins over every label and grant."""

    model_config = ConfigDict(from_attributes=True)

    rule_id: str
    effect: Effect
    principal: str
    source: str
    uri_prefix: str
    document_id: str
    actor: str = Field(description="the pseudonym of the administrator")
    reason: str
    decided_at: datetime


class HoldRequest(_OfScope):
    """A legal hold on a document, or on the documents of a source whose uri starts with ``uri_prefix``, or on all of the source."""

    reason: Value = Field(description="the matter, for the record", examples=["case 2026-117"])


class HoldMessage(BaseModel):
    """A legal hold. Nothing of it may be erased or withdrawn while it stands."""

    model_config = ConfigDict(from_attributes=True)

    hold_id: str
    source: str
    uri_prefix: str
    document_id: str
    actor: str = Field(description="the pseudonym of the administrator")
    reason: str
    placed_at: datetime


class HoldList(BaseModel):
    holds: list[HoldMessage]
    next: str | None = Field(description="pass as ``after`` for the next page; null on the last one")


class RuleList(BaseModel):
    rules: list[RuleMessage]
    next: str | None = Field(description="pass as ``after`` for the next page; null on the last one")


class DecidedMessage(BaseModel):
    """Whether a caller may see a document in a search, and the label, setting or rule that decided."""

    model_config = ConfigDict(from_attributes=True)

    is_visible: bool
    reason: str
    rule: RuleMessage | None


class SubjectMessage(_Request):
    """A person, by an identifier. A name needs the confirmed ``documents``, because another person may have the same."""

    kind: Literal["email", "phone", "iban", "id", "custom", "name"]
    value: Value


class ErasureRequest(_Request):
    """Exactly one of ``document_id``, ``uri_prefix`` and ``subject``."""

    document_id: UUID | None = None
    uri_prefix: Annotated[str, StringConstraints(max_length=4096), AfterValidator(_text)] = Field(
        "", description="documents whose uri starts with it", json_schema_extra={"pattern": TEXT_PATTERN}
    )
    subject: SubjectMessage | None = None
    reason: Annotated[str, StringConstraints(max_length=MAX_VALUE), AfterValidator(_text)] = Field(
        "", description="for the record, without personal data", json_schema_extra={"pattern": TEXT_PATTERN}
    )
    mode: Literal["delete"] = Field("delete", description="delete whole documents")
    documents: Annotated[list[UUID], Field(max_length=100_000)] | None = Field(
        None, description="the documents of a dry run that you confirm; null: all of it but probable mentions"
    )
    dry_run: bool = Field(False, strict=True, description="list what would be erased, and change nothing")

    @model_validator(mode="after")
    def _names_one_target(self) -> Self:
        if sum(map(bool, (self.document_id, self.uri_prefix, self.subject))) != 1:
            raise ValueError("name exactly one of document_id, uri_prefix and subject")
        if self.uri_prefix and not all(self.uri_prefix.partition("://")[::2]):
            raise ValueError("uri_prefix names no container: write it as scheme://container/folder/")
        return self


class AffectedMessage(BaseModel):
    """A document that an erasure means, for the officer who decides."""

    document_id: str
    uri: str
    title: str
    source: str
    status: str
    chunks: int
    because: str = Field(description="named, declared (about the person), mentioned (exactly), or probable (a name)")


class LocatedMessage(BaseModel):
    """A dry run: everything that the request means. Nothing was changed."""

    affected: dict[str, int]
    documents: list[AffectedMessage]
    unread: list[str] = Field(description="documents whose text could not be scanned now; try again after a repair")

    @classmethod
    def of(cls, located: Located) -> Self:
        documents = [
            AffectedMessage(
                document_id=each.document_id,
                uri=each.uri,
                title=each.title,
                source=each.source,
                status=each.status.value,
                chunks=len(each.chunks),
                because=located.reasons[each.document_id],
            )
            for each in located.documents
        ]
        return cls(affected=dict(located.counts), documents=documents, unread=list(located.unread))


class HistoryMessage(BaseModel):
    at: datetime
    text: str


class ErasureMessage(BaseModel):
    """An erasure and its progress."""

    erasure_id: str
    state: ErasureState
    kind: str
    mode: str
    reason: str
    affected: dict[str, int]
    requested_at: datetime
    deadline: datetime
    next_at: datetime | None = Field(description="the next step: of a certified erasure its last verification")
    stores: dict[str, str] = Field(description="store → what was done there, and what its nature leaves open")
    history: list[HistoryMessage]
    certificate_url: str | None

    @classmethod
    def of(cls, erasure: Erasure) -> Self:
        return cls(
            erasure_id=erasure.erasure_id,
            state=erasure.state,
            kind=erasure.kind,
            mode=erasure.mode,
            reason=erasure.reason,
            affected=dict(erasure.affected),
            requested_at=erasure.requested_at,
            deadline=erasure.deadline,
            next_at=erasure.next_at,
            stores=dict(erasure.stores),
            history=[HistoryMessage(at=each.at, text=each.text) for each in erasure.history],
            certificate_url=f"/v1/erasures/{erasure.erasure_id}/certificate" if erasure.certificate else None,
        )


class ErasureList(BaseModel):
    erasures: list[ErasureMessage]
    next: str | None = Field(description="pass as ``after`` for the next page; null on the last one")


class DependencyMessage(BaseModel):
    ok: bool
    required: bool
    seconds: float
    why: str = ""


class ReadyMessage(BaseModel):
    ready: bool
    dependencies: dict[str, DependencyMessage]


class KeyMessage(BaseModel):
    """A public Ed25519 key as a JSON Web Key (RFC 8037)."""

    kty: str
    crv: str
    x: str
    kid: str
    use: str
    alg: str


class KeysMessage(BaseModel):
    """A JSON Web Key Set (RFC 7517)."""

    keys: list[KeyMessage]


class FaultMessage(BaseModel):
    """One fault of a request, with the place of its field."""

    pointer: str
    detail: str


class ProblemMessage(BaseModel):
    """An error as RFC 9457 defines it."""

    type: str
    title: str
    status: int
    detail: str = ""
    reason: str = Field("", description="a stable code, where there is one")
    errors: list[FaultMessage] = Field([], description="the faults of a request that is not valid (422)")
    trace_id: str = Field("", description="the operator finds the request by it")
