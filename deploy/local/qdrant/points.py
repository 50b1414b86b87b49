"""The translation of points and update operations for the engine, and of its records for the REST API.

The engine keeps an empty point when an upsert fails half way (a wrong dimension), and it stores NaN. So everything is checked before
the engine receives it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import qdrant_edge as edge
from pydantic import BaseModel, StrictInt, StrictStr, ValidationError
from qdrant_client.http import models as rest

from deploy.local.qdrant.errors import Refused, Unfit, only, parse
from deploy.local.qdrant.filters import filter_

LARGEST = 3.4028234663852886e38  # of a float32
INDICES = 2**32
UNCOUNTED = 100  # the points assumed for an operation by filter, to decide when to flush


class PointIn(BaseModel, extra="forbid"):
    """A point of a request. `vector` is read by hand, because a union of models takes three times as long as the rest."""

    id: StrictInt | StrictStr
    vector: Any
    payload: dict[str, Any] | None = None


class Rows(BaseModel, extra="ignore"):
    """The fields of an upsert. Other fields were refused unless they are null."""

    points: list[PointIn]


class Columns(BaseModel, extra="forbid"):
    ids: list[StrictInt | StrictStr]
    vectors: list[Any] | dict[str, list[Any]]
    payloads: list[dict[str, Any] | None] | None = None

    def rows(self) -> list[PointIn]:
        count = len(self.ids)
        named = self.vectors if isinstance(self.vectors, dict) else {"": self.vectors}
        payloads = [None] * count if self.payloads is None else self.payloads
        if any(len(column) != count for column in (payloads, *named.values())):
            raise Refused("batch: ids, vectors and payloads must have one length")
        return [
            PointIn(id=self.ids[at], vector={name: column[at] for name, column in named.items()}, payload=payloads[at])
            for at in range(count)
        ]


@dataclass(frozen=True)
class Vectors:
    """The named vectors of a collection: the sizes of the dense vectors and the names of the sparse ones."""

    sizes: dict[str, int]
    sparse: frozenset[str]

    def read(self, raw: Any) -> Any:
        """Return the vectors of one point for the engine."""
        if not isinstance(raw, dict):
            return {"": self.named("", raw)}
        return {name: self.named(name, one) for name, one in raw.items()}

    def named(self, name: str, raw: Any) -> Any:
        if name in self.sparse:
            return sparse(name, raw)
        if name not in self.sizes:
            raise Unfit(f"Wrong input: Not existing vector name error: {name}")
        return dense(name, raw, self.sizes[name])


def dense(name: str, raw: Any, size: int) -> list[float]:
    if not isinstance(raw, list) or not set(map(type, raw)) <= {float, int}:
        raise Refused(f"vector `{name}` must be a list of numbers")
    if len(raw) != size:
        raise Unfit(f"Wrong input: Vector dimension error: expected dim: {size}, got {len(raw)}")
    _finite(name, raw)
    return raw


def sparse(name: str, raw: Any) -> edge.SparseVector:
    if not isinstance(raw, dict) or raw.keys() != {"indices", "values"}:
        raise Refused(f"vector `{name}` must be {{indices, values}}")
    indices, values = raw["indices"], raw["values"]
    if not isinstance(indices, list) or not isinstance(values, list) or len(indices) != len(values):
        raise Refused(f"vector `{name}`: indices and values must be lists of one length")
    if not set(map(type, indices)) <= {int} or not set(map(type, values)) <= {float, int}:
        raise Refused(f"vector `{name}`: indices must be integers, values numbers")
    if len(set(indices)) != len(indices) or (indices and not 0 <= min(indices) <= max(indices) < INDICES):
        raise Refused(f"vector `{name}`: indices must be unique and within 0..2^32-1")
    _finite(name, values)
    order = sorted(range(len(indices)), key=indices.__getitem__)
    return edge.SparseVector([indices[at] for at in order], [float(values[at]) for at in order])


def _finite(name: str, values: list[float]) -> None:
    if values and not -LARGEST <= min(values) <= max(values) <= LARGEST:
        raise Refused(f"vector `{name}` has a number that is not a finite float32")


@dataclass(frozen=True)
class Update:
    """The engine operations of one operation of a client, and the number of points that they may touch."""

    operation: edge.UpdateOperation
    points: int

    def __post_init__(self) -> None:
        if not self.points:
            raise Unfit("Wrong input: Empty update request")


def batch(raw: Any, vectors: Vectors) -> Iterator[Update]:
    """Translate a `/points/batch`. A malformed operation refuses the whole batch before the first is applied.

    The operations are applied one by one, as in Qdrant: one that fails (a vector of the wrong size, a payload for an absent id) leaves
    the earlier ones applied, and repeating the batch is safe.
    """
    if not isinstance(raw, dict) or raw.keys() != {"operations"} or not isinstance(raw["operations"], list):
        raise Refused("Format error in JSON body: expected {operations: [...]}")
    return _until_unfit([_operation_or_unfit(one, vectors) for one in raw["operations"]])


def _until_unfit(translated: Sequence[Update | Unfit]) -> Iterator[Update]:
    for one in translated:
        if isinstance(one, Unfit):
            raise one
        yield one


def _operation_or_unfit(raw: Any, vectors: Vectors) -> Update | Unfit:
    try:
        return _operation(raw, vectors)
    except Unfit as unfit:
        return unfit


def _operation(raw: Any, vectors: Vectors) -> Update:
    if not isinstance(raw, dict) or len(raw) != 1:
        raise Refused("Format error in JSON body: an operation has exactly one key, its name")
    ((name, body),) = raw.items()
    if name not in OPERATIONS:
        raise Refused(f"operation {name!r} is not supported by this local server")
    return OPERATIONS[name](body, vectors)


def upsert(raw: Any, vectors: Vectors) -> Update:
    points = [edge.Point(row.id, vectors.read(row.vector), row.payload) for row in _rows(raw)]
    return Update(edge.UpdateOperation.upsert_points(points), len(points))


def _rows(raw: Any) -> list[PointIn]:
    given = {name for name in raw if raw[name] is not None} if isinstance(raw, dict) else set()
    if given == {"points"}:
        rows: Rows = _read(Rows, raw)
        return rows.points
    if given == {"batch"}:
        columns: Columns = _read(Columns, raw["batch"])
        return columns.rows()
    raise Refused(f"Format error in JSON body: expected points or batch, got {', '.join(sorted(given)) or 'neither'}")


def _read(kind: type[Any], raw: Any) -> Any:
    """Do as `parse` does, without its second reading of the text, which vectors make expensive."""
    try:
        return kind.model_validate(raw, strict=True)
    except ValidationError:
        return parse(kind, raw)  # raises the error that names the fault


def delete(raw: Any, _: Vectors) -> Update:
    wanted = parse(rest.PointsSelector, raw)
    only(wanted, "points", "filter")
    if isinstance(wanted, rest.FilterSelector):
        return Update(edge.UpdateOperation.delete_points_by_filter(filter_(wanted.filter)), UNCOUNTED)
    return Update(edge.UpdateOperation.delete_points(wanted.points), len(wanted.points))


def set_payload(raw: Any, _: Vectors) -> Update:
    wanted = parse(rest.SetPayload, raw)
    return _on(
        wanted, edge.UpdateOperation.set_payload, edge.UpdateOperation.set_payload_by_filter, wanted.payload, wanted.key
    )


def overwrite_payload(raw: Any, _: Vectors) -> Update:
    wanted = parse(rest.SetPayload, raw)
    if wanted.key is not None:
        raise Refused("overwrite_payload with a key is not supported by this local server")
    return _on(
        wanted, edge.UpdateOperation.overwrite_payload, edge.UpdateOperation.overwrite_payload_by_filter, wanted.payload
    )


def delete_payload(raw: Any, _: Vectors) -> Update:
    wanted = parse(rest.DeletePayload, raw)
    return _on(wanted, edge.UpdateOperation.delete_payload, edge.UpdateOperation.delete_payload_by_filter, wanted.keys)


def clear_payload(raw: Any, _: Vectors) -> Update:
    wanted = parse(rest.PointsSelector, raw)
    return _on(wanted, edge.UpdateOperation.clear_payload, edge.UpdateOperation.clear_payload_by_filter)


def _on(wanted: Any, by_ids: Any, by_filter: Any, *arguments: Any) -> Update:
    only(wanted, "points", "filter", "payload", "key", "keys")
    ids, where = getattr(wanted, "points", None), getattr(wanted, "filter", None)
    if ids is None and where is not None:
        return Update(by_filter(filter_(where), *arguments), UNCOUNTED)
    if ids is None or where is not None:
        raise Refused("exactly one of points and filter says which points are meant")
    return Update(by_ids(ids, *arguments), len(ids))


OPERATIONS = {
    "upsert": upsert,
    "delete": delete,
    "set_payload": set_payload,
    "overwrite_payload": overwrite_payload,
    "delete_payload": delete_payload,
    "clear_payload": clear_payload,
}


def record(found: Any, selected: bool) -> dict[str, Any]:
    """Return a Record or ScoredPoint of the engine in the form of the API."""
    shown: dict[str, Any] = {"id": found.id if isinstance(found.id, int) else str(found.id)}
    if isinstance(found, edge.ScoredPoint):
        shown |= {"version": found.version, "score": found.score}
    if found.payload is not None:
        shown["payload"] = found.payload
    if selected and found.vector is not None:
        shown["vector"] = _shown(found.vector)
    if found.order_value is not None:
        shown["order_value"] = found.order_value
    return shown


def _shown(vector: Any) -> Any:
    if isinstance(vector, dict):
        return _shown(vector[""]) if vector.keys() == {""} else {name: _shown(one) for name, one in vector.items()}
    if isinstance(vector, edge.SparseVector):
        return {"indices": vector.indices, "values": vector.values}
    return vector


def records(found: Sequence[Any], selected: bool = True) -> list[dict[str, Any]]:
    return [record(one, selected) for one in found]
