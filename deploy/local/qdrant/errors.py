"""The errors of the API, and a reading of request bodies that leaves no field unnoticed."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

SHOWN = 3  # a union reports every alternative that did not fit


class Refused(Exception):
    """A request that is not served. The message reaches the client in Qdrant's own error body."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Unfit(Refused):
    """A well-formed operation that does not fit the collection. Qdrant finds it when the operation's turn comes, not before."""


def not_found(name: str) -> Refused:
    return Refused(f"Not found: Collection `{name}` doesn't exist!", 404)


def decode(body: bytes) -> Any:
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Refused(f"Format error in JSON body: {error}") from None


def parse(kind: Any, raw: Any) -> Any:
    """Return `raw` as one of qdrant_client's request models. Unknown fields are refused, and no value is converted to fit."""
    text = to_json(raw)
    if b'"range"' in text:
        _refuse_numbers_for_dates(raw)
    try:
        return _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        found.sort(key=lambda one: one["type"] != "extra_forbidden")
        details = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found[:SHOWN])
        raise Refused(f"Format error in JSON body: {details}") from None


def _refuse_numbers_for_dates(raw: Any) -> None:
    """Refuse a range whose bounds are numbers in quotes, which pydantic would read as dates (seconds after 1970)."""
    if isinstance(raw, list):
        for one in raw:
            _refuse_numbers_for_dates(one)
    elif isinstance(raw, dict):
        bounds = raw.get("range")
        for bound in bounds.values() if isinstance(bounds, dict) else ():
            if isinstance(bound, str) and "-" not in bound[1:]:
                raise Refused(f"range of `{raw.get('key')}`: {bound!r} is neither a number nor a date")
        for name, one in raw.items():
            if name != "payload":
                _refuse_numbers_for_dates(one)


def only(model: BaseModel, *known: str) -> None:
    """Refuse a request that sets any other field of its model: it asks for a feature that this server does not have."""
    for name in sorted(model.model_fields_set):
        if name not in known and getattr(model, name) is not None:
            raise Refused(f"{type(model).__name__}.{name} is not supported by this local server: leave it out")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
