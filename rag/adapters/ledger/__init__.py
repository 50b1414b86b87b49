"""The ledger on PostgreSQL: one adapter for the ports that must share its transactions."""

from rag.adapters.ledger.postgres import PostgresLedger, open_ledger
from rag.adapters.ledger.schema import migrate

__all__ = ["PostgresLedger", "migrate", "open_ledger"]
