"""Schema registries: any that speaks Confluent's HTTP API, and one in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx2  # what Confluent's client speaks HTTP with
from confluent_kafka.schema_registry import Schema as RegisteredSchema
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from schemas.codec import RegistryUnavailable, UnknownSchema
from schemas.contracts import Schema

NOT_FOUND = 404
CONFLICT = 409
TIMEOUT = 5.0  # seconds; an answer takes milliseconds
RETRIES = 2


class IncompatibleSchema(ValueError):
    """The registry refuses the schema: it would break readers of what is registered."""


class ConfluentRegistry:
    """Registry of `schemas.codec` over HTTP. `options` are those of Confluent's client, such as `basic.auth.user.info`."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self._url = url
        self.client = SchemaRegistryClient.new_client(
            {"url": url, "timeout": TIMEOUT, "max.retries": RETRIES, **(options or {})}
        )

    def id_of(self, subject: str, schema: Schema) -> int:
        found = self._ask(f"{subject} (run `python -m schemas register`)", "lookup_schema", subject, _avro(schema))
        return int(found.schema_id)

    def schema_of(self, schema_id: int) -> Schema:
        found = self._ask(f"schema {schema_id}", "get_schema", schema_id)
        if (found.schema_type or "AVRO") != "AVRO":
            raise UnknownSchema(f"schema {schema_id} of {self._url} is {found.schema_type}, not Avro")
        try:
            schema = json.loads(found.schema_str or "")
        except ValueError:
            schema = None
        if not isinstance(schema, dict):
            raise UnknownSchema(f"schema {schema_id} of {self._url} is no Avro record")
        return schema

    def register(self, subject: str, schema: Schema) -> int:
        """Idempotent. Raises IncompatibleSchema, RegistryUnavailable."""
        return int(self._ask(subject, "register_schema", subject, _avro(schema)))

    def require_compatibility(self, subject: str, level: str) -> None:
        """Have the registry refuse what breaks `level`, such as BACKWARD_TRANSITIVE. Idempotent."""
        self._ask(subject, "set_compatibility", subject, level)

    def close(self) -> None:
        self.client.close()

    def _ask(self, thing: str, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self.client, method)(*arguments)
        except SchemaRegistryError as error:
            if error.http_status_code == NOT_FOUND:
                raise UnknownSchema(f"the schema registry at {self._url} does not have {thing}") from error
            if error.http_status_code == CONFLICT:
                raise IncompatibleSchema(f"the schema registry refuses {thing}: {error.error_message}") from error
            raise RegistryUnavailable(f"the schema registry at {self._url} failed for {thing}: {error}") from error
        except (httpx2.HTTPError, OSError) as error:
            raise RegistryUnavailable(f"the schema registry at {self._url} does not answer: {error}") from error
        except ValueError as error:
            raise RegistryUnavailable(f"what answers at {self._url} is no schema registry: {error}") from error


class MemoryRegistry:
    """Registry of `schemas.codec` that takes every schema it is asked for."""

    def __init__(self) -> None:
        self._schemas: list[str] = []

    def id_of(self, subject: str, schema: Schema) -> int:
        text = json.dumps(schema)
        if text not in self._schemas:
            self._schemas.append(text)
        return self._schemas.index(text) + 1

    def schema_of(self, schema_id: int) -> Schema:
        if not 1 <= schema_id <= len(self._schemas):
            raise UnknownSchema(f"no schema {schema_id} is known")
        schema: Schema = json.loads(self._schemas[schema_id - 1])
        return schema


def _avro(schema: Schema) -> RegisteredSchema:
    return RegisteredSchema(json.dumps(schema), "AVRO")
