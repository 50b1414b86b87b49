"""The Snowflake server of the local stack (fakesnow over DuckDB files). Start reading at `server`."""
