"""A batch is saved in rows of bounded size: that of a backfill holds every document of a partition."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_STATEMENTS = (
    "alter table batches add column part integer not null default 0",
    "alter table batches drop constraint batches_pkey",
    "alter table batches add primary key (run_id, step, partition, part)",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("the ledger is never taken back: restore a backup")
