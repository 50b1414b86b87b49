"""Connections to PostgreSQL, and the ledger composed of its parts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from psycopg import AsyncConnection, InterfaceError, OperationalError
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from rag.adapters.ledger.access import AccessPart
from rag.adapters.ledger.audit import AuditPart
from rag.adapters.ledger.catalog import CatalogPart
from rag.adapters.ledger.deletions import DeletionsPart
from rag.adapters.ledger.documents import DocumentsPart
from rag.adapters.ledger.erasures import ErasuresPart
from rag.adapters.ledger.holds import HoldsPart
from rag.adapters.ledger.stores import StoresPart
from rag.errors import Unavailable

# Milliseconds. No transaction of the ledger waits for another server, so each is short; a stuck one must not hold up the others.
_LIMITS = "-c lock_timeout=10000 -c statement_timeout=60000 -c idle_in_transaction_session_timeout=60000"


class PostgresLedger(
    DocumentsPart, AccessPart, HoldsPart, DeletionsPart, CatalogPart, ErasuresPart, StoresPart, AuditPart
):
    """Ledger, AccessRules, Holds, Deletions, Positions, Outbox, Catalog, EmbeddingCache, Suppressions, Erasures, Batches, Measurements and
    AuditLog of ``rag.ports``."""

    def __init__(self, pool: AsyncConnectionPool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction, which is committed on a clean exit."""
        with _failures():
            async with self._pool.connection() as connection:
                yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Open a connection for one statement that only reads. A transaction around it would cost two more round trips."""
        with _failures():
            async with self._pool.connection() as connection:
                await connection.set_autocommit(True)
                try:
                    yield connection
                finally:
                    await connection.set_autocommit(False)


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise Unavailable(
            f"the ledger database does not answer ({type(error).__name__}): check DATABASE_URL"
        ) from error


@asynccontextmanager
async def open_ledger(database_url: str, *, pool_size: int = 8, wait: float = 10.0) -> AsyncIterator[PostgresLedger]:
    """Open the ledger at ``database_url``, with at most ``pool_size`` connections that open on first use. A call waits up to ``wait``
    seconds for a connection."""
    pool = AsyncConnectionPool(
        database_url,
        min_size=0,
        max_size=pool_size,
        timeout=wait,
        open=False,
        kwargs={"connect_timeout": 5, "options": _LIMITS},
    )
    await pool.open()
    try:
        yield PostgresLedger(pool)
    finally:
        await pool.close()
