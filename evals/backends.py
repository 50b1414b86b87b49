"""The backends on which a question set is evaluated: a running stack, or an index in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from evals import offline, sample_corpus
from evals.offline import CorpusObject
from evals.quality import Quality, evaluate
from evals.questions import QuestionSet, gold_uri
from governance.access import filter_for
from rag.adapters.embedders.bm25 import Bm25Encoder
from rag.adapters.embedders.minilm import Minilm
from rag.adapters.llms.extractive import ExtractiveGenerator
from rag.ingest.warehouse_rows import MEDIA_TYPE, row_object
from rag.ports import Row
from rag.settings import load as load_settings
from rag.tables import Table
from rag.wiring import Services, services

GROUPS = ("staff", "finance", "people")  # the groups that may read the documents of the question sets
ROWS = f"{offline.BASE}/rows"
_TITLES = {"customers": "NAME", "tickets": "SUBJECT"}
Step = Callable[[], None]


async def evaluate_on_stack(
    question_set: QuestionSet, stack: Path, *, prefix: str = "", answers: bool = True, progress: Step = lambda: None
) -> Quality:
    """Evaluate on the local stack of the folder ``stack``."""
    async with services(load_settings(stack)) as backend:
        return await evaluate_services(question_set, backend, prefix=prefix, answers=answers, progress=progress)


async def evaluate_services(
    question_set: QuestionSet,
    backend: Services,
    *,
    prefix: str = "",
    answers: bool = True,
    progress: Step = lambda: None,
) -> Quality:
    """Evaluate on open services. The corpus is in the watched bucket under ``prefix``, and rows in the source ``snowflake``."""
    settings = backend.settings
    documents = f"s3://{settings.s3_bucket}/{prefix}".rstrip("/")
    rows = next((each.base_uri for each in settings.configured_sources if each.kind == "snowflake"), "s3://none/rows")
    corpus: dict[str, str] = {}
    for source, base in (("s3", documents), ("snowflake", rows)):
        inventory = await backend.ledger.inventory(backend.spec.index_id, settings.default_tenant, source)
        corpus |= {uri: each.document_id for uri, each in inventory.items() if uri.startswith(f"{base}/")}
    return await evaluate(
        question_set,
        lambda name: gold_uri(name, documents, rows),
        filter_for(tenant=settings.default_tenant, subject="evals", groups=GROUPS),
        backend,
        corpus=corpus,
        answers=answers,
        progress=progress,
    )


async def evaluate_in_memory(
    question_set: QuestionSet,
    *,
    models: Path = Path(".cache/models"),
    answers: bool = True,
    progress: Step = lambda: None,
) -> Quality:
    """Index the set's corpus in memory with the default models, and evaluate on that index."""
    embedder = Minilm.load(models)
    backend = offline.empty_index(embedder, embedder, Bm25Encoder(), ExtractiveGenerator(embedder))
    objects = [CorpusObject(name, (question_set.folder / name).read_bytes()) for name in question_set.documents()]
    if question_set.folder == sample_corpus.SAMPLE / "documents":
        objects += _rows()
    await offline.index(objects, backend)
    return await evaluate(
        question_set,
        lambda name: gold_uri(name, offline.BASE, ROWS),
        filter_for(tenant=offline.TENANT, subject="evals", groups=("staff",)),
        backend,
        corpus={
            each.uri: backend.pipeline.ids.document_id(offline.TENANT, offline.SOURCE, each.uri) for each in objects
        },
        answers=answers,
        progress=progress,
    )


def _rows() -> Iterator[CorpusObject]:
    """Yield the rows of the sample tables as the warehouse source writes them."""
    for name, rows in sample_corpus.tables().items():
        table = Table(name.upper(), "ID", "UPDATED_AT", _TITLES.get(name))
        for row in rows:
            columns = {column.upper(): value for column, value in row.items()}
            content, labels = row_object(table, Row(row["id"], datetime.now(UTC), json.dumps(columns)))
            yield CorpusObject(f"rows/{name}/{row['id']}.json", content, MEDIA_TYPE, labels)
