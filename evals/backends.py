"""Where a question set is asked: on a running stack, or on an index in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from evals import offline, sample_corpus
from evals.offline import CorpusObject
from evals.quality import Quality, evaluate
from evals.questions import QuestionSet, located
from governance.access import filter_for
from rag.adapters.embedders.bm25 import Bm25Encoder
from rag.adapters.embedders.minilm import Minilm
from rag.adapters.llms.extractive import ExtractiveGenerator
from rag.ingest.warehouse_rows import MEDIA_TYPE, Table, row_object
from rag.ports import Row
from rag.settings import load as load_settings
from rag.wiring import Services, services

GROUPS = ("staff", "finance", "people")  # whose documents the questions are about
ROWS = f"{offline.BASE}/rows"
_TITLES = {"customers": "NAME", "tickets": "SUBJECT"}
Step = Callable[[], None]


async def on_stack(
    asked_for: QuestionSet, stack: Path, *, prefix: str = "", answers: bool = True, progress: Step = lambda: None
) -> Quality:
    """On the local stack of this folder."""
    async with services(load_settings(stack)) as backend:
        return await ask_services(asked_for, backend, prefix=prefix, answers=answers, progress=progress)


async def ask_services(
    asked_for: QuestionSet, backend: Services, *, prefix: str = "", answers: bool = True, progress: Step = lambda: None
) -> Quality:
    """The set's corpus lies in the watched bucket under ``prefix``; rows come from the source ``snowflake``."""
    settings = backend.settings
    documents = f"s3://{settings.s3_bucket}/{prefix}".rstrip("/")
    rows = next((each.base_uri for each in settings.configured_sources if each.kind == "snowflake"), "s3://none/rows")
    corpus: dict[str, str] = {}
    for source, base in (("s3", documents), ("snowflake", rows)):
        found = await backend.ledger.inventory(backend.spec.index_id, source)
        corpus |= {uri: document_id for uri, (document_id, _) in found.items() if uri.startswith(f"{base}/")}
    return await evaluate(
        asked_for,
        lambda name: located(name, documents, rows),
        filter_for(tenant=settings.default_tenant, subject="evals", groups=GROUPS),
        backend,
        corpus=corpus,
        answers=answers,
        progress=progress,
    )


async def in_memory(
    asked_for: QuestionSet, *, models: Path = Path(".cache/models"), answers: bool = True, progress: Step = lambda: None
) -> Quality:
    """The set's corpus, indexed in memory by the default models."""
    embedder = Minilm.load(models)
    backend = offline.offline(embedder, embedder, Bm25Encoder(), ExtractiveGenerator(embedder))
    held = [CorpusObject(name, (asked_for.folder / name).read_bytes()) for name in asked_for.documents()]
    if asked_for.folder == sample_corpus.SAMPLE / "documents":
        held += _rows()
    await offline.index(held, backend)
    return await evaluate(
        asked_for,
        lambda name: located(name, offline.BASE, ROWS),
        filter_for(tenant=offline.TENANT, subject="evals", groups=("staff",)),
        backend,
        corpus={each.uri: backend.pipeline.ids.document_id(offline.TENANT, offline.SOURCE, each.uri) for each in held},
        answers=answers,
        progress=progress,
    )


def _rows() -> Iterator[CorpusObject]:
    """The rows of the sample tables, as the warehouse source writes them."""
    for name, rows in sample_corpus.tables().items():
        table = Table(name.upper(), "ID", "UPDATED_AT", _TITLES.get(name))
        for row in rows:
            columns = {column.upper(): value for column, value in row.items()}
            content, labels = row_object(table, Row(row["id"], datetime.now(UTC), json.dumps(columns)))
            yield CorpusObject(f"rows/{name}/{row['id']}.json", content, MEDIA_TYPE, labels)
