"""Chunks are found by point and by document alone.

With the index's id first, PostgreSQL took one of these keys to read every chunk of an index that it had not analyzed yet.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_STATEMENTS = (
    "alter table chunks drop constraint chunks_pkey, add primary key (point_id, index_id)",
    "drop index chunks_by_document",
    "create index chunks_by_document on chunks (document_id, index_id)",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("the ledger is never taken back: restore a backup")
