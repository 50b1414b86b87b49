"""Answers already given. An entry belongs to one question of one set of principals at one revision of the index."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from rag.errors import Unavailable
from rag.models import AccessFilter, Answer
from rag.telemetry import DEGRADED, logger

if TYPE_CHECKING:
    from rag.wiring import Services

VERSION = "1"  # of an entry


@dataclass(frozen=True, slots=True)
class _Entry:
    answer: Answer
    chunk_ids: tuple[str, ...]  # all that the generator was given, cited or not


_ENTRY = TypeAdapter(_Entry)


async def key_of(question: str, access: AccessFilter, top_k: int, services: Services) -> str:
    """Moves with every change of the tenant's documents, so that a new document is in the next answer."""
    index_id = services.spec.index_id
    asked = " ".join(unicodedata.normalize("NFC", question).split())
    scope = json.dumps([access.principals, sorted(access.narrow.items())])
    revision = await services.ledger.index_revision(index_id, access.tenant)
    makers = (services.generator.name, services.reranker.name)
    return services.ids.query_id(access.tenant, VERSION, index_id, str(revision), *makers, str(top_k), scope, asked)


async def recall(key: str, access: AccessFilter, services: Services) -> Answer | None:
    """None also when the cache does not answer, or when any chunk that the answer was made from is not visible any more."""
    try:
        raw = await services.cache.get(key)
    except Unavailable as error:
        _degraded(error)
        return None
    if raw is None:
        return None
    try:
        entry = _ENTRY.validate_json(raw)
    except ValidationError:
        logger(__name__).error("malformed_cache_entry")
        return None
    return entry.answer if await all_visible(entry.chunk_ids, access, services) else None


async def remember(key: str, answer: Answer, chunk_ids: Sequence[str], services: Services) -> None:
    try:
        value = _ENTRY.dump_json(_Entry(answer, tuple(chunk_ids)))
        await services.cache.put(key, value, ttl=services.settings.answer_ttl_seconds)
    except Unavailable as error:
        _degraded(error)


async def all_visible(chunk_ids: Sequence[str], access: AccessFilter, services: Services) -> bool:
    if not chunk_ids:
        return True
    visible = await services.ledger.visible(services.spec.index_id, chunk_ids, access)
    return set(chunk_ids) <= visible.keys()


def _degraded(error: Unavailable) -> None:
    DEGRADED.labels("cache").inc()
    logger(__name__).warning("cache_skipped", why=str(error))
