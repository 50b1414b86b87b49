"""Google Cloud Storage bucket or Azure Blob container through obstore. Its calls are asynchronous and need no thread.

obstore refuses a key with a control character, an empty, ``.`` or ``..`` segment, and drops slashes at the ends. Such a key is
Rejected here, and never read as another. A listing in which one lies is Unavailable: obstore names none of its objects.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    InvalidPathError,
    PermissionDeniedError,
)
from obstore.store import AzureStore, GCSStore

from rag.errors import ObjectUnavailable, Rejected, Unavailable
from rag.ids import metadata_hash
from rag.labels import require_labels
from rag.models import ObjectState, SourceObject

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

Result = TypeVar("Result")
_CONCURRENT_DELETES = 16
_LIST_PAGE = 1000  # objects
_UNKNOWN_TYPES = {"binary/octet-stream", "application/octet-stream"}
_STANDARD = {
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Content-Type",
    "Cache-Control",
    "Storage-Class",
}  # attributes that are no user metadata
_RETRIES: RetryConfig = {"max_retries": 2, "retry_timeout": timedelta(seconds=30)}


def gcs_store(bucket: str, *, endpoint: str | None = None, credentials: str | None = None) -> ObjectStore:
    """Return the store of a bucket. Without ``credentials``, the path of a file, it uses the ambient ones."""
    chosen = {"base_url": endpoint, "application_credentials": credentials}
    return GCSStore(bucket, config=_given(chosen), client_options=_client(endpoint), retry_config=_RETRIES)


def azure_store(
    container: str, *, endpoint: str | None = None, account: str | None = None, key: str | None = None
) -> ObjectStore:
    """Return the store of a container. Without ``key``, it uses the ambient identity."""
    chosen = {"endpoint": endpoint, "account_name": account, "account_key": key}
    return AzureStore(container, config=_given(chosen), client_options=_client(endpoint), retry_config=_RETRIES)


def _given(chosen: Mapping[str, str | None]) -> Any:
    return {name: value for name, value in chosen.items() if value}


def _client(endpoint: str | None) -> ClientConfig:
    """Return the options of the client, which refuses plain http unless the configured endpoint has it."""
    return {
        "connect_timeout": timedelta(seconds=5),
        "timeout": timedelta(minutes=2),  # of a whole answer: 100 MB at 1 MB a second
        "allow_http": bool(endpoint and endpoint.lower().startswith("http://")),
    }


class Remote:
    """The objects of an obstore store. ``name`` is its name in errors."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        self._store = store
        self._name = name

    async def head(self, key: str) -> ObjectState | None:
        async def read() -> ObjectState:
            answer = await obstore.get_async(self._store, _path(key), options={"head": True})
            return _state(answer.meta, answer.attributes)

        return await self._unless_absent(key, read())

    async def get(self, key: str, limit: int | None) -> SourceObject | None:
        async def read() -> SourceObject:
            answer = await obstore.get_async(self._store, _path(key))
            if limit is not None and answer.meta["size"] > limit:
                raise Rejected(
                    f"object of {answer.meta['size']} bytes, at most {limit} are allowed: split it", reason="too_large"
                )
            return SourceObject(_state(answer.meta, answer.attributes), bytes(await answer.bytes_async()))

        return await self._unless_absent(key, read())

    async def put(self, key: str, content: bytes, media_type: str, labels: Mapping[str, str]) -> ObjectState:
        require_labels(labels)
        attributes = {name.lower(): value for name, value in labels.items()}
        if media_type:
            attributes["Content-Type"] = media_type
        await self._call(
            obstore.put_async(self._store, _path(key), content, attributes=attributes, use_multipart=False)
        )
        state = await self.head(key)
        if state is None:
            raise Unavailable(f"container {self._name} lost an object that was just written: try again")
        return state

    async def delete(self, keys: Sequence[str]) -> None:
        async def remove(key: str) -> None:
            try:
                await obstore.delete_async(self._store, _path(key))
            except FileNotFoundError:
                await self._require_answer(key)

        for start in range(0, len(keys), _CONCURRENT_DELETES):
            batch = keys[start : start + _CONCURRENT_DELETES]
            await asyncio.gather(*(self._call(remove(key)) for key in batch))

    async def erase(self, keys: Sequence[str]) -> None:
        """Delete the objects. Older generations and soft-deleted blobs are not in reach of obstore: the container's lifecycle ends them."""
        await self.delete(keys)

    async def kept(self, keys: Sequence[str]) -> set[str]:
        return {key for key in keys if await self.head(key) is not None}

    async def list(self, prefix: str) -> AsyncIterator[tuple[str, ObjectState]]:
        pages = obstore.list(self._store, prefix=_path(prefix.rstrip("/")) if prefix else None, chunk_size=_LIST_PAGE)
        while (page := await self._call(_following(pages))) is not None:
            for entry in page:
                yield entry["path"], _state(entry, {})

    async def identity(self) -> dict[str, str]:
        """Return nothing: the name identifies the container, and an absent one is Unavailable in every call."""
        return {}

    async def _unless_absent(self, key: str, work: Awaitable[Result]) -> Result | None:
        """Return None only for a confirmed absence: the container answers a listing. Raises ObjectUnavailable for a refused object of
        a container whose listing answers."""
        try:
            return await work
        except FileNotFoundError:
            await self._require_answer(key)
            return None
        except BaseError as error:
            reason = _refusal(error)
            if not reason:
                raise self._unavailable(error) from None
            await self._require_answer(key)
            raise ObjectUnavailable(
                f"container {self._name} refuses an object ({reason}): restore it, or the right to read it",
                reason=reason,
            ) from None

    async def _require_answer(self, key: str) -> None:
        """Raise Unavailable unless the container lists what is below ``key``, which mostly is nothing."""
        try:
            await _following(obstore.list(self._store, prefix=_path(key), chunk_size=1))
        except InvalidPathError:
            return
        except (BaseError, OSError) as error:
            raise self._unavailable(error) from None

    async def _call(self, work: Awaitable[Result]) -> Result:
        try:
            return await work
        except (BaseError, OSError) as error:
            raise self._unavailable(error) from None

    def _unavailable(self, error: Exception) -> Unavailable:
        """Return the error without obstore's text, which has the request's address, hence perhaps a signature."""
        if isinstance(error, InvalidPathError):
            return Unavailable(
                f"container {self._name} holds a name with an empty segment, a control character or '..', so it cannot be listed:"
                " rename the object, or narrow base_uri to a folder without one"
            )
        return Unavailable(
            f"container {self._name} refuses or fails ({type(error).__name__}): check its address and rights"
        )


