"""Legal holds: what nobody may erase while they stand."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        create table legal_holds (
            hold_id uuid primary key,
            tenant text not null,
            scope text not null,
            source text not null,
            uri_prefix text not null,
            document_id uuid,
            actor text not null,
            reason text not null,
            placed_at timestamptz not null default now()
        )
        """
    )
    op.execute("create index legal_holds_by_scope on legal_holds (tenant, scope)")


def downgrade() -> None:
    raise NotImplementedError("the ledger is never taken back: restore a backup")
