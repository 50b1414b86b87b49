"""All settings on one page. Only this module reads the environment; only wiring and the ``__main__`` modules import it.

``python -m deploy.local.example`` prints them as ``.env.example``, with the ports of the local stack.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from rag import production
from rag.no_telemetry import SNOWFLAKE_SESSION
from rag.sources import Source, Sources
from rag.tables import COLUMN, Table, template_columns

_KAFKA_PARTITIONS = Field(
    8, ge=1, le=1024, description="partitions of documents.changed.v1; fixed once the topic exists"
)
_RUN_PARTITIONS = Field(
    4,
    ge=1,
    description="partitions that one Dagster run takes at most: more save process starts, fewer use more machines",
)


Column = Annotated[str, Field(pattern=COLUMN)]


KEY = r"^[A-Za-z0-9+/_-]{43}=?$"  # 32 bytes in base64, of either alphabet
TABLE_NAME = r"^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*){0,2}$"


class TableSettings(BaseModel, extra="forbid"):
    """A warehouse table whose rows become documents."""

    table: str = Field(pattern=TABLE_NAME)
    key: Column | Annotated[tuple[Column, ...], Field(min_length=1)] = "ID"  # several columns: a compound key
    changed: Column = "UPDATED_AT"
    stream: str | None = Field(
        default=None, pattern=TABLE_NAME
    )  # snowflake: a stream of the table; its outbox is <stream>_OUTBOX
    title: Column | None = None
    subjects: tuple[Column, ...] = ()  # columns that identify the people that a row is about
    text: str | None = None  # template of the text, such as "{NAME} wrote: {NOTES}"; without one, every column is read
    principals: tuple[Column, ...] = ()  # columns of the principals that may read the row; null grants access to no one
    principals_prefix: str = Field(default="", pattern=r"^[a-z]*:?$")  # before each of their values, such as "group:"

    @field_validator("text")
    @classmethod
    def _template(cls, value: str | None) -> str | None:
        if value is not None:
            template_columns(value)
        return value

    def mapped(self) -> Table:
        """Return the table as the domain knows it."""
        return Table(
            self.table,
            self.key,
            self.changed,
            self.title,
            self.subjects,
            self.text,
            self.principals,
            self.principals_prefix,
        )


class SourceSettings(BaseModel, extra="forbid"):
    """One source: its address, its tenant, and the principals of objects without labels of their own."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")
    kind: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$", description="a name in KINDS of consumers/sources.py")
    tenant: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    base_uri: str = Field(
        pattern=r"^[a-z0-9]+://[A-Za-z0-9._~/!$&()*+,;=:@-]+$", description="canonical: no spaces, no %-escapes"
    )
    principals: tuple[str, ...] = Field(min_length=1)
    rules: dict[str, tuple[str, ...]] = {}
    tables: tuple[TableSettings, ...] = ()
    queue_url: str = ""  # s3: the SQS queue of the bucket's notifications
    options: dict[str, Any] = {}  # settings of one kind alone, which its module describes and checks

    @field_validator("tables")
    @classmethod
    def _tables_apart(cls, value: tuple[TableSettings, ...]) -> tuple[TableSettings, ...]:
        """Refuse two tables whose rows would share objects."""
        names = [each.table.lower() for each in value]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"table {twice[0]!r} is mapped twice (case does not count): map it once in a source")
        return value

    def source(self) -> Source:
        """Return the source as the domain knows it."""
        mappings = {f"{each.table.lower()}/": each.mapped().mapping for each in self.tables}
        return Source(self.name, self.tenant, self.base_uri.rstrip("/"), self.principals, self.rules, mappings)


