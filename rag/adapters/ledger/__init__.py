"""The ledger on PostgreSQL: one adapter for the ports that must share its transactions. ``schema.migrate`` creates its tables."""

from rag.adapters.ledger.postgres import PostgresLedger, open_ledger

__all__ = ["PostgresLedger", "open_ledger"]
