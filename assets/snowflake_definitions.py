"""The code location ``snowflake_assets``. It is apart from ``assets`` because its client takes seconds to import."""

import dagster as dg
from dagster_snowflake import SnowflakeResource

from assets.policy import explain, govern
from assets.resources import services_resource
from assets.snowflake_tables import MappedTable, announcing_job, indexed_check, observing_sensor, table_spec
from rag.settings import Settings, load, snowflake_parameters


def definitions(settings: Settings) -> dg.Definitions:
    """Return an external asset with its check for every mapped table, a sensor that observes them and a job to announce rows."""
    tables = mapped_tables(settings)
    return dg.Definitions(
        assets=govern([table_spec(each) for each in tables]),
        asset_checks=explain([indexed_check(each) for each in tables]),
        sensors=[observing_sensor(tables)] if tables else [],
        jobs=[announcing_job(tables)] if tables else [],
        resources={"tidemark": services_resource(settings), "snowflake": snowflake(settings)},
        executor=dg.in_process_executor,
    )


def mapped_tables(settings: Settings) -> list[MappedTable]:
    return [
        MappedTable(chosen.source(), mapped.mapped())
        for chosen in settings.configured_sources
        if chosen.kind == "snowflake"
        for mapped in chosen.tables
    ]


def snowflake(settings: Settings) -> SnowflakeResource:
    """Host, port and protocol differ from Snowflake's own only where a local warehouse stands in for it."""
    parameters = snowflake_parameters(settings)
    names = ("host", "port", "protocol", "platform_detection_timeout_seconds")
    address = {name: parameters[name] for name in names if name in parameters}
    return SnowflakeResource(
        account=settings.snowflake_account,
        user=settings.snowflake_user,
        password=settings.snowflake_password.get_secret_value() if settings.snowflake_password else None,
        database=settings.snowflake_database,
        schema=settings.snowflake_schema,
        warehouse=settings.snowflake_warehouse,
        role=settings.snowflake_role,
        additional_snowflake_connection_args=address if settings.snowflake_host else None,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Read the settings when Dagster loads the location, not at import."""
    return definitions(load())
