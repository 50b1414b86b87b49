"""Objects in memory, for fast tests. Containers in ``denied`` refuse access, as after the loss of a right.

``identities`` gives a container the marks of a root, as a folder has them.
``unreadable`` maps objects that can be listed but not read, as archived ones, to a reason.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime

from rag.errors import ObjectUnavailable, Rejected, Unavailable
from rag.ids import object_key
from rag.labels import require_labels
from rag.models import ObjectState, SourceObject


class MemoryObjects:
    def __init__(self, *containers: str) -> None:
        self._containers = set(containers)
        self._objects: dict[str, SourceObject] = {}
        self._version = 0
        self.denied: set[str] = set()
        self.identities: dict[str, Mapping[str, str]] = {}
        self.unreadable: dict[str, str] = {}

    async def head(self, uri: str) -> ObjectState | None:
        self._locate(uri)
        stored = self._objects.get(uri)
        return stored.state if stored else None

    async def get(self, uri: str, *, limit: int | None = None) -> SourceObject | None:
        self._locate(uri)
        stored = self._objects.get(uri)
        if stored and uri in self.unreadable:
            raise ObjectUnavailable("the object store refuses an object", reason=self.unreadable[uri])
        if stored and limit is not None and stored.state.size > limit:
            raise Rejected(
                f"object of {stored.state.size} bytes, at most {limit} are allowed: split it", reason="too_large"
            )
        return stored

    async def put(
        self, uri: str, content: bytes, *, media_type: str = "", labels: Mapping[str, str] | None = None
    ) -> ObjectState:
        self._locate(uri)
        require_labels(labels or {})
        self._version += 1
        state = ObjectState(
            uri,
            f"v{self._version}",
            len(content),
            datetime.now(UTC),
            f"s{self._version}",
            media_type or None,
            dict(labels or {}),
        )
        self._objects[uri] = SourceObject(state, content)
        return state

    async def delete(self, uris: Sequence[str]) -> None:
        for uri in uris:
            self._locate(uri)
            self._objects.pop(uri, None)

    async def erase(self, uris: Sequence[str]) -> None:
        await self.delete(uris)

    async def kept(self, uris: Sequence[str]) -> set[str]:
        return {uri for uri in uris if await self.head(uri) is not None}

    async def list(self, prefix_uri: str) -> AsyncIterator[ObjectState]:
        self._locate(prefix_uri)
        for uri in sorted(self._objects):
            if uri.startswith(prefix_uri.rstrip("/") + "/"):
                yield self._objects[uri].state

    async def identity(self, uri: str) -> Mapping[str, str]:
        return self.identities.get(self._locate(uri), {})

    def _locate(self, uri: str) -> str:
        container, _ = object_key(uri if uri.count("/") > 2 else uri + "/")
        if container not in self._containers:
            raise Rejected(f"{container} is not one of the configured containers", reason="foreign_uri")
        if container in self.denied:
            raise Unavailable(f"the object store refuses {container}: restore the right to read it")
        return container
