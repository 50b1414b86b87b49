"""The people that no document may mention, and the documents that an officer left out of a person's erasure.

Earlier erasures did not record which documents were left out. Their people are taken over only where no document was.
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    create table erased_people (
        tenant text not null,
        subject_id text not null,
        erased_at timestamptz not null default now(),
        primary key (tenant, subject_id)
    )
    """,
    """
    create table spared_documents (
        tenant text not null,
        document_id uuid not null,
        subject_id text not null,
        primary key (tenant, document_id, subject_id)
    )
    """,
    """
    insert into erased_people (tenant, subject_id)
    select distinct tenant, jsonb_array_elements_text(body -> 'subject_ids') from erasures
    where coalesce((body -> 'affected' ->> 'excluded')::int, 0) = 0
    on conflict do nothing
    """,
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("the ledger is never taken back: restore a backup")
