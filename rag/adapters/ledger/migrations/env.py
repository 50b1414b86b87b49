"""Migration environment. Alembic runs it with the connection that ``rag.adapters.ledger.schema.migrate`` passes on."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], version_table="ledger_version")
with context.begin_transaction():
    context.run_migrations()
