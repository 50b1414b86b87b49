"""Object store over buckets, containers and folders, each a container with an address of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from rag.adapters.objects.bucket import Bucket, aws_client
from rag.adapters.objects.folder import Folder
from rag.adapters.objects.remote import Remote, azure_store, gcs_store
from rag.errors import Rejected
from rag.ids import object_key, object_uri
from rag.models import ObjectState, SourceObject
from rag.telemetry import SOURCE_ERRORS, logger

__all__ = ["Bucket", "Container", "Folder", "Objects", "Remote", "aws_client", "azure_store", "gcs_store"]

_log = logger(__name__)


class Container(Protocol):
    """One bucket or folder. Keys are raw. Every method raises Unavailable when the container does not answer or denies access."""

    async def head(self, key: str) -> ObjectState | None: ...

    async def get(self, key: str, limit: int | None) -> SourceObject | None: ...

    async def put(self, key: str, content: bytes, media_type: str, labels: Mapping[str, str]) -> ObjectState: ...

    async def delete(self, keys: Sequence[str]) -> None: ...

    async def erase(self, keys: Sequence[str]) -> None: ...

    async def kept(self, keys: Sequence[str]) -> set[str]: ...

    def list(self, prefix: str) -> AsyncIterator[tuple[str, ObjectState]]: ...

    async def identity(self) -> dict[str, str]: ...


class Objects:
    """ObjectStore of ``rag.ports`` over ``containers``: ``scheme://name`` → container. No other container can be reached."""

    def __init__(self, containers: Mapping[str, Container]) -> None:
        self._containers = dict(containers)

    async def head(self, uri: str) -> ObjectState | None:
        container, key = self._locate(uri)
        state = await container.head(key)
        return _with_uri(uri, state) if state else None

    async def get(self, uri: str, *, limit: int | None = None) -> SourceObject | None:
        container, key = self._locate(uri)
        stored = await container.get(key, limit)
        return SourceObject(_with_uri(uri, stored.state), stored.content) if stored else None

    async def put(
        self, uri: str, content: bytes, *, media_type: str = "", labels: Mapping[str, str] | None = None
    ) -> ObjectState:
        container, key = self._locate(uri)
        return _with_uri(uri, await container.put(key, content, media_type, labels or {}))

    async def delete(self, uris: Sequence[str]) -> None:
        for container, found in self._by_container(uris):
            await container.delete(list(found))

    async def erase(self, uris: Sequence[str]) -> None:
        for container, found in self._by_container(uris):
            await container.erase(list(found))

    async def kept(self, uris: Sequence[str]) -> set[str]:
        return {
            found[key] for container, found in self._by_container(uris) for key in await container.kept(list(found))
        }

    def _by_container(self, uris: Sequence[str]) -> list[tuple[Container, dict[str, str]]]:
        """Return each container with key → uri of its objects."""
        grouped: dict[int, tuple[Container, dict[str, str]]] = {}
        for uri in uris:
            container, key = self._locate(uri)
            grouped.setdefault(id(container), (container, {}))[1][key] = uri
        return list(grouped.values())

    async def list(self, prefix_uri: str) -> AsyncIterator[ObjectState]:
        """List objects. One whose key cannot be in a canonical uri (a ``..`` in it) is skipped, counted and logged, and hides no other."""
        container, prefix = self._locate(prefix_uri)
        address = prefix_uri.removesuffix("/") if not prefix else object_key(prefix_uri)[0]
        async for key, state in container.list(f"{prefix.rstrip('/')}/" if prefix else ""):
            try:
                uri = object_uri(address, key)
            except Rejected as error:
                SOURCE_ERRORS.labels(address.partition(":")[0], error.reason).inc()
                _log.warning("objects.unusable_key", container=address, reason=error.reason)
                continue
            yield _with_uri(uri, state)

    async def identity(self, uri: str) -> Mapping[str, str]:
        container, _ = self._locate(uri)
        return await container.identity()

    def _locate(self, uri: str) -> tuple[Container, str]:
        address, key = object_key(uri if uri.count("/") > 2 else uri + "/")
        try:
            return self._containers[address], key
        except KeyError:
            known = ", ".join(sorted(self._containers))
            raise Rejected(
                f"{address} is not one of the configured containers ({known})", reason="foreign_uri"
            ) from None


def _with_uri(uri: str, state: ObjectState) -> ObjectState:
    return ObjectState(
        uri, state.version, state.size, state.modified, state.change_token, state.media_type, state.labels
    )
