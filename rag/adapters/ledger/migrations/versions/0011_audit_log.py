"""The audit log: a chain of entries for each tenant, which no statement may change.

The owner of the tables can disable a trigger. The chain and its signed checkpoints show what was changed then.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_STATEMENTS = (
    """
    create table audit_entries (
        tenant text not null,
        number bigint not null,
        previous text not null,
        link text not null,
        event_id uuid not null unique,
        at timestamptz not null,
        actor text not null,
        action text not null,
        objects text[] not null,
        outcome text not null,
        reason text not null,
        details jsonb not null,
        seal text not null,
        primary key (tenant, number)
    )
    """,
    "create index audit_entries_by_time on audit_entries (tenant, at)",
    "create index audit_entries_by_actor on audit_entries (tenant, actor, number)",
    "create index audit_entries_by_object on audit_entries using gin (objects)",
    # The last entry of each chain. A row that is locked lets one writer at a time append.
    "create table audit_heads (tenant text primary key, number bigint not null, link text not null)",
    """
    create function audit_is_append_only() returns trigger language plpgsql as $$
    begin
        if tg_table_name = 'audit_heads' and tg_op = 'UPDATE' then
            if new.tenant = old.tenant and new.number > old.number then
                return new;
            end if;
        end if;
        raise exception 'the audit log is append-only: % of % is refused', tg_op, tg_table_name
            using errcode = 'insufficient_privilege';
    end
    $$
    """,
    """
    create trigger append_only before update or delete on audit_entries
    for each row execute function audit_is_append_only()
    """,
    """
    create trigger append_only before update or delete on audit_heads
    for each row execute function audit_is_append_only()
    """,
    """
    create trigger no_truncate before truncate on audit_entries
    for each statement execute function audit_is_append_only()
    """,
    """
    create trigger no_truncate before truncate on audit_heads
    for each statement execute function audit_is_append_only()
    """,
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("the ledger is never taken back: restore a backup")
