"""Objects through obstore: S3 and its kin, and folders, behind one port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, unquote

import obstore
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, S3Store

from rag.errors import Rejected, Unavailable
from rag.ids import object_key, object_uri
from rag.models import ObjectState, SourceObject

Store = S3Store | LocalStore
_NOT_FOUND = (NotFoundError, FileNotFoundError)
_TIMEOUT = {"timeout": "30s", "connect_timeout": "5s"}
_RETRY: Any = {"max_retries": 3}


def s3_store(
    bucket: str,
    *,
    region: str,
    endpoint: str | None = None,
    key_id: str | None = None,
    secret: str | None = None,
    prefix: str = "",
) -> S3Store:
    """A bucket, or what is below ``prefix`` in it. Without ``key_id`` the ambient role (environment, instance, pod) is taken."""
    options: dict[str, Any] = {"region": region, "client_options": dict(_TIMEOUT), "retry_config": _RETRY}
    if endpoint:
        options |= {"endpoint": endpoint, "virtual_hosted_style_request": False}
        options["client_options"]["allow_http"] = endpoint.startswith("http://")
    if key_id:
        options |= {"access_key_id": key_id, "secret_access_key": secret}
    return S3Store(bucket, prefix=prefix or None, **options)


def folder_store(folder: str) -> LocalStore:
    """A folder, made when absent. It keeps no labels."""
    return LocalStore(folder, mkdir=True)


class Objects:
    """The ObjectStore port over ``containers``: ``scheme://container`` → store. Nothing else can be reached."""

    def __init__(self, containers: Mapping[str, Store]) -> None:
        self._containers = dict(containers)

    async def head(self, uri: str) -> ObjectState | None:
        """Labels are not filled in: a HEAD of the store does not bring them."""
        store, key = self._locate(uri)
        with _translated(uri):
            try:
                meta = await obstore.head_async(store, key)
            except _NOT_FOUND:
                await self._confirm_container(store, uri)
                return None
        return _state(uri, meta)

    async def get(self, uri: str, *, limit: int | None = None) -> SourceObject | None:
        store, key = self._locate(uri)
        with _translated(uri):
            try:
                found = await obstore.get_async(store, key)
            except _NOT_FOUND:
                await self._confirm_container(store, uri)
                return None
            if limit is not None and found.meta["size"] > limit:
                raise Rejected(f"object of {found.meta['size']} bytes, at most {limit}: split it", reason="too_large")
            content = bytes(await found.bytes_async())
        return SourceObject(_state(uri, found.meta, dict(found.attributes)), content)

    async def put(
        self, uri: str, content: bytes, *, media_type: str = "", labels: Mapping[str, str] | None = None
    ) -> ObjectState:
        store, key = self._locate(uri)
        attributes: dict[str, str] = {
            name.lower(): quote(value, safe=" ,:@/") for name, value in (labels or {}).items()
        }
        if media_type:
            attributes["Content-Type"] = media_type
        if attributes and isinstance(store, LocalStore):
            raise ValueError(f"a folder keeps no labels: {sorted(attributes)} of {uri}")
        with _translated(uri):
            await obstore.put_async(store, key, content, attributes=attributes or None)
            return _state(uri, await obstore.head_async(store, key))

    async def delete(self, uris: Sequence[str]) -> None:
        by_store: dict[int, tuple[Store, list[str]]] = {}
        for uri in uris:
            store, key = self._locate(uri)
            by_store.setdefault(id(store), (store, []))[1].append(key)
        for store, keys in by_store.values():
            with _translated(f"{len(keys)} objects"):
                if isinstance(store, LocalStore):
                    for key in keys:  # of a batch, the folder store stops at the first absent file
                        await _delete_one(store, key)
                else:
                    await obstore.delete_async(store, keys)

    async def list(self, prefix_uri: str) -> AsyncIterator[ObjectState]:
        store, prefix = self._locate(prefix_uri)
        container = object_key(prefix_uri + ("" if prefix else "/."))[0]
        with _translated(prefix_uri):
            async for page in obstore.list(store, prefix or None, chunk_size=1000):
                for meta in page:
                    yield _state(object_uri(container, meta["path"]), meta)

    def _locate(self, uri: str) -> tuple[Store, str]:
        container, key = object_key(uri if uri.count("/") > 2 else uri + "/")
        try:
            return self._containers[container], key
        except KeyError:
            known = ", ".join(sorted(self._containers))
            raise Rejected(
                f"{container} is none of the configured containers ({known})", reason="foreign_uri"
            ) from None

    async def _confirm_container(self, store: Store, uri: str) -> None:
        """A missing object is an absence only in a container that is there and can be listed; else it is an outage."""
        if isinstance(store, LocalStore) and store.prefix is not None and not store.prefix.is_dir():
            raise Unavailable(f"the folder behind {object_key(uri)[0]} is gone: mount or create it")
        async for _ in obstore.list(store, chunk_size=1):
            break


async def _delete_one(store: Store, key: str) -> None:
    try:
        await obstore.delete_async(store, key)
    except _NOT_FOUND:
        return


def _state(uri: str, meta: Any, attributes: Mapping[str, str] | None = None) -> ObjectState:
    named = {name.lower(): value for name, value in (attributes or {}).items()}
    media_type = named.pop("content-type", None)
    etag = (meta.get("e_tag") or "").strip('"')
    stamp = f"{etag}@{int(meta['last_modified'].timestamp())}"
    return ObjectState(
        uri=uri,
        version=meta.get("version") or stamp,
        stamp=stamp,
        size=meta["size"],
        modified=meta["last_modified"],
        media_type=None if media_type in {"binary/octet-stream", "application/octet-stream"} else media_type,
        labels={name: unquote(value) for name, value in named.items()},
    )


@contextmanager
def _translated(what: str) -> Any:
    try:
        yield
    except (BaseError, OSError) as error:
        reason = type(error).__name__
        raise Unavailable(
            f"object store refuses or fails ({reason}) for {what[:200]}: check its address and rights"
        ) from error
