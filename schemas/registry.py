"""Schema registries: one for Confluent's HTTP API, and one in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx2  # the HTTP client of Confluent's client
from confluent_kafka.schema_registry import Schema as RegisteredSchema
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from schemas.codec import RegistryUnavailable, UnknownSchema
from schemas.contracts import Schema

NOT_FOUND = 404
CONFLICT = 409
TIMEOUT = 5.0  # seconds; a response takes milliseconds
RETRIES = 2


class IncompatibleSchema(ValueError):
    """A schema that the registry refuses, because it cannot read records of the registered versions."""


class ConfluentRegistry:
    """The registry of `schemas.codec` over HTTP. `options` are for Confluent's client, such as `basic.auth.user.info`."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self._url = url
        self.client = SchemaRegistryClient.new_client(
            {"url": url, "timeout": TIMEOUT, "max.retries": RETRIES, **(options or {})}
        )

    def id_of(self, subject: str, schema: Schema) -> int:
        registered = self._call(
            f"{subject} (run `python -m schemas register`)", "lookup_schema", subject, _avro(schema)
        )
        return int(registered.schema_id)

    def schema_of(self, schema_id: int) -> Schema:
        registered = self._call(f"schema {schema_id}", "get_schema", schema_id)
        if (registered.schema_type or "AVRO") != "AVRO":
            raise UnknownSchema(f"schema {schema_id} of {self._url} is {registered.schema_type}, not Avro")
        try:
            schema = json.loads(registered.schema_str or "")
        except ValueError:
            schema = None
        if not isinstance(schema, dict):
            raise UnknownSchema(f"schema {schema_id} of {self._url} is not an Avro record")
        return schema

    def register(self, subject: str, schema: Schema) -> int:
        """Register the schema and return its id. Idempotent. Raises IncompatibleSchema and RegistryUnavailable."""
        return int(self._call(subject, "register_schema", subject, _avro(schema)))

    def require_compatibility(self, subject: str, level: str) -> None:
        """Configure the registry to refuse schemas that violate `level`, such as BACKWARD_TRANSITIVE. Idempotent."""
        self._call(subject, "set_compatibility", subject, level)

    def close(self) -> None:
        self.client.close()

    def _call(self, thing: str, method: str, *arguments: Any) -> Any:
        """Call a method of Confluent's client and translate its errors. ``thing`` is the request's object in the messages."""
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
            raise RegistryUnavailable(f"the server at {self._url} is not a schema registry: {error}") from error


class MemoryRegistry:
    """The registry of `schemas.codec` in memory. It registers every schema at the first request for its id."""

    def __init__(self) -> None:
        self._schemas: list[str] = []

    def id_of(self, subject: str, schema: Schema) -> int:
        text = json.dumps(schema)
        if text not in self._schemas:
            self._schemas.append(text)
        return self._schemas.index(text) + 1

    def schema_of(self, schema_id: int) -> Schema:
        if not 1 <= schema_id <= len(self._schemas):
            raise UnknownSchema(f"schema {schema_id} is unknown")
        schema: Schema = json.loads(self._schemas[schema_id - 1])
        return schema


def _avro(schema: Schema) -> RegisteredSchema:
    return RegisteredSchema(json.dumps(schema), "AVRO")
