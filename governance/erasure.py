"""The request of an erasure: locate everything that it means, and accept it in one transaction.

From the acceptance on, no search, answer, list or later replay shows the documents. ``governance.erasing`` does the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from governance.mentions import INEXACT, Identifier
from rag.errors import Conflict, Rejected
from rag.identifiers import canonical
from rag.ids import Ids, erasure_id
from rag.ingest.artifacts import Artifacts
from rag.ingest.tasks import PARSED
from rag.models import DocumentRecord, Erased, Erasure, ErasureEvent
from rag.ports import Catalog, Erasures, OutboxEvent
from schemas.events import ErasureKind, ErasureRequested
from schemas.topics import CHANGED, ERASURES_REQUESTED

LONG = 50_000  # characters; a shorter text is scanned faster than a thread takes over
AT_ONCE = 16  # parsed documents that are scanned for mentions together
NAMED, DECLARED, MENTIONED, PROBABLE = "named", "declared", "mentioned", "probable"


@dataclass(frozen=True, slots=True)
class Target:
    """The data to erase: exactly one of a document, the documents under a prefix of uris, and those of a person."""

    document_id: str = ""
    uri_prefix: str = ""
    person: Identifier | None = None

    @property
    def kind(self) -> str:
        return "subject" if self.person else "document" if self.document_id else "uri_prefix"


@dataclass(frozen=True, slots=True)
class Located:
    """The documents that a target means, each with the reason: named by the request, declared to be about the person, mentioning the
    identifier exactly, or probably mentioning the person."""

    target: Target
    documents: tuple[DocumentRecord, ...]
    reasons: Mapping[str, str]  # by document id
    subject_ids: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()  # documents whose text could not be scanned
    counts: Mapping[str, int] = field(default_factory=dict)

    def chosen(self, confirmed: Sequence[str] | None) -> list[DocumentRecord]:
        """Return the documents to erase: those that the officer ``confirmed``, else all but the probable ones.

        Raises Rejected when a person is known by name alone and nothing was confirmed. Raises Conflict when a confirmed document is not
        among the located ones, because an erasure never goes beyond the list that the officer saw, and when one that declares the
        person is left out, because the person's suppression would hide it without erasing it.
        """
        known = {record.document_id: record for record in self.documents}
        is_inexact = self.target.person is not None and self.target.person.kind in INEXACT
        if confirmed is None:
            if is_inexact:
                raise Rejected(
                    "a name may belong to several people: run it dry, and name the documents to erase in 'documents'",
                    reason="unconfirmed_name",
                )
            return [record for each, record in known.items() if self.reasons[each] != PROBABLE]
        if strange := sorted(set(confirmed) - known.keys()):
            raise Conflict(f"document {strange[0]} is not among those of this erasure: run it dry again")
        declaring = {each for each, reason in self.reasons.items() if reason == DECLARED}
        if not is_inexact and (left := sorted(declaring.difference(confirmed))):
            raise Conflict(
                f"document {left[0]} declares the person: name it too, or remove the person from its subjects at the source first"
            )
        return [known[each] for each in sorted(set(confirmed))]


async def locate(
    target: Target, *, tenant: str, index_id: str, ids: Ids, ledger: Erasures, catalog: Catalog, artifacts: Artifacts
) -> Located:
    """Find the documents that the target means, of any status and in every index. Change nothing."""
    if target.person is None:
        found = await ledger.located(tenant, document_id=target.document_id, uri_prefix=target.uri_prefix)
        return _located(target, found, dict.fromkeys((record.document_id for record in found), NAMED))
    subject_ids = (ids.subject_id(tenant, target.person.value),)
    declared = await ledger.located(tenant, subject_ids=subject_ids)
    records = {record.document_id: record for record in declared}
    reasons = dict.fromkeys(records, DECLARED)
    mentioning, unread = await _mentioning(target.person, tenant, index_id, catalog, artifacts)
    for record in mentioning:
        records.setdefault(record.document_id, record)
        reasons.setdefault(record.document_id, PROBABLE if target.person.kind in INEXACT else MENTIONED)
    return _located(target, list(records.values()), reasons, subject_ids, unread)


def _located(
    target: Target,
    records: Sequence[DocumentRecord],
    reasons: Mapping[str, str],
    subject_ids: tuple[str, ...] = (),
    unread: Sequence[str] = (),
) -> Located:
    counted = {"documents": len(records), "chunks": sum(len(record.chunks) for record in records)}
    for reason in (DECLARED, MENTIONED, PROBABLE):
        counted[reason] = sum(each == reason for each in reasons.values())
    counted["unread"] = len(unread)
    ordered = tuple(sorted(records, key=lambda record: record.document_id))
    return Located(target, ordered, reasons, subject_ids, tuple(unread), counted)


async def _mentioning(
    person: Identifier, tenant: str, index_id: str, catalog: Catalog, artifacts: Artifacts
) -> tuple[list[DocumentRecord], list[str]]:
    """Scan the parsed text of every document of the tenant. Return those with a mention, and the ids of those without readable text."""
    slots = asyncio.Semaphore(AT_ONCE)
    mentioning: list[DocumentRecord] = []
    unread: list[str] = []

    async def scan(record: DocumentRecord) -> None:
        key = next((each for each in record.artifacts if each.endswith(f"/{PARSED}")), None)
        if person.is_in(f"{record.title}\n{record.uri}"):
            mentioning.append(record)
        elif key:
            try:
                async with slots:
                    text = (await artifacts.parsed(key)).text
            except Conflict:  # overtaken or damaged: a repair makes it again
                unread.append(record.document_id)
            else:
                if await asyncio.to_thread(person.is_in, text) if len(text) > LONG else person.is_in(text):
                    mentioning.append(record)
        elif record.chunks:
            unread.append(record.document_id)

    after = ""
    while page := await catalog.of_tenant(index_id, tenant, after=after):
        await asyncio.gather(*map(scan, page))
        after = page[-1].document_id
    return mentioning, sorted(unread)


async def accept(
    located: Located,
    *,
    tenant: str,
    actor: str,
    reason: str,
    now: datetime,
    deadline_days: float,
    ledger: Erasures,
    ids: Ids,
    confirmed: Sequence[str] | None = None,
) -> Erasure:
    """Accept the erasure of the chosen documents, and of the person. Everything of it is hidden when this returns.

    Raises Conflict when one of them is under a legal hold: then nothing is erased.

    The lanes learn of it by a tombstone for each document, which names no uri.
    """
    documents = located.chosen(confirmed)
    chosen = {record.document_id for record in documents}
    person = located.target.person
    is_exact = person is not None and person.kind not in INEXACT
    erasure = Erasure(
        erasure_id=erasure_id(),
        tenant=tenant,
        kind=located.target.kind,
        reason=reason,
        actor=actor,
        documents=tuple(Erased(each.document_id, each.source, each.uri) for each in documents),
        requested_at=now,
        deadline=now + timedelta(days=deadline_days),
        next_at=now,
        subject_ids=located.subject_ids if is_exact else (),
        subject_lengths=(len(canonical(person.value)),) if person and is_exact else (),
        spared=tuple(each.document_id for each in located.documents if each.document_id not in chosen),
        affected={
            **located.counts,
            "documents": len(documents),
            "chunks": sum(len(each.chunks) for each in documents),
            "excluded": len(located.documents) - len(documents),
        },
        history=(ErasureEvent(now, f"accepted: {len(documents)} documents are hidden and refused from now on"),),
    )
    tombstones = [OutboxEvent(CHANGED, each, None) for each in erasure.document_ids]
    scopes = {scope for each in documents for scope in ids.scopes(tenant, each.source, each.uri, each.document_id)}
    requested = OutboxEvent(ERASURES_REQUESTED, erasure.erasure_id, _requested(erasure))
    await ledger.accept(erasure, [*tombstones, requested], scopes=sorted(scopes))
    return erasure


def _requested(erasure: Erasure) -> ErasureRequested:
    is_person = erasure.kind == "subject"
    return ErasureRequested(
        erasure_id=erasure.erasure_id,
        tenant=erasure.tenant,
        kind=ErasureKind.SUBJECT if is_person else ErasureKind.DOCUMENT,
        ids=erasure.subject_ids if is_person else tuple(erasure.document_ids),
        reason=erasure.kind,
        requested_at=erasure.requested_at,
    )
