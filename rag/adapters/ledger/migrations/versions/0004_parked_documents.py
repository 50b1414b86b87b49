"""Documents whose object cannot be read now, with their attempts and the time of the next one."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STATEMENTS = (
    "create table parked (index_id text not null, document_id uuid not null, attempts integer not null,"
    " since timestamptz not null, next_try timestamptz not null, primary key (index_id, document_id))",
    "create index parked_by_next_try on parked (index_id, next_try)",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("the ledger is never taken back: restore a backup")