async def _following(pages: Any) -> Any:
    return await anext(pages, None)


def _path(key: str) -> str:
    """Return the key. Raises Rejected for one that the stores' client would refuse, or change into another."""
    segments = key.split("/")
    if any(each in {"", ".", ".."} for each in segments) or any(ord(each) < 32 or ord(each) == 127 for each in key):
        raise Rejected(
            f"key {key[:80]!r} has an empty, '.' or '..' segment or a control character: rename the object",
            reason="bad_uri",
        )
    return key


def _refusal(error: BaseError) -> str:
    """Return why the store refuses this one object, or an empty text when the error is of the store."""
    if isinstance(error, PermissionDeniedError):
        return "access_denied"
    if isinstance(error, AlreadyExistsError):  # HTTP 409, with which Azure answers the read of an archived blob
        return "archived"
    if isinstance(error, GenericError) and "InvalidMetadata" in str(error):  # beyond ASCII; obstore has no class for it
        return "unreadable_metadata"
    return ""


def _state(meta: ObjectMeta, attributes: Mapping[str, str]) -> ObjectState:
    """Return the state of a head, a read or a listed entry. A listing has neither generation nor metadata, so the change token is of
    the tag and the second. The version has the metadata's hash, because a generation stays when the metadata changes."""
    change_token = f"{(meta['e_tag'] or '').strip(chr(34))}@{int(meta['last_modified'].timestamp())}"
    media_type = attributes.get("Content-Type")
    labels = {name.lower(): value for name, value in attributes.items() if name not in _STANDARD}
    return ObjectState(
        uri="",
        version=f"{meta['version'] or change_token}#{metadata_hash(media_type or '', labels)}",
        size=meta["size"],
        modified=meta["last_modified"],
        change_token=change_token,
        media_type=None if media_type in _UNKNOWN_TYPES else media_type,
        labels=labels,
    )
