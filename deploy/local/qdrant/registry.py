"""The names and aliases of collections, in one file that is replaced whole. A name is never part of a path."""

from __future__ import annotations

import asyncio
import json
import shutil
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qdrant_client.http import models as rest

from deploy.local.qdrant import settings
from deploy.local.qdrant.collection import Collection
from deploy.local.qdrant.errors import Refused, not_found, parse
from rag.files import write_whole

DELETED = 0.2  # share of deleted points above which a segment is rewritten, the default
FORBIDDEN = set('<>:"/\\|?*\0\x1f')  # Qdrant's own rule


@dataclass(frozen=True)
class Names:
    """The names at one moment. They are replaced and never changed, so a reader sees no half of a change."""

    collections: dict[str, Collection]
    aliases: dict[str, str]


class Registry:
    def __init__(self, data: Path, index_from: int) -> None:
        self.data, self.index_from = data, index_from
        self.file, self.shards = data / "registry.json", data / "collections"
        self.writing = asyncio.Lock()
        self.names = Names({}, {})

    def load(self) -> None:
        """Read the names, and remove directories without a name.

        A crash leaves one between its creation and the record of its name, or between the end of that record and its removal.
        """
        stored = json.loads(self.file.read_text()) if self.file.exists() else {"collections": {}, "aliases": {}}
        self.names = Names(
            {
                name: self._collection(name, one["directory"], one["created"])
                for name, one in stored["collections"].items()
            },
            stored["aliases"],
        )
        self.shards.mkdir(exist_ok=True)
        known = {collection.path for collection in self.names.collections.values()}
        for stray in set(self.shards.iterdir()) - known:
            shutil.rmtree(stray)

    def _collection(self, name: str, directory: str, created: Any) -> Collection:
        return Collection(name, self.shards / directory, parse(rest.CreateCollection, created), self.index_from)

    def find(self, name: str) -> Collection:
        """Return the collection of a name or an alias."""
        found = self.names.collections.get(self.names.aliases.get(name, name))
        if found is None:
            raise not_found(name)
        return found

    async def create(self, name: str, raw: Any) -> None:
        _check(name)
        async with self.writing:
            if name in self.names.collections:
                raise Refused(f"Wrong input: Collection `{name}` already exists!", 409)
            if name in self.names.aliases:
                raise Refused(
                    f"Wrong input: Can't create collection with name {name}. Alias with the same name already exists"
                )
            collection = self._collection(name, uuid.uuid4().hex, raw)
            try:
                await collection.run(collection.create)
            except BaseException:
                shutil.rmtree(collection.path, ignore_errors=True)
                raise
            await self._become(replace(self.names, collections=self.names.collections | {name: collection}))

    async def optimize(self, name: str, changes: rest.OptimizersConfigDiff) -> None:
        async with self.writing:
            collection = self.find(name)
            before = collection.created.optimizers_config or rest.OptimizersConfigDiff()
            after = before.model_copy(update=changes.model_dump(exclude_none=True))
            settings.engine(collection.created.model_copy(update={"optimizers_config": after}), self.index_from)
            collection.created = collection.created.model_copy(update={"optimizers_config": after})
            if (after.deleted_threshold or DELETED) < (before.deleted_threshold or DELETED):
                path = self.shards / uuid.uuid4().hex
                await collection.rewrite(path, lambda: self._write({collection.name: path}))
            await self._become(self.names)

    async def delete(self, name: str) -> bool:
        async with self.writing:
            collection = self.names.collections.get(name)
            if collection is None:
                return False
            others = {other: each for other, each in self.names.collections.items() if other != name}
            aliases = {alias: target for alias, target in self.names.aliases.items() if target != name}
            await self._become(Names(others, aliases))
        await collection.run(collection.close)
        await asyncio.to_thread(shutil.rmtree, collection.path)
        collection.thread.shutdown(wait=False)
        return True

    async def change_aliases(self, raw: Any) -> None:
        """Apply the actions in order up to one that fails. The earlier ones stay, as in Qdrant."""
        wanted = parse(rest.ChangeAliasesOperation, raw)
        async with self.writing:
            aliases = dict(self.names.aliases)
            try:
                for action in wanted.actions:
                    self._act(aliases, action)
            finally:
                await self._become(replace(self.names, aliases=aliases))

    def _act(self, aliases: dict[str, str], action: Any) -> None:
        if isinstance(action, rest.CreateAliasOperation):
            new = action.create_alias
            _check(new.alias_name)
            if new.collection_name not in self.names.collections:
                raise not_found(new.collection_name)
            if new.alias_name in self.names.collections:
                raise Refused(f"Wrong input: Collection `{new.alias_name}` already exists!", 409)
            aliases[new.alias_name] = new.collection_name
        elif isinstance(action, rest.DeleteAliasOperation):
            aliases.pop(action.delete_alias.alias_name, None)
        else:
            renamed = action.rename_alias
            _check(renamed.new_alias_name)
            if renamed.old_alias_name not in aliases:
                raise Refused(f"Not found: Alias {renamed.old_alias_name} does not exists!", 404)
            if renamed.new_alias_name in self.names.collections:
                raise Refused(f"Wrong input: Collection `{renamed.new_alias_name}` already exists!", 409)
            aliases[renamed.new_alias_name] = aliases.pop(renamed.old_alias_name)

    async def _become(self, names: Names) -> None:
        await asyncio.to_thread(self._write, {}, names)
        self.names = names

    def _write(self, moved: dict[str, Path], names: Names | None = None) -> None:
        """Record the names, and the new directories of ``moved`` collections."""
        names = names or self.names
        collections = {
            name: {
                "directory": moved.get(name, collection.path).name,
                "created": collection.created.model_dump(mode="json", exclude_none=True),
            }
            for name, collection in names.collections.items()
        }
        content = json.dumps({"collections": collections, "aliases": names.aliases}, indent=1).encode()
        write_whole(self.file, content)


def _check(name: str) -> None:
    if not 1 <= len(name) <= 255 or name in {".", ".."} or set(name) & FORBIDDEN or not name.isprintable():
        raise Refused(f'Wrong input: {name!r} is not a valid name: 1 to 255 printable characters, none of <>:"/\\|?*')
