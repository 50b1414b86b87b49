"""The composition root: the only module that knows the adapters. It creates no client at import."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from rag.adapters.kafka import KafkaEventLog
from rag.adapters.ledger import open_ledger
from rag.adapters.objects import Bucket, Container, Folder, Objects, Remote, aws_client, azure_store, gcs_store
from rag.adapters.qdrant import Layout, QdrantIndex
from rag.adapters.redis import RedisAnswerCache
from rag.answer.answering import Answering
from rag.ids import Ids, fingerprint, object_key
from rag.ingest import chunking, indexing, parsing
from rag.ingest.artifacts import CONTAINER, Artifacts
from rag.ingest.parking import ParkingPolicy
from rag.ingest.parsing.sandbox import ParseLimits, SandboxedParser
from rag.ingest.pipeline import Pipeline
from rag.ingest.roots import Roots
from rag.ingest.source_reader import Reader
from rag.models import IndexSpec
from rag.ports import (
    AnswerCache,
    Embedder,
    EventLog,
    Generator,
    Reranker,
    SparseEncoder,
    Stores,
    Tokenizer,
    VectorIndex,
)
from rag.settings import Settings
from rag.sources import Sources
from schemas.clients import client_options


@dataclass(frozen=True)
class Services:
    """The services that an entry point uses. Each event loop opens its own; the models are shared by the process."""

    settings: Settings
    spec: IndexSpec
    ids: Ids
    sources: Sources
    objects: Objects
    events: EventLog
    ledger: Stores
    vectors: VectorIndex
    cache: AnswerCache
    pipeline: Pipeline
    answering: Answering


@asynccontextmanager
async def services(settings: Settings, *, reads_only: bool = False) -> AsyncIterator[Services]:
    """Open the services of the settings. Connections open lazily, so a dead dependency is reported by its first caller.

    With ``reads_only``, the vector index is opened with the read-only key when one is set.
    """
    models = _models(settings)
    embedder, tokenizer, sparse = models
    ids = Ids(settings.identity_secret.get_secret_value().encode())
    sources = settings.source_registry()
    objects = _objects(settings)
    limits = chunking.ChunkSettings()
    spec = index_spec(embedder, sparse, limits)
    client = client_options(settings.kafka_client_config)
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(
            open_ledger(settings.database_url.get_secret_value(), pool_size=settings.database_pool)
        )
        vectors = await stack.enter_async_context(
            QdrantIndex.open(
                settings.qdrant_url,
                qdrant_key(settings, reads_only=reads_only),
                Layout(settings.qdrant_shard_number, settings.qdrant_replication_factor),
            )
        )
        events = await stack.enter_async_context(
            KafkaEventLog.open(
                settings.kafka_bootstrap,
                settings.schema_registry_url,
                options=client.kafka,
                registry_options=client.registry,
            )
        )
        answers = await stack.enter_async_context(RedisAnswerCache.open(settings.redis_url.get_secret_value()))
        pipeline = Pipeline(
            spec=spec,
            ids=ids,
            reader=Reader(ids, sources, objects, Roots(objects, ledger), settings.parse_input_bytes),
            artifacts=Artifacts(objects),
            ledger=ledger,
            catalog=ledger,
            cache=ledger,
            vectors=vectors,
            parser=_parser(settings),
            tokenizer=tokenizer,
            embedder=embedder,
            sparse=sparse,
            chunking=limits,
            parking=ParkingPolicy(
                settings.parked_retry_seconds, settings.parked_retry_longest_seconds, settings.parked_stale_seconds
            ),
            dead_limit=settings.dead_limit,
        )
        answering = Answering(
            index_id=spec.index_id,
            ids=ids,
            embedder=embedder,
            sparse=sparse,
            vectors=vectors,
            ledger=ledger,
            reranker=_reranker(settings),
            generator=_generator(settings, embedder),
            cache=answers,
            ttl=settings.answer_ttl_seconds,
        )
        yield Services(
            settings=settings,
            spec=spec,
            ids=ids,
            sources=sources,
            objects=objects,
            events=events,
            ledger=ledger,
            vectors=vectors,
            cache=answers,
            pipeline=pipeline,
            answering=answering,
        )


def index_spec(embedder: Embedder, sparse: SparseEncoder, limits: chunking.ChunkSettings) -> IndexSpec:
    """Return the spec whose id is the fingerprint of all versions and settings that determine the points.

    If one of them changes, a new index is built beside the old one.
    """
    parts: dict[str, object] = {
        "parsing": parsing.VERSION,
        "unstructured": version("unstructured"),
        "pypdfium2": version("pypdfium2"),
        "lingua": version("lingua-language-detector"),
        "embedder": embedder.fingerprint,
        "sparse": sparse.fingerprint,
        "payload": indexing.VERSION,
        "chunking": sorted(limits.fingerprint().items()),
    }
    return IndexSpec(fingerprint(parts), embedder.dimensions)


def _reveal(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def qdrant_key(settings: Settings, *, reads_only: bool) -> str | None:
    """Return the API key for Qdrant: for a reader, the read-only key when one is set."""
    read_only = _reveal(settings.qdrant_read_only_api_key) if reads_only else None
    return read_only or _reveal(settings.qdrant_api_key)


def aws(settings: Settings, service: str, *, read_timeout: float = 30) -> Any:
    """Create a client of the AWS ``service`` for the configured account or endpoint. ``read_timeout`` is in seconds."""
    return aws_client(
        service,
        region=settings.aws_region,
        endpoint=settings.s3_endpoint_url,
        key_id=_reveal(settings.aws_access_key_id),
        secret=_reveal(settings.aws_secret_access_key),
        read_timeout=read_timeout,
    )


def _objects(settings: Settings) -> Objects:
    s3 = aws(settings, "s3")
    buckets = (settings.s3_bucket, settings.internal_bucket, urlsplit(settings.audit_folder).netloc)
    containers: dict[str, Container] = {f"s3://{name}": Bucket(s3, name) for name in buckets}
    if settings.inbox_dir:
        containers["folder://inbox"] = Folder(settings.inbox_dir)
    containers |= remote_containers(settings)
    url = urlsplit(settings.artifacts_url)
    if url.scheme == "file":
        containers[CONTAINER] = Folder(Path(unquote(url.path)), create=True)
    else:
        prefix = url.path.strip("/")
        containers[CONTAINER] = Bucket(s3, url.netloc, f"{prefix}/" if prefix else "")
    return Objects(containers)


def remote_containers(settings: Settings) -> dict[str, Container]:
    """Return the containers of the sources of the kinds gcs and azure. Raises ValueError for an address of another scheme."""
    containers: dict[str, Container] = {}
    for source in settings.configured_sources:
        if source.kind not in {"azure", "gcs"}:
            continue
        address, _ = object_key(source.base_uri)
        scheme, _, name = address.partition("://")
        if scheme != {"azure": "az", "gcs": "gs"}[source.kind]:
            raise ValueError(
                f"source {source.name!r} of the kind {source.kind} has the base_uri {source.base_uri!r}:"
                " write gs://BUCKET for gcs and az://CONTAINER for azure"
            )
        if scheme == "gs":
            key_file = settings.google_application_credentials
            store = gcs_store(name, endpoint=settings.gcs_endpoint_url, credentials=str(key_file) if key_file else None)
        else:
            store = azure_store(
                name,
                endpoint=settings.azure_endpoint_url,
                account=settings.azure_storage_account_name,
                key=_reveal(settings.azure_storage_account_key),
            )
        containers[address] = Remote(store, address)
    return containers


@cache
def _load_models(
    kind: str,
    directory: Path | None,
    models_dir: Path,
    threads: int,
    pooling: Literal["mean", "cls"],
    prefixes: tuple[str, str],
    dimensions: int,
) -> tuple[Embedder, Tokenizer, SparseEncoder]:
    from rag.adapters.embedders.bm25 import Bm25Encoder
    from rag.adapters.embedders.minilm import Minilm
    from rag.adapters.embedders.onnx import OnnxEmbedder

    if kind == "hash":
        from rag.adapters.memory.models import HashEmbedder

        hashed = HashEmbedder(dimensions)
        return hashed, hashed, Bm25Encoder()
    if kind == "onnx":
        if directory is None:
            raise ValueError("EMBEDDER=onnx needs EMBEDDER_DIR: set it to a folder with model.onnx and tokenizer.json")
        model = OnnxEmbedder.load(
            directory,
            pooling=pooling,
            query_prefix=prefixes[0],
            document_prefix=prefixes[1],
            dimensions=dimensions,
            threads=threads,
        )
    else:
        model = Minilm.load(models_dir, threads=threads)
    return model, model, Bm25Encoder()


def _models(settings: Settings) -> tuple[Embedder, Tokenizer, SparseEncoder]:
    local = _load_models(
        "minilm" if settings.embedder == "openai" else settings.embedder,
        settings.embedder_dir,
        settings.models_dir.absolute(),
        settings.embedder_threads,
        settings.embedder_pooling,
        (settings.embedder_query_prefix, settings.embedder_document_prefix),
        settings.embedder_dimensions,
    )
    if settings.embedder != "openai":
        return local
    from llama_index.embeddings.openai import OpenAIEmbedding

    from rag.adapters.embedders.hosted import HostedEmbedder

    hosted = OpenAIEmbedding(
        model_name=settings.embedder_model,
        api_base=settings.openai_base_url,
        api_key=_reveal(settings.openai_api_key),
        dimensions=settings.embedder_dimensions,
        max_retries=0,
    )
    return HostedEmbedder(hosted, dimensions=settings.embedder_dimensions), local[1], local[2]


@cache
def _sandbox(limits: ParseLimits, workers: int) -> SandboxedParser:
    return SandboxedParser(limits, workers=workers)


def _parser(settings: Settings) -> SandboxedParser:
    limits = ParseLimits(
        seconds=settings.parse_seconds,
        memory_bytes=settings.parse_memory_bytes,
        input_bytes=settings.parse_input_bytes,
        pages=settings.parse_pages,
    )
    return _sandbox(limits, settings.parse_workers)


def _reranker(settings: Settings) -> Reranker:
    key = _reveal(settings.cohere_api_key)
    if key is None:
        from rag.adapters.memory.models import KeepOrder

        return KeepOrder()
    from rag.adapters.rerankers.cohere import CohereReranker

    return CohereReranker(key, base_url=settings.cohere_base_url, model=settings.cohere_model)


def _generator(settings: Settings, embedder: Embedder) -> Generator:
    if settings.llm_model is None:
        from rag.adapters.llms.extractive import ExtractiveGenerator

        return ExtractiveGenerator(embedder)
    from llama_index.llms.openai_like import OpenAILike

    from rag.adapters.llms.hosted import HostedGenerator

    llm = OpenAILike(
        model=settings.llm_model,
        api_base=settings.openai_base_url,
        api_key=_reveal(settings.openai_api_key),
        is_chat_model=True,
        context_window=settings.llm_context_window,
        max_retries=0,
    )
    return HostedGenerator(llm)
