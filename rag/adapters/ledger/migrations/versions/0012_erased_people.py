"""The people that no document may mention, and the documents that an officer left out of a person's erasure.

The length of an identifier tells which parts of a text may be it. The people of earlier erasures are refused where they are declared,
as before: neither the length nor the documents that were left out were recorded.
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
        length integer not null,
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
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("the ledger is never taken back: restore a backup")
