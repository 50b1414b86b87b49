"""The settings that a document was derived with; deletions that wait for a confirmation; a count of recent deletions.

A document without a hash of its settings is derived again, once, because its settings may have changed since.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_STATEMENTS = (
    "alter table documents add column config_hash text not null default ''",
    "drop index documents_by_source",
    "create index documents_by_source on documents (index_id, tenant, source) where status <> 'deleted'",
    "create table held_deletions (index_id text not null, document_id uuid not null, tenant text not null, source text not null,"
    " is_confirmed boolean not null default false, held_at timestamptz not null default now(), primary key (index_id, document_id))",
    "create index held_deletions_by_source on held_deletions (index_id, tenant, source)",
    "create table deletions (index_id text not null, tenant text not null, source text not null, number integer not null,"
    " deleted_at timestamptz not null default now())",
    "create index deletions_by_source on deletions (index_id, tenant, source, deleted_at)",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("the ledger is never taken back: restore a backup")
