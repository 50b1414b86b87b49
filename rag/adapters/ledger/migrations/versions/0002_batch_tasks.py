"""Batches of references: ``works`` becomes ``tasks``, and ``stamp`` becomes ``change_token``.

The bodies are the domain's own dataclasses. They are kept for a day, so a run that continues after an upgrade must still read them.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_RENAME = """
update batches set body = (body - '{old_list}') || jsonb_build_object('{new_list}', coalesce(
    (select jsonb_agg((task - '{old_field}') || jsonb_build_object('{new_field}', coalesce(task -> '{old_field}', '""'::jsonb))
                      order by place)
     from jsonb_array_elements(body -> '{old_list}') with ordinality as listed (task, place)), '[]'::jsonb))
where body ? '{old_list}'
"""


def upgrade() -> None:
    op.execute(_RENAME.format(old_list="works", new_list="tasks", old_field="stamp", new_field="change_token"))


def downgrade() -> None:
    op.execute(_RENAME.format(old_list="tasks", new_list="works", old_field="change_token", new_field="stamp"))
