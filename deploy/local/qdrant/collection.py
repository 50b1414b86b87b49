"""One collection: an engine shard and the one thread that touches it, so that its calls run in order and do not block the event loop."""

from __future__ import annotations

import asyncio
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import qdrant_edge as edge
from qdrant_client.http import models as rest

from deploy.local.qdrant import settings
from deploy.local.qdrant.errors import Refused, not_found
from deploy.local.qdrant.points import Update, Vectors

log = logging.getLogger(__name__)

COPY_POINTS = 200  # of one step of a copy
FLUSH_POINTS = 5_000  # 40 ms of flushing; unflushed points cost a quarter of a millisecond each at the next start


class Collection:
    """One collection. Acknowledged writes are in the engine's log, which survives kill -9. `flush` only shortens the next start.

    Deleted points leave the segments at the next start (a fifth of a segment deleted, 1,000 points at least), and the log when
    32 MiB more have been written to it.
    """

    def __init__(self, name: str, path: Path, created: rest.CreateCollection, index_from: int) -> None:
        self.name, self.path, self.created, self.index_from = name, path, created, index_from
        sizes = {one: params.size for one, params in settings.dense(created).items()}
        self.vectors = Vectors(sizes, frozenset(created.sparse_vectors or {}))
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="collection")
        self.ready = self.closed = False
        self._shard: edge.EdgeShard | None = None
        self._unflushed = 0
        self._operations = 0
        self._meanwhile: list[edge.UpdateOperation] | None = None  # updates since a copy began

    async def run(self, work: Callable[[], Any]) -> Any:
        if self.closed:
            raise not_found(self.name)
        return await asyncio.get_running_loop().run_in_executor(self.thread, _engine_errors, work)

    async def rewrite(self, path: Path, record: Callable[[], None]) -> None:
        """Copy the live points to a new shard in ``path``, have that recorded, and drop the old files with the bytes of deleted points.

        The log of the engine cannot be dropped instead: the engine numbers operations by it, and ignores one that is older than its
        point. Other requests run between two steps of the copy, and the updates among them are repeated on it.
        """
        fresh = await self.run(lambda: self._begin_copy(path))
        try:
            offset = await self.run(lambda: self._copy(fresh, None))
            while offset is not None:
                offset = await self.run(partial(self._copy, fresh, offset))
            await self.run(lambda: self._take(fresh, path, record))
        except BaseException:
            self._meanwhile = None
            await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
            raise

    # The methods below run in the thread.

    @property
    def shard(self) -> edge.EdgeShard:
        if self.closed:
            raise not_found(self.name)
        if self._shard is None:
            raise Refused(
                f"Service unavailable: collection `{self.name}` could not be opened, see the server's log", 503
            )
        return self._shard

    def create(self) -> None:
        self._shard = edge.EdgeShard.create(str(_made(self.path)), settings.engine(self.created, self.index_from))
        self.ready = True

    def open(self) -> None:
        """Load the shard and drop the remains of deleted points.

        From `index_from` points on this may build a graph, which holds the interpreter for minutes, so a child process does it. Only
        requests for this collection wait.
        """
        try:
            self._shard = self._loaded()
            self.ready = True
        except BaseException:
            log.exception("cannot open collection %r in %s", self.name, self.path)
            raise

    def _loaded(self) -> edge.EdgeShard:
        shard = edge.EdgeShard.load(str(self.path))
        if shard.count(edge.CountRequest(exact=True)) < self.index_from:
            if shard.optimize():
                shard.flush()  # drops the files of the segments that were replaced
            return shard
        shard.close()
        module = f"{__package__}.optimize"
        subprocess.run([sys.executable, "-m", module, str(self.path)], check=True)  # noqa: S603 our own module
        return edge.EdgeShard.load(str(self.path))

    def _begin_copy(self, path: Path) -> edge.EdgeShard:
        fresh = edge.EdgeShard.create(str(_made(path)), settings.engine(self.created, self.index_from))
        for field, held in self.shard.info().payload_schema.items():
            fresh.update(edge.UpdateOperation.create_field_index(field, held.params or held.data_type))
        self._meanwhile = []
        return fresh

    def _copy(self, fresh: edge.EdgeShard, offset: Any) -> Any:
        """Copy a page of points, and return the offset of the next one."""
        page = edge.ScrollRequest(offset=offset, limit=COPY_POINTS, with_payload=True, with_vector=True)
        found, following = self.shard.scroll(page)
        points = [edge.Point(each.id, each.vector or {}, each.payload) for each in found]
        fresh.update(edge.UpdateOperation.upsert_points(points))
        return following

    def _take(self, fresh: edge.EdgeShard, path: Path, record: Callable[[], None]) -> None:
        """Repeat the updates that came meanwhile, and go on with the copy."""
        for operation in self._meanwhile or ():
            fresh.update(operation)
        fresh.flush()
        record()
        old, before = self.shard, self.path
        self._shard, self.path, self._unflushed, self._meanwhile = fresh, path, 0, None
        old.close()
        shutil.rmtree(before)

    def apply(self, updates: Iterable[Update]) -> list[dict[str, Any]]:
        results = []
        for update in updates:
            self._unflushed += update.points
            self.shard.update(update.operation)
            if self._meanwhile is not None:
                self._meanwhile.append(update.operation)
            self._operations += 1
            results.append({"operation_id": self._operations, "status": "completed"})
        return results

    @property
    def due(self) -> bool:
        return self._unflushed >= FLUSH_POINTS

    def flush(self) -> None:
        if self._shard is not None and self._unflushed:
            self._unflushed = 0
            self._shard.flush()

    def close(self) -> None:
        shard, self._shard, self.closed = self._shard, None, True
        if shard is not None:
            shard.flush()
            shard.close()


def _made(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def _engine_errors(work: Callable[[], Any]) -> Any:
    """Turn the engine's errors into Refused. The engine raises bare `Exception`s, and panics that are not an `Exception`."""
    try:
        return work()
    except Refused:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Refused(f"Wrong input: {error}") from error
    except BaseException as error:
        message = str(error)
        if message.startswith("No point with id"):
            raise Refused(f"Not found: {message}", 404) from None
        if type(error) is Exception and not message.startswith("Service"):
            raise Refused(f"Wrong input: {message}") from None
        log.exception("the engine failed")
        raise Refused("Service internal error: see the server's log", 500) from error
