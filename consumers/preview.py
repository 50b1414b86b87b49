"""Preview of a reconcile: the same code over parts that read, write nothing, and print the events instead of publishing them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from rag.ports import Catalog

_CATALOG = {name for name in vars(Catalog) if not name.startswith("_")}
_READS = {
    "objects": {"head", "get", "list", "identity"},
    "ledger": {
        *_CATALOG,
        "positions",
        "recorded",
        "cursor",
        "row_hashes",
        "held_deletions",
        "suppressed",
        "erased_people",
    },
    "events": {"describe", "read", "members"},
}
_WRITES = {"put", "delete", "set_cursor", "set_row_hashes", "confirm_deletions", "release_deletions"}


class _ReadOnly:
    """A part of the services with its reading methods. The writing ones do nothing and return None."""

    def __init__(self, part: object, reads: Set[str]) -> None:
        self._part = part
        self._reads = reads

    def __getattr__(self, name: str) -> Any:
        if name in self._reads:
            return getattr(self._part, name)
        if name in _WRITES:
            return _do_nothing
        raise AttributeError(
            f"a preview does not know whether {name!r} reads or writes: add it to consumers/preview.py"
        )


class _Printer(_ReadOnly):
    """An event log that prints each document once, for the first step that finds a change. Later steps find the same change,
    because a preview publishes nothing."""

    def __init__(self, part: object, write: Callable[[str], object]) -> None:
        super().__init__(part, _READS["events"])
        self._write = write
        self._printed: set[str] = set()

    async def publish(
        self, topic: str, events: Sequence[tuple[str, Any]], *, headers: Mapping[str, str] | None = None
    ) -> None:
        for key, event in events:
            if key not in self._printed:
                self._printed.add(key)
                self._write(
                    f"{event.kind.value:7}  {event.uri}  ({event.source})"
                    if event
                    else f"DELETED  document {key}  (no source contains it)"
                )


def read_only_parts(opened: Any, write: Callable[[str], object]) -> dict[str, Any]:
    """Return the fields that replace those of ``opened`` (``rag.wiring.Services``)."""
    return {
        "objects": _ReadOnly(opened.objects, _READS["objects"]),
        "ledger": _ReadOnly(opened.ledger, _READS["ledger"]),
        "events": _Printer(opened.events, write),
    }


async def _do_nothing(*_: object, **__: object) -> None:
    return None
