"""Access rules, and the scopes of a document that they may name.

Documents of an older index have no scopes, so no rule reaches them. A gateway that knows rules serves a newer index.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_STATEMENTS = (
    "alter table documents add column scopes text[] not null default '{}'",
    """
    create table access_rules (
        rule_id uuid primary key,
        tenant text not null,
        scope text not null,
        principal text not null,
        effect text not null check (effect in ('grant', 'revoke')),
        source text not null,
        uri_prefix text not null default '',
        document_id uuid,
        actor text not null default '',
        reason text not null default '',
        decided_at timestamptz not null default now(),
        unique (tenant, principal, scope)
    )
    """,
    "create index access_rules_by_scope on access_rules (tenant, scope)",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("the ledger is never taken back: restore a backup")