class Settings(BaseSettings):
    """The settings, read from the environment, then from ``.env``, then from the env file of a local stack."""

    model_config = SettingsConfigDict(
        env_file=(".env",),
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,  # the input of a validator holds every secret
    )

    tidemark_environment: Literal["development", "production"] = Field(
        "production",
        description="production refuses weak secrets, missing TLS and missing limits (rag/production.py); development does not",
    )
    allow_insecure: Annotated[frozenset[str], NoDecode] = Field(
        frozenset(),
        description="names of settings, comma-separated, that production must accept although it would refuse them,"
        " for example REDIS_URL,QDRANT_URL in a network that encrypts by itself",
    )
    tidemark_stack: Path | None = Field(None, description="folder of a local stack whose env file is read as well")
    identity_secret: SecretStr = Field(description="the key of every id, 16 bytes or more; losing it orphans the index")
    signing_key: SecretStr | None = Field(
        None,
        description="private Ed25519 key of signed certificates and audit checkpoints: 32 random bytes in base64; to replace it, first"
        " add its x of /.well-known/tidemark/jwks.json to SIGNING_PUBLIC_KEYS",
    )
    signing_public_keys: tuple[Annotated[str, Field(pattern=KEY)], ...] = Field(
        (), description="JSON: the public keys of earlier signing keys, whose signatures must still verify"
    )

    # events
    kafka_bootstrap: str = Field("127.0.0.1:19092", description="host:port, comma-separated")
    kafka_partitions: int = _KAFKA_PARTITIONS
    run_partitions: int = _RUN_PARTITIONS
    kafka_client_config: Path | None = Field(
        None,
        description="file of key=value lines: TLS, SASL and credentials for Kafka and registry (schemas/clients.py)",
    )
    schema_registry_url: str = Field("http://127.0.0.1:18081/apis/ccompat/v7", description="Confluent-compatible")

    # stores
    database_url: SecretStr = Field(description="PostgreSQL: ledger, catalog, audit")
    database_pool: int = Field(8, ge=1, description="connections per process at most")
    qdrant_url: str = "http://127.0.0.1:16333"
    qdrant_api_key: SecretStr | None = None
    qdrant_read_only_api_key: SecretStr | None = Field(
        None,
        description="key of the gateway, which only reads; when unset, it uses QDRANT_API_KEY and creates a missing index",
    )
    qdrant_shard_number: int = Field(
        1,
        ge=1,
        description="shards of a new collection; each shard counts word frequencies by itself, so BM25 ranks, and with them the"
        " results, depend on this number",
    )
    qdrant_replication_factor: int = Field(
        1,
        ge=1,
        description="copies of each shard of a new collection; with 1, losing a node loses its part of the index",
    )
    redis_url: SecretStr = Field(SecretStr("redis://127.0.0.1:16379/0"), description="answer cache, rate limits")
    artifacts_url: str = Field("file:///var/lib/tidemark/artifacts", description="s3://bucket/prefix or file:///folder")
    models_dir: Path = Field(Path(".cache/models"), description="folder where the default model is built once")

    # object storage
    s3_endpoint_url: str | None = Field(None, description="only for S3-compatible servers other than AWS")
    s3_bucket: str = Field("tidemark-documents", description="the watched bucket")
    s3_queue_url: str = Field("", description="SQS queue of the bucket's notifications")
    internal_bucket: str = Field("tidemark-internal", description="row objects and uploads")
    aws_access_key_id: SecretStr | None = None
    aws_secret_access_key: SecretStr | None = None
    aws_region: str = "eu-central-1"
    inbox_dir: Path | None = Field(None, description="watched folder")
    google_application_credentials: Path | None = Field(
        None,
        description="file of a Google service account for sources of the kind gcs; when unset, the ambient identity",
    )
    gcs_endpoint_url: str | None = Field(None, description="only for a server other than Google's")
    azure_storage_account_name: str | None = Field(None, description="storage account of the sources of the kind azure")
    azure_storage_account_key: SecretStr | None = Field(None, description="when unset, the ambient identity is used")
    azure_endpoint_url: str | None = Field(None, description="only for a server other than Azure's")

    # warehouse
    snowflake_host: str | None = None
    snowflake_port: int | None = None
    snowflake_protocol: Literal["http", "https"] = "https"
    snowflake_account: str = "tidemark"
    snowflake_user: str = ""
    snowflake_password: SecretStr | None = None
    snowflake_database: str = "TIDEMARK"
    snowflake_schema: str = "PUBLIC"
    snowflake_warehouse: str | None = None
    snowflake_role: str | None = None

    # sources
    default_tenant: str = Field("acme", description="tenant of the built-in sources")
    default_principals: tuple[str, ...] = Field(
        ("group:staff",), description="principals of objects without labels of their own"
    )
    sources: tuple[SourceSettings, ...] = Field(
        (), description="JSON; replaces the built-in s3, folder, snowflake, uploads"
    )
    source_rules: dict[str, tuple[str, ...]] = Field(
        {"finance/": ("group:finance",), "people/": ("group:people",)},
        description="JSON: key prefix to principals, for the built-in s3 source",
    )
    snowflake_tables: Annotated[tuple[TableSettings, ...], NoDecode] = Field(
        (), description="tables of the built-in snowflake source: TABLE:KEY:CHANGED[:TITLE] comma-separated, or JSON"
    )
    poll_seconds: float = Field(2.0, gt=0, description="seconds between two polls of a table or the folder")
    reconcile_seconds: float = Field(300.0, gt=0, description="seconds between two full listings or key comparisons")
    announce_again_seconds: float = Field(
        900.0, gt=0, description="seconds until a change whose event was read, but not applied, is announced again"
    )
    erasure_deadline_days: float = Field(
        30.0, gt=0, description="days in which an erasure must be certified, as the law or a contract demands"
    )
    read_only_sources: tuple[str, ...] = Field(
        (),
        description="JSON: names of sources whose objects the platform may not delete; an erasure leaves them there, and its certificate"
        " says so",
    )
    erasure_settle_seconds: float = Field(
        5.0,
        ge=0,
        description="seconds from the erasure in all stores to its verification, in which late requests come to an end",
    )
    source_unhealthy_seconds: float = Field(
        120.0, ge=0, description="seconds that a source may fail before /healthz of the consumers answers 503"
    )
    overlap_seconds: float = Field(60.0, ge=0, description="seconds that a table poll looks back for late commits")

    # parsing and chunking
    parse_seconds: float = Field(30.0, gt=0)
    parse_memory_bytes: int = Field(2**30, ge=2**27)
    parse_input_bytes: int = Field(100 * 2**20, ge=1)
    parse_pages: int = Field(2000, ge=1)
    parse_workers: int = Field(2, ge=1)
    parked_retry_seconds: float = Field(
        60.0, gt=0, description="first wait before a parked document is tried again; each next wait is twice as long"
    )
    parked_retry_longest_seconds: float = Field(3600.0, gt=0, description="longest wait between two such tries")
    dead_limit: int = Field(
        500,
        ge=0,
        description="documents of one batch that may newly become dead although they are most of it; more stop the lane",
    )
    parked_stale_seconds: float = Field(
        7 * 86_400.0, ge=0, description="time for which the older version of a parked document is served; 0: not at all"
    )

    # models
    embedder: Literal["minilm", "onnx", "openai", "hash"] = Field(
        "minilm", description="hash costs nothing and knows no meaning: for measurements of everything else"
    )
    embedder_dir: Path | None = Field(None, description="onnx: folder with model.onnx and tokenizer.json")
    embedder_pooling: Literal["mean", "cls"] = "mean"
    embedder_query_prefix: str = ""
    embedder_document_prefix: str = ""
    embedder_dimensions: int = 384
    embedder_model: str = Field("text-embedding-3-small", description="openai: model name")
    embedder_threads: int = Field(0, ge=0, description="0: one per core")
    embedding_cache_rows: int = Field(2_000_000, ge=0)
    embedding_cache_days: float = Field(90, gt=0)
    openai_base_url: str | None = Field(None, description="any OpenAI-compatible server")
    openai_api_key: SecretStr | None = None
    llm_model: str | None = Field(None, description="model of OPENAI_BASE_URL; when unset, answers are extractive")
    llm_context_window: int = Field(32_768, ge=1024, description="tokens that the model accepts")
    cohere_api_key: SecretStr | None = Field(None, description="when set, Cohere reranks")
    cohere_base_url: str | None = None
    cohere_model: str = "rerank-v3.5"

    # gateway
    gateway_host: str = "127.0.0.1"
    gateway_port: int = Field(18000, ge=1, le=65535)
    gateway_url: str = "http://127.0.0.1:18000"
    gateway_trusted_proxies: str = Field(
        "", description="addresses or networks, comma-separated, of the proxies whose X-Forwarded-For names the client"
    )
    gateway_patience_seconds: float = Field(
        30.0, gt=0, description="time of a client for a request's head; so long it may also neither send nor read"
    )
    metrics_host: str = Field("127.0.0.1", description="gateway and consumers: address on which /metrics listens")
    gateway_metrics_port: int = Field(18001, ge=0, le=65535, description="gateway: /metrics, apart from the API")
    metrics_port: int = Field(18010, ge=0, le=65535, description="consumers: /metrics and /healthz")
    stream_metrics_port: int = Field(18011, ge=0, le=65535, description="stream lane: /metrics and /healthz")
    oidc_issuer: str = Field("", description="issuer of the accepted tokens; its discovery document is read")
    oidc_audience: str = "tidemark"
    oidc_client_id: str = Field("demo", description="client of the tidemark CLI for client credentials")
    oidc_client_secret: SecretStr | None = None
    oidc_docs_client_id: str = Field("tidemark-docs", description="public client of the API page")
    oidc_tenant_claim: str = "tenant"
    oidc_groups_claim: str = "groups"
    oidc_token_types: tuple[str, ...] = Field(
        ("at+jwt",),
        min_length=1,
        description="JSON: accepted typ of a token's header; some issuers write JWT, and an empty text accepts a missing typ",
    )
    upload_bytes: int = Field(100 * 2**20, ge=1)
    rate_limit: int = Field(120, ge=0, description="requests a minute of one caller; 0: no limit")
    failed_login_limit: int = Field(
        60, ge=0, description="refused tokens a minute of one client address before it gets 429; 0: no limit"
    )
    answer_ttl_seconds: float = Field(3600, ge=0)
    dagster_url: str = Field(
        "http://127.0.0.1:18030",
        description="Dagster's webserver, to which the stream lane and erasures are reported; empty: no reports",
    )

    # audit log
    audit_questions: Literal["hash", "text", "none"] = Field(
        "hash", description="what an entry keeps of a question; a text can never be erased from the log"
    )
    audit_queries: Literal["answer", "refuse"] = Field(
        "answer",
        description="when the log cannot be written: answer and count the loss, or refuse; erasures are always refused",
    )
    audit_url: str = Field(
        "",
        description="s3://bucket/prefix of the signed checkpoints, under a retention lock; default: audit/ of INTERNAL_BUCKET",
    )
    audit_checkpoint_seconds: float = Field(60.0, gt=0, description="seconds between two checkpoints of a growing log")

    # telemetry
    otel_exporter_otlp_endpoint: str | None = Field(None, description="OTLP over HTTP; when unset, nothing is exported")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("snowflake_tables", mode="before")
    @classmethod
    def _tables(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.startswith("["):
            return json.loads(value)
        names = ("table", "key", "changed", "title")
        return [dict(zip(names, item.split(":"), strict=False)) for item in value.split(",") if item]

    @field_validator("allow_insecure", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        names = value.split(",") if isinstance(value, str) else value
        allowed = {name.strip().upper() for name in names if name.strip()}
        if unknown := sorted(allowed - set(production.CHECKED)):
            raise ValueError(
                f"{unknown[0][:80]!r} is not a setting that production refuses: {', '.join(production.CHECKED)}"
            )
        return allowed

    @field_validator("signing_key")
    @classmethod
    def _key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.match(KEY, value.get_secret_value()):
            raise ValueError("SIGNING_KEY is not 32 bytes in base64: take those of `openssl rand -base64 32`")
        return value

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if len(self.identity_secret.get_secret_value().encode()) < 16:
            raise ValueError("IDENTITY_SECRET has fewer than 16 bytes: take 32 random ones")
        if self.tidemark_environment == "development":
            return self
        refused = {name: why for name, why in production.find_insecure(self).items() if name not in self.allow_insecure}
        if refused:
            faults = "".join(f"\n- {name} {why}" for name, why in refused.items())
            raise ValueError(
                f"production refuses {len(refused)} settings; each can be corrected, or accepted by its name in"
                f" ALLOW_INSECURE={','.join(refused)}{faults}"
            )
        return self

    @model_validator(mode="after")
    def _apart(self) -> Self:
        """Refuse a source inside another, which would index documents twice, perhaps for another tenant."""
        addresses = [(each.name, each.base_uri.rstrip("/") + "/") for each in self.configured_sources]
        names = [name for name, _ in addresses]
        if len(set(names)) < len(names):
            raise ValueError(f"SOURCES has a name twice: {', '.join(sorted(names))}")
        for name, address in addresses:
            for other, inside in addresses:
                if name != other and inside.startswith(address):
                    raise ValueError(
                        f"source {other!r} ({inside}) lies within source {name!r} ({address}): keep them apart"
                    )
        return self

    @model_validator(mode="after")
    def _read_only(self) -> Self:
        """Refuse a read-only source that is unknown, or whose objects the platform wrote itself and must erase."""
        own = f"s3://{self.internal_bucket}/"
        addresses = {each.name: each.base_uri for each in self.configured_sources}
        for name in self.read_only_sources:
            if name not in addresses:
                raise ValueError(
                    f"READ_ONLY_SOURCES names {name!r}, which is not a source (sources: {', '.join(sorted(addresses))})"
                )
            if addresses[name].startswith(own):
                raise ValueError(
                    f"READ_ONLY_SOURCES names {name!r}, but its objects are the platform's own copies: remove it"
                )
        return self

    @cached_property
    def configured_sources(self) -> tuple[SourceSettings, ...]:
        return self.sources or tuple(self._built_in_sources())

    def _built_in_sources(self) -> list[SourceSettings]:
        common: dict[str, Any] = {"tenant": self.default_tenant, "principals": self.default_principals}
        internal = f"s3://{self.internal_bucket}"
        built_in = [
            SourceSettings(name="s3", kind="s3", base_uri=f"s3://{self.s3_bucket}", queue_url=self.s3_queue_url,
                           rules=self.source_rules, **common),
            SourceSettings(name="uploads", kind="uploads", base_uri=f"{internal}/uploads", **common),
        ]  # fmt: skip
        if self.inbox_dir:
            folder = SourceSettings(
                name="folder", kind="folder", base_uri="folder://inbox", rules=self.source_rules, **common
            )
            built_in.append(folder)
        if self.snowflake_tables:
            built_in.append(SourceSettings(name="snowflake", kind="snowflake", base_uri=f"{internal}/rows",
                                           tables=self.snowflake_tables, **common))  # fmt: skip
        return built_in

    @property
    def required_signing_key(self) -> str:
        """Return the key of a process that signs: gateway and consumers. Raises ValueError in production when it is not set; in
        development an empty text, for a key that ends with the process."""
        if self.signing_key is None:
            if self.tidemark_environment == "production" and "SIGNING_KEY" not in self.allow_insecure:
                raise ValueError(
                    "SIGNING_KEY is not set: gateway and consumers sign with it; take 32 random bytes in base64"
                )
            return ""
        return self.signing_key.get_secret_value()

    @property
    def audit_folder(self) -> str:
        """Return the uri of the folder of the audit log's checkpoints."""
        return self.audit_url.rstrip("/") or f"s3://{self.internal_bucket}/audit"

    def source_registry(self) -> Sources:
        return Sources({settings.name: settings.source() for settings in self.configured_sources})


class Partitions(BaseSettings):
    """The settings that shape the asset graph; they are readable without any secret."""

    model_config = SettingsConfigDict(extra="ignore", env_ignore_empty=True)
    kafka_partitions: int = _KAFKA_PARTITIONS
    run_partitions: int = _RUN_PARTITIONS


def _files(stack: Path | None) -> tuple[Path, ...]:
    import os

    folder = stack or (Path(os.environ["TIDEMARK_STACK"]) if "TIDEMARK_STACK" in os.environ else None)
    return (folder / "env", Path(".env")) if folder else (Path(".env"),)


def partitions() -> Partitions:
    """Return the number of partitions of ``documents.changed.v1``, hence of the assets, and of those that a run takes."""
    return Partitions(_env_file=_files(None))


def load(stack: Path | None = None) -> Settings:
    """Read the settings of the environment, then those of a local stack's env file when ``stack`` or TIDEMARK_STACK names one.

    Raises pydantic's ValidationError, which names each missing or wrong variable.
    """
    return Settings(_env_file=_files(stack))


def snowflake_parameters(settings: Settings) -> dict[str, Any]:
    """Return the arguments of ``snowflake.connector.connect``."""
    named: dict[str, Any] = {
        "account": settings.snowflake_account,
        "user": settings.snowflake_user,
        "password": settings.snowflake_password.get_secret_value() if settings.snowflake_password else None,
        "database": settings.snowflake_database,
        "schema": settings.snowflake_schema,
        "warehouse": settings.snowflake_warehouse,
        "role": settings.snowflake_role,
        "host": settings.snowflake_host,
        "port": settings.snowflake_port,
        "protocol": settings.snowflake_protocol,
        "session_parameters": {**SNOWFLAKE_SESSION, "TIMEZONE": "UTC"},
        # An own SNOWFLAKE_HOST is not in a cloud: detecting one would cost seconds at each login.
        "platform_detection_timeout_seconds": 0.0 if settings.snowflake_host else None,
        "login_timeout": 10,
        "network_timeout": 60,
    }
    return {name: value for name, value in named.items() if value is not None}


def example() -> str:
    """Return every setting with its default, as lines of an env file."""
    lines = []
    for name, field in Settings.model_fields.items():
        if field.description:
            lines.append(f"# {field.description}")
        default = "" if field.is_required() or field.default is None else _plain(field.default)
        lines.append(f"{'' if field.is_required() else '# '}{name.upper()}={default}")
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, frozenset):
        return ",".join(sorted(value))
    return json.dumps(value) if isinstance(value, (tuple, dict)) else str(value)
