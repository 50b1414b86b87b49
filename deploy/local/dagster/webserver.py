"""Dagster's webserver behind the gate of `same_origin`, with database connections that survive a restart of PostgreSQL.

python -m deploy.local.dagster.webserver ARGUMENTS OF dagster-webserver
"""

from __future__ import annotations

from typing import Any

from dagster_webserver import app, cli
from dagster_webserver.webserver import DagsterWebserver
from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import Pool
from starlette.middleware import Middleware

from deploy.local.dagster.same_origin import SameOrigin


class GuardedWebserver(DagsterWebserver[Any, Any]):
    """Dagster's webserver, whose outermost middleware is the gate."""

    def build_middleware(self) -> list[Middleware]:
        return [Middleware(SameOrigin), *super().build_middleware()]


def ping(connection: Any, *_: object) -> None:
    """Try a pooled connection before its use. SQLAlchemy replaces one that is refused here.

    Dagster keeps a pool for the webserver and offers no setting for SQLAlchemy's own pre-ping.
    """
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Exception as error:
        raise DisconnectionError("the server closed the connection") from error


def main() -> None:
    event.listen(Pool, "checkout", ping)
    vars(app)["DagsterWebserver"] = GuardedWebserver  # the one place where dagster-webserver makes its application
    cli.main()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
