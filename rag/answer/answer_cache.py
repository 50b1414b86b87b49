"""The answer cache: an entry belongs to one question, one set of principals and filters, and one revision of the index."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from rag.errors import Unavailable
from rag.ids import Ids
from rag.models import AccessFilter, Answer
from rag.ports import AnswerCache
from rag.telemetry import DEGRADED, logger

VERSION = "2"  # of the format of an entry
_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """An answer, and the ids of all points that its generator was given, cited or not."""

    answer: Answer
    point_ids: tuple[str, ...]


_ENTRY = TypeAdapter(Entry)


def key(question: str, access: AccessFilter, top_k: int, *, ids: Ids, makers: Sequence[str]) -> str:
    """Compute the key of an answer. ``makers`` name the index, its revision, the generator and the reranker.

    The revision grows with every change of the tenant's documents, so a new document is part of the next answer.
    """
    normalized = " ".join(unicodedata.normalize("NFC", question).split())
    scope = json.dumps([access.principals, sorted(access.narrow.items())])
    return ids.query_id(access.tenant, VERSION, *makers, str(top_k), scope, normalized)


async def get(key: str, cache: AnswerCache) -> Entry | None:
    """Return the entry, or None. A cache that does not answer, or a malformed entry, counts as a miss."""
    try:
        value = await cache.get(key)
        return None if value is None else _ENTRY.validate_json(value)
    except Unavailable as error:
        _count_outage(error)
    except ValidationError:
        _log.error("malformed_cache_entry")
    return None


async def put(key: str, entry: Entry, cache: AnswerCache, *, ttl: float, documents: Sequence[str]) -> None:
    """Store the entry for ``ttl`` seconds. A cache that does not answer never fails the question.

    An erasure of one of the ``documents`` that the generator was given deletes it.
    """
    try:
        await cache.put(key, _ENTRY.dump_json(entry), ttl=ttl, documents=documents)
    except Unavailable as error:
        _count_outage(error)


def _count_outage(error: Unavailable) -> None:
    DEGRADED.labels("cache").inc()
    _log.warning("cache_skipped", why=str(error))
