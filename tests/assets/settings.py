"""The settings of an installation with one source of each kind. Nothing is connected."""

from pathlib import Path

from rag.settings import Settings

SETTINGS = Settings(
    _env_file=None,  # type: ignore[call-arg]
    tidemark_environment="development",
    identity_secret="only-for-these-tests-1234567890",
    database_url="postgresql://none",
    kafka_partitions=8,
    snowflake_user="tidemark",
    snowflake_password="only-for-these-tests",
    inbox_dir=Path("inbox"),
    snowflake_tables="CUSTOMERS:ID:UPDATED_AT:NAME,CRM.TICKETS:ID:UPDATED_AT:SUBJECT",
)
