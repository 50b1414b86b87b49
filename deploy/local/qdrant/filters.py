"""The translation of the REST API's filters for the engine. A condition without a translation refuses the request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qdrant_edge as edge
from qdrant_client.http import models as rest

from deploy.local.qdrant.errors import Refused, only

TESTS = ("match", "range", "values_count", "is_empty", "is_null")


def optional(wanted: rest.Filter | None) -> edge.Filter | None:
    return None if wanted is None else filter_(wanted)


def filter_(wanted: rest.Filter) -> edge.Filter:
    at_least = wanted.min_should
    return edge.Filter(
        must=_conditions(wanted.must),
        should=_conditions(wanted.should),
        must_not=_conditions(wanted.must_not),
        min_should=edge.MinShould(_conditions(at_least.conditions) or [], at_least.min_count) if at_least else None,
    )


def _conditions(wanted: Any) -> list[Any] | None:
    if wanted is None:
        return None
    return [_condition(one) for one in (wanted if isinstance(wanted, list) else [wanted])]


def _condition(wanted: Any) -> Any:
    translate = CONDITIONS.get(type(wanted))
    if translate is None:
        raise Refused(f"condition {type(wanted).__name__} is not supported by this local server")
    return translate(wanted)


def _field(wanted: rest.FieldCondition) -> Any:
    only(wanted, "key", *TESTS)
    tests = [name for name in TESTS if getattr(wanted, name) is not None]
    if len(tests) != 1:
        # The engine treats several tests in one condition as alternatives, which is not their meaning in the REST API.
        raise Refused(f"condition on `{wanted.key}` needs exactly one of {', '.join(TESTS)}, not {len(tests)}")
    return FIELD_TESTS[tests[0]](wanted.key, getattr(wanted, tests[0]))


def _match(key: str, wanted: Any) -> Any:
    if isinstance(wanted, rest.MatchValue):
        if isinstance(wanted.value, bool):
            raise Refused(
                f"match of `{key}` with a boolean: the engine never matches it, store a keyword or an integer"
            )
        return edge.FieldCondition(key, match=edge.MatchValue(wanted.value))
    if isinstance(wanted, rest.MatchAny):
        return edge.FieldCondition(key, match=edge.MatchAny(wanted.any))
    if isinstance(wanted, rest.MatchExcept):
        return edge.FieldCondition(key, match=edge.MatchExcept(wanted.except_))
    raise Refused(f"{type(wanted).__name__} on `{key}` is not supported by this local server")


def _range(key: str, wanted: rest.Range | rest.DatetimeRange) -> Any:
    bounds = {name: value for name, value in wanted if value is not None}
    if not bounds:
        raise Refused(f"range of `{key}` has no bound")
    if isinstance(wanted, rest.DatetimeRange):
        return edge.FieldCondition(key, range=edge.RangeDateTime(**{n: v.isoformat() for n, v in bounds.items()}))
    return edge.FieldCondition(key, range=edge.RangeFloat(**bounds))


def _values_count(key: str, wanted: rest.ValuesCount) -> Any:
    bounds = {name: value for name, value in wanted if value is not None}
    if not bounds:
        raise Refused(f"values_count of `{key}` has no bound")
    return edge.FieldCondition(key, values_count=edge.ValuesCount(**bounds))


def _is(condition: Callable[[str], Any], key: str, wanted: bool) -> Any:
    return condition(key) if wanted else edge.Filter(must_not=[condition(key)])


FIELD_TESTS: dict[str, Callable[[str, Any], Any]] = {
    "match": _match,
    "range": _range,
    "values_count": _values_count,
    "is_empty": lambda key, wanted: _is(edge.IsEmptyCondition, key, wanted),
    "is_null": lambda key, wanted: _is(edge.IsNullCondition, key, wanted),
}

CONDITIONS: dict[type, Callable[[Any], Any]] = {
    rest.Filter: filter_,
    rest.FieldCondition: _field,
    rest.IsEmptyCondition: lambda wanted: edge.IsEmptyCondition(wanted.is_empty.key),
    rest.IsNullCondition: lambda wanted: edge.IsNullCondition(wanted.is_null.key),
    rest.HasIdCondition: lambda wanted: edge.HasIdCondition(set(wanted.has_id)),
    rest.HasVectorCondition: lambda wanted: edge.HasVectorCondition(wanted.has_vector),
    rest.NestedCondition: lambda wanted: edge.NestedCondition(wanted.nested.key, filter_(wanted.nested.filter)),
}
