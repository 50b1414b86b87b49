"""The settings of each source that the consumers declared last. A worker with other settings cannot change a document.

A source that was never declared is checked for nothing, so that a ledger works until its consumers start.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_STATEMENTS = (
    "create table source_settings (source text primary key, digest text not null, declared_at timestamptz not null default now())",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("the ledger is never taken back: restore a backup")
