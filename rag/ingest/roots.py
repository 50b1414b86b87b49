"""Proof that a source's root is the right one: an unmounted folder looks exactly like an emptied one.

The marks of a root are recorded when the root first shows a document. An absence is believed only while the root has these marks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rag.errors import Unavailable
from rag.ports import Cursors, ObjectStore
from rag.sources import Source

ACCEPT = "mount the right one, or accept this one with `python -m consumers reconcile --confirm`"


@dataclass(frozen=True, slots=True)
class Roots:
    """The recorded marks of the sources' roots."""

    objects: ObjectStore
    cursors: Cursors
    _known: set[str] = field(
        default_factory=set
    )  # sources whose marks are recorded: a cache, because marks are never forgotten

    async def learn(self, source: Source) -> None:
        """Record the marks of a root that shows a document, unless marks are recorded already."""
        key = _key(source)
        if key not in self._known:
            if not await self.cursors.cursor(key):
                await self.accept(source)
            self._known.add(key)

    async def accept(self, source: Source) -> None:
        """Record the marks of the present root, in place of any recorded ones."""
        if marks := await self.objects.identity(source.base_uri):
            await self.cursors.set_cursor(_key(source), marks)

    async def prove(self, source: Source) -> None:
        """Raise Unavailable unless the present root has the recorded marks. A bucket has no marks, because its name is proof enough."""
        marks = await self.objects.identity(source.base_uri)
        if not marks:
            return
        recorded = await self.cursors.cursor(_key(source))
        if not recorded:
            raise Unavailable(f"the root of source {source.name!r} has not shown a document yet: {ACCEPT}")
        if not _is_same(marks, recorded):
            raise Unavailable(
                f"this is not the folder that was watched for source {source.name!r}: its {_text(marks)}, "
                f"recorded {_text(recorded)}; {ACCEPT}"
            )


def _key(source: Source) -> str:
    return f"root/{source.tenant}/{source.name}"


def _is_same(marks: Mapping[str, str], recorded: Mapping[str, str]) -> bool:
    mark = "marker" if "marker" in recorded else "inode"
    return mark in marks and marks[mark] == recorded[mark]


def _text(marks: Mapping[str, str]) -> str:
    return ", ".join(f"{name} is {value[:80]!r}" for name, value in sorted(marks.items()))
