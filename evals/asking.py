"""Where a question set is asked: on a running stack, or on an index in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evals import offline
from evals.quality import Backend, Quality, Ranking, baseline, evaluate, parsed_documents
from evals.questions import QuestionSet, located
from governance.access import filter_for
from rag.adapters.embedders.bm25 import Bm25Encoder
from rag.adapters.embedders.minilm import Minilm
from rag.adapters.llms.extractive import ExtractiveGenerator
from rag.ids import object_uri
from rag.models import AccessFilter
from rag.settings import load as load_settings
from rag.wiring import Services, services

GROUPS = ("staff", "finance", "people")  # whose documents the questions are about
Step = Callable[[], None]


async def on_stack(
    asked_for: QuestionSet, stack: Path, *, prefix: str = "", answers: bool = True, progress: Step = lambda: None
) -> tuple[Quality, Ranking]:
    """On the local stack of this folder."""
    async with services(load_settings(stack)) as backend:
        return await ask_services(asked_for, backend, prefix=prefix, answers=answers, progress=progress)


async def ask_services(
    asked_for: QuestionSet, backend: Services, *, prefix: str = "", answers: bool = True, progress: Step = lambda: None
) -> tuple[Quality, Ranking]:
    """The set's corpus lies in the watched bucket under ``prefix``; rows come from the source ``snowflake``."""
    settings = backend.settings
    documents = f"s3://{settings.s3_bucket}/{prefix}".rstrip("/")
    rows = next((each.base_uri for each in settings.configured_sources if each.kind == "snowflake"), "s3://none/rows")
    inventory: dict[str, str] = {}
    for source, base in (("s3", documents), ("snowflake", rows)):
        found = await backend.ledger.inventory(backend.spec.index_id, source)
        inventory |= {uri: document_id for uri, (document_id, _) in found.items() if uri.startswith(f"{base}/")}
    return await _both(
        asked_for,
        lambda name: located(name, documents, rows),
        filter_for(tenant=settings.default_tenant, subject="evals", groups=GROUPS),
        backend, inventory, answers, progress,
    )  # fmt: skip


async def in_memory(
    asked_for: QuestionSet, *, models: Path = Path(".cache/models"), answers: bool = True, progress: Step = lambda: None
) -> tuple[Quality, Ranking]:
    """The set's documents, indexed in memory by the default models; rows of tables are not indexed."""
    embedder = Minilm.load(models)
    backend = offline.offline(embedder, embedder, Bm25Encoder(), ExtractiveGenerator(embedder))
    await offline.index({name: (asked_for.folder / name).read_bytes() for name in asked_for.documents()}, backend)
    uris = [object_uri(offline.BASE, name) for name in asked_for.documents()]
    inventory = {uri: backend.pipeline.ids.document_id(offline.TENANT, "evals", uri) for uri in uris}
    return await _both(
        asked_for,
        lambda name: located(name, offline.BASE, "s3://none/rows"),
        filter_for(tenant=offline.TENANT, subject="evals", groups=("staff",)),
        backend, inventory, answers, progress,
    )  # fmt: skip


async def _both(
    asked_for: QuestionSet, locate: Callable[[str], str], access: AccessFilter, backend: Backend,
    inventory: dict[str, str], answers: bool, progress: Step,
) -> tuple[Quality, Ranking]:  # fmt: skip
    """The index, and BM25 over the whole texts of the documents that the questions' corpus has in it."""
    found = await evaluate(
        asked_for, locate, access, backend, indexed=sorted(inventory), answers=answers, progress=progress
    )
    corpus = {document_id: uri for uri, document_id in inventory.items()}
    parsed = await parsed_documents(sorted(corpus), backend)
    texts = {corpus[document_id]: f"{each.title}\n{each.text}" for document_id, each in parsed.items()}
    return found, baseline(asked_for, locate, texts)
