"""The sizes of a bench, and what its groups share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

Say = Callable[[str], None]
"""Reports progress to the person who waits."""


@dataclass(frozen=True, slots=True)
class Options:
    """Sizes that finish in about half an hour on two cores. ``keep`` keeps the folders of the stacks, with their logs."""

    is_small: bool = False
    keep: bool = False
    documents: int = 2_000  # of 2 KB
    model_documents: int = 300  # for the default embedder, which costs about 15 ms a chunk
    changes: int = 120  # one every half second for a minute
    searches: int = 400
    chunks: int = 100_000  # of the large index
    probe_documents: int = 200  # that are added to the small index and to the large one
    events: int = 1_000_000
    event_documents: int = 20_000


SMALL = Options(
    is_small=True,
    documents=60,
    model_documents=10,
    changes=10,
    searches=40,
    chunks=2_000,
    probe_documents=20,
    events=5_000,
    event_documents=200,
)
"""A quick pass, which checks that the bench works. Its timings mean nothing."""


def sizes(*, small: bool, keep: bool, **given: int | None) -> Options:
    """Return the sizes of a pass, with the given ones in place of its own."""
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return replace(SMALL if small else Options(), keep=keep, **chosen)
