"""Accepted erasures, and outbox entries that are tombstones."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    create table erasures (
        erasure_id uuid primary key,
        tenant text not null,
        next_at timestamptz,
        body jsonb not null
    )
    """,
    "create index erasures_by_tenant on erasures (tenant, erasure_id)",
    "create index erasures_by_time on erasures (next_at) where next_at is not null",
    "create index documents_by_subject on documents using gin (subjects)",
    "alter table outbox alter column event drop not null",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("the ledger is never taken back: restore a backup")
