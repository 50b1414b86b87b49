from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest
import snowflake.connector
from snowflake.connector.errors import DatabaseError, ProgrammingError

from deploy.local.snowflake.connection import connection_parameters, resource_parameters

ANN = (1, "Ann", '{"seats":[1,2]}', datetime(2026, 1, 1), datetime(2025, 12, 31, 22, tzinfo=UTC), Decimal("12.50"))  # noqa: DTZ001 - TIMESTAMP_NTZ has no zone
BEN = (2, "Ben", None, None, None, None)


@pytest.fixture(scope="module")
def server(run_server: Callable[..., Any]) -> Any:
    return run_server("snowflake", "/healthz")


def env(server: Any) -> dict[str, str]:
    return {"SNOWFLAKE_HOST": "127.0.0.1", "SNOWFLAKE_PORT": str(server.port)}


def query(server: Any, *statements: str, **parameters: Any) -> list[tuple[Any, ...]]:
    """Rows of the last statement."""
    with (
        snowflake.connector.connect(**connection_parameters(env(server)) | parameters) as connection,
        connection.cursor() as cursor,
    ):
        for statement in statements:
            cursor.execute(statement)
        return list(cursor.fetchall())


@pytest.fixture
def customers(server: Any) -> Any:
    query(
        server,
        "create or replace table customers (id number(10,0) primary key, name varchar(80) not null, profile variant, "
        "updated_at timestamp_ntz, seen_at timestamp_tz, amount number(12,2))",
        """insert into customers select 1, 'Ann', parse_json('{"seats":[1,2]}'), '2026-01-01 00:00:00',
           '2026-01-01 00:00:00+02:00', 12.5""",
        "insert into customers (id, name) values (2, 'Ben'), (3, 'gone')",
        "delete from customers where id = 3",
    )
    return server


def test_committed_rows_and_types_survive_kill_9_and_uncommitted_ones_do_not(customers: Any) -> None:
    described = query(customers, "describe table customers")
    open_transaction = snowflake.connector.connect(**connection_parameters(env(customers)))
    cursor = open_transaction.cursor()
    cursor.execute("begin")
    cursor.execute("insert into customers (id, name) values (9, 'uncommitted')")

    customers.kill_and_restart()

    assert query(customers, "select * from customers order by id") == [ANN, BEN]
    assert query(customers, "describe table customers") == described
    assert ("NAME", "VARCHAR(80)") in [row[:2] for row in described]


def test_databases_made_by_sql_survive_and_dropped_tables_stay_dropped(customers: Any) -> None:
    query(
        customers,
        "create database if not exists other",
        "create schema other.sales",
        "create table other.sales.orders as select 7 as id",
        "create table tidemark.public.doomed (x int)",
        "drop table tidemark.public.doomed",
    )
    customers.kill_and_restart()
    assert query(customers, "select id from other.sales.orders") == [(7,)]
    with pytest.raises(ProgrammingError, match="DOOMED"):
        query(customers, "select * from tidemark.public.doomed")
    assert customers.stop() == 0
    customers.start()
    assert query(customers, "select count(*) from customers") == [(2,)]


def test_rows_that_dagsters_resource_merges_are_read_by_the_connector(customers: Any) -> None:
    from dagster_snowflake import SnowflakeResource  # takes seconds, which the quick tests should not pay for

    with SnowflakeResource(**resource_parameters(env(customers))).get_connection() as connection:
        merged = connection.cursor().execute(
            "merge into customers t using (select 2 as id, 'Bea' as name union all select 4, 'Cem') s on t.id = s.id "
            "when matched then update set name = s.name when not matched then insert (id, name) values (s.id, s.name)"
        )
        assert merged is not None
        assert merged.fetchall() == [(1, 1)]
    assert query(customers, "select id, name from customers order by id") == [(1, "Ann"), (2, "Bea"), (4, "Cem")]


def test_a_missing_time_is_null_and_not_1970(customers: Any) -> None:
    assert query(customers, "select updated_at, seen_at from customers where id = 2") == [(None, None)]
    assert query(customers, "select count(*) from customers where updated_at is null") == [(1,)]


def fetch(cursor: Any, *statement: Any) -> Any:
    return cursor.execute(*statement).fetchall()


def test_a_watermark_query_with_bound_parameters_finds_the_newer_rows(customers: Any) -> None:
    with snowflake.connector.connect(**connection_parameters(env(customers))) as connection:
        cursor = connection.cursor()
        # not (updated_at, id) > (..., ...): DuckDB orders NULL after everything there, Snowflake drops such rows
        statement = "select id from customers where updated_at > %(at)s or (updated_at = %(at)s and id > %(id)s)"
        assert fetch(cursor, statement, {"at": "2025-12-31", "id": 0}) == [(1,)]
        assert fetch(cursor, statement, {"at": "2026-01-01", "id": 0}) == [(1,)]
        assert fetch(cursor, statement, {"at": "2026-01-01", "id": 1}) == []
        assert fetch(cursor, "select id from customers where name = %s", ("x' or 1=1 --",)) == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"database": "../../outside"},
        {"database": "a' AS b; DROP TABLE customers; --"},
        {"schema": "s'; DROP"},
        {"session_parameters": {"FAKESNOW_DB_PATH": "/"}},
        {"session_parameters": {"FAKESNOW_DB_PATH": ":isolated:"}},
    ],
)
def test_a_login_cannot_choose_files_or_smuggle_sql(customers: Any, parameters: dict[str, Any]) -> None:
    with pytest.raises(DatabaseError, match=r"plain identifier|FAKESNOW_DB_PATH"):
        query(customers, "select 1", **parameters)
    assert query(customers, "select count(*) from customers") == [(2,)]
    names = {path.name.partition(".")[0] for path in customers.data.iterdir()}
    assert names <= {"TIDEMARK", "OTHER", "catalog", "claim"}
    assert not (customers.data.parent / "outside.db").exists()


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "https://evil.example"}])
def test_web_pages_are_refused(server: Any, headers: dict[str, str]) -> None:
    assert httpx.post(f"{server.url}/session/v1/login-request", headers=headers, json={}).status_code == 403


def test_a_malformed_login_is_refused_and_the_server_lives(server: Any) -> None:
    for content in (b"", b"{", b"[]", b'{"data": null}'):
        answer = httpx.post(f"{server.url}/session/v1/login-request", content=content)
        assert answer.json()["success"] is False
    assert query(server, "select 1") == [(1,)]


def test_it_refuses_other_interfaces(server: Any) -> None:
    ended = subprocess.run([*server.command(), "--host", "0.0.0.0"], capture_output=True, text=True, check=False)  # noqa: S104
    assert ended.returncode == 1
    assert "refusing to listen on '0.0.0.0'" in ended.stderr


def test_failed_statements_leave_no_values_in_the_log(server: Any) -> None:
    with pytest.raises(ProgrammingError):
        query(server, "select * from nowhere where name = 'Ann Secret'")
    assert server.stop() == 0
    assert "Ann Secret" not in (server.data.parent / "snowflake.log").read_text()
