"""Points are written once: the ledger maps each current point to its chunk, and holds the chunk's place in its document.

Events that report a change are kept with it, until they are published. Points of an older index keep their chunk's id as point id. Such
an index belongs to an older image, so its missing places are never read by this one.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_STATEMENTS = (
    "alter table chunks add column point_id uuid, add column ordinal integer not null default 0,"
    " add column start_char integer not null default 0, add column end_char integer not null default 0, add column page integer",
    "update chunks set point_id = chunk_id",
    "alter table chunks drop constraint chunks_pkey, alter column point_id set not null, add primary key (index_id, point_id)",
    "alter table garbage rename column chunk_id to point_id",
    "alter table garbage drop column document_id, add column is_intent boolean not null default false",
    "create index garbage_by_age on garbage (index_id, noted_at)",
    "create table outbox (id bigint generated always as identity primary key, topic text not null, key text not null,"
    " event jsonb not null, created_at timestamptz not null default now())",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("the ledger is never taken back: restore a backup")
