"""The routes of the API and their handlers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import qdrant_edge as edge
from qdrant_client.http import models as rest
from starlette.requests import Request

from deploy.local.qdrant import points, queries, settings
from deploy.local.qdrant.collection import Collection
from deploy.local.qdrant.errors import Refused, decode, only, parse
from deploy.local.qdrant.registry import Registry

READ, WRITE = {"timeout", "consistency"}, {"timeout", "wait", "ordering"}  # query parameters

Act = Callable[[Registry, Request], Awaitable[Any]]


# -- collections and aliases --------------------------------------------------------------------------------------------


async def list_collections(registry: Registry, _: Request) -> Any:
    return {"collections": [{"name": name} for name in sorted(registry.names.collections)]}


async def create_collection(registry: Registry, request: Request) -> Any:
    await registry.create(request.path_params["name"], decode(request.state.body))
    return True


async def delete_collection(registry: Registry, request: Request) -> Any:
    return await registry.delete(request.path_params["name"])


async def update_collection(registry: Registry, request: Request) -> Any:
    """Change how many deleted points a segment may hold, and rewrite the segments that hold more, as Qdrant's optimizers do."""
    wanted = parse(rest.UpdateCollection, decode(request.state.body))
    only(wanted, "optimizers_config")
    await registry.optimize(request.path_params["name"], wanted.optimizers_config or rest.OptimizersConfigDiff())
    return True


async def collection_info(registry: Registry, request: Request) -> Any:
    collection = _collection(registry, request)
    return await collection.run(lambda: settings.info(collection.created, collection.shard))


async def collection_exists(registry: Registry, request: Request) -> Any:
    name, names = request.path_params["name"], registry.names
    return {"exists": names.aliases.get(name, name) in names.collections}


async def change_aliases(registry: Registry, request: Request) -> Any:
    await registry.change_aliases(decode(request.state.body))
    return True


async def list_aliases(registry: Registry, request: Request) -> Any:
    only = _collection(registry, request).name if "name" in request.path_params else None
    return {
        "aliases": [
            {"alias_name": alias, "collection_name": name}
            for alias, name in sorted(registry.names.aliases.items())
            if only in (None, name)
        ]
    }


# -- points -------------------------------------------------------------------------------------------------------------


def reading(read: Callable[..., Any]) -> Act:
    async def act(registry: Registry, request: Request) -> Any:
        collection = _collection(registry, request)
        return await collection.run(lambda: read(collection.shard, decode(request.state.body), collection.vectors))

    return act


def writing(translate: Callable[..., points.Update]) -> Act:
    async def act(registry: Registry, request: Request) -> Any:
        collection, body = _collection(registry, request), request.state.body
        done = await _write(collection, lambda: [translate(decode(body), collection.vectors)])
        return done[0]

    return act


async def batch(registry: Registry, request: Request) -> Any:
    collection, body = _collection(registry, request), request.state.body
    return await _write(collection, lambda: points.batch(decode(body), collection.vectors))


async def create_index(registry: Registry, request: Request) -> Any:
    body = request.state.body
    done = await _write(
        _collection(registry, request),
        lambda: [points.Update(settings.index(parse(rest.CreateFieldIndex, decode(body))), points.UNCOUNTED)],
    )
    return done[0]


async def delete_index(registry: Registry, request: Request) -> Any:
    field = request.path_params["field"]
    operation = edge.UpdateOperation.delete_field_index
    done = await _write(_collection(registry, request), lambda: [points.Update(operation(field), points.UNCOUNTED)])
    return done[0]


async def get_point(registry: Registry, request: Request) -> Any:
    collection, wanted = _collection(registry, request), request.path_params["id"]
    raw = {"ids": [int(wanted) if wanted.isdigit() else wanted], "with_payload": True, "with_vector": True}
    found = await collection.run(lambda: queries.retrieve(collection.shard, raw, collection.vectors))
    if not found:
        raise Refused(f"Not found: Point with id {wanted} does not exists!", 404)
    return found[0]


async def _write(collection: Collection, updates: Callable[[], Iterable[points.Update]]) -> Any:
    result = await collection.run(lambda: collection.apply(updates()))
    if collection.due:
        collection.thread.submit(collection.flush)  # after the answer, before the next write
    return result


def _collection(registry: Registry, request: Request) -> Collection:
    return registry.find(request.path_params["name"])


ONE = "/collections/{name}"
ROUTES: list[tuple[str, str, Act, set[str]]] = [
    ("GET", "/collections", list_collections, READ),
    ("GET", "/aliases", list_aliases, READ),
    ("POST", "/collections/aliases", change_aliases, WRITE),
    ("PUT", ONE, create_collection, WRITE),
    ("GET", ONE, collection_info, READ),
    ("PATCH", ONE, update_collection, WRITE),
    ("DELETE", ONE, delete_collection, WRITE),
    ("GET", f"{ONE}/exists", collection_exists, READ),
    ("GET", f"{ONE}/aliases", list_aliases, READ),
    ("PUT", f"{ONE}/index", create_index, WRITE),
    ("DELETE", f"{ONE}/index/{{field}}", delete_index, WRITE),
    ("PUT", f"{ONE}/points", writing(points.upsert), WRITE),
    ("POST", f"{ONE}/points/delete", writing(points.delete), WRITE),
    ("POST", f"{ONE}/points/payload", writing(points.set_payload), WRITE),
    ("PUT", f"{ONE}/points/payload", writing(points.overwrite_payload), WRITE),
    ("POST", f"{ONE}/points/payload/delete", writing(points.delete_payload), WRITE),
    ("POST", f"{ONE}/points/payload/clear", writing(points.clear_payload), WRITE),
    ("POST", f"{ONE}/points/batch", batch, WRITE),
    ("POST", f"{ONE}/points", reading(queries.retrieve), READ),
    ("POST", f"{ONE}/points/scroll", reading(queries.scroll), READ),
    ("POST", f"{ONE}/points/count", reading(queries.count), READ),
    ("POST", f"{ONE}/points/query", reading(queries.query), READ),
    ("POST", f"{ONE}/points/query/batch", reading(queries.query_batch), READ),
    ("POST", f"{ONE}/facet", reading(queries.facet), READ),
    ("GET", f"{ONE}/points/{{id}}", get_point, READ),
]
