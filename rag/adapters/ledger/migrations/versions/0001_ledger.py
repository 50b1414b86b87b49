"""Initial tables of the ledger."""

from alembic import op

revision = "0001"
down_revision = None

_TABLES = """
create table indexes (
    index_id text primary key,
    dimensions integer not null,
    created_at timestamptz not null default now()
);

-- One row per index and document. Compare-and-swap compares `revision`.
create table documents (
    index_id text not null,
    document_id uuid not null,
    revision bigint not null default 0,
    status text not null default 'deleted',
    tenant text not null default '',
    source text not null default '',
    uri text not null default '',
    partition integer not null default -1,
    version text not null default '',
    stamp text not null default '',
    content_hash text not null default '',
    principals text[] not null default '{}',
    subjects text[] not null default '{}',
    title text not null default '',
    media_type text not null default '',
    language text not null default '',
    reason text not null default '',
    artifacts text[] not null default '{}',
    cause jsonb not null default '{}',
    updated_at timestamptz not null default now(),
    primary key (index_id, document_id)
);
create index documents_by_partition on documents (index_id, partition, document_id);
create index documents_by_tenant on documents (index_id, tenant, document_id);
create index documents_by_source on documents (index_id, source) where status <> 'deleted';

-- The chunks that may be shown: a chunk without a row here is garbage, whatever the vector index holds.
create table chunks (
    index_id text not null,
    chunk_id uuid not null,
    document_id uuid not null,
    payload_hash text not null,
    primary key (index_id, chunk_id)
);
create index chunks_by_document on chunks (index_id, document_id);

-- Chunks that were about to be written, or are no longer current, until a sweep deletes them from the vector index.
create table garbage (
    index_id text not null,
    chunk_id uuid not null,
    document_id uuid not null,
    noted_at timestamptz not null default now(),
    primary key (index_id, chunk_id)
);
create index garbage_by_document on garbage (index_id, document_id);

create table positions (
    index_id text not null,
    topic text not null,
    epoch text not null,
    partition integer not null,
    next_offset bigint not null,
    updated_at timestamptz not null default now(),
    primary key (index_id, topic, epoch, partition)
);

create table revisions (
    index_id text not null,
    tenant text not null,
    revision bigint not null,
    primary key (index_id, tenant)
);

create table embeddings (
    fingerprint text not null,
    tenant text not null,
    key bytea not null,
    document_id uuid not null,
    vector bytea not null,
    used_at timestamptz not null default now(),
    primary key (fingerprint, tenant, key, document_id)
);
create index embeddings_by_document on embeddings (document_id);
create index embeddings_by_age on embeddings (used_at);

create table suppressions (
    tenant text not null,
    id text not null,
    reason text not null,
    suppressed_at timestamptz not null default now(),
    primary key (tenant, id)
);

create table batches (
    run_id text not null,
    step text not null,
    partition integer not null,
    body jsonb not null,
    saved_at timestamptz not null default now(),
    primary key (run_id, step, partition)
);

-- Position up to which a polled source has been read.
create table cursors (
    name text primary key,
    value jsonb not null,
    updated_at timestamptz not null default now()
);

-- Hash of every warehouse row that was announced, so that late commits and deleted rows are detected.
create table row_hashes (
    source text not null,
    table_name text not null,
    key text not null,
    hash text not null,
    primary key (source, table_name, key)
);

create table measurements (
    name text not null,
    labels jsonb not null,
    value double precision not null,
    primary key (name, labels)
);
"""


def upgrade() -> None:
    for statement in _TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("the first migration cannot be undone: restore a backup")
