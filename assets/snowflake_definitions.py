"""The code location ``snowflake``: apart from ``index``, for its client takes seconds to import."""

import dagster as dg
from dagster_snowflake import SnowflakeResource

from assets.resources import services_factory
from assets.snowflake_tables import table_assets
from rag.ingest.warehouse_rows import Table
from rag.settings import Settings, load, snowflake_parameters


def definitions(settings: Settings) -> dg.Definitions:
    """Two assets for every mapped table of every Snowflake source."""
    assets = [
        asset
        for chosen in settings.configured_sources
        if chosen.kind == "snowflake"
        for mapped in chosen.tables
        for asset in table_assets(
            chosen.source(), Table(mapped.table, mapped.key, mapped.changed, mapped.title, mapped.subjects)
        )
    ]
    return dg.Definitions(
        assets=assets,
        resources={"tidemark": services_factory(settings), "snowflake": snowflake(settings)},
        executor=dg.in_process_executor,
    )


def snowflake(settings: Settings) -> SnowflakeResource:
    """Host, port and protocol differ from Snowflake's own only where a local warehouse stands in for it."""
    given = snowflake_parameters(settings)
    where = ("host", "port", "protocol", "platform_detection_timeout_seconds")
    elsewhere = {name: given[name] for name in where if name in given}
    return SnowflakeResource(
        account=settings.snowflake_account,
        user=settings.snowflake_user,
        password=settings.snowflake_password.get_secret_value() if settings.snowflake_password else None,
        database=settings.snowflake_database,
        schema=settings.snowflake_schema,
        warehouse=settings.snowflake_warehouse,
        role=settings.snowflake_role,
        additional_snowflake_connection_args=elsewhere if settings.snowflake_host else None,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster loads; the settings are read then, not at import."""
    return definitions(load())
