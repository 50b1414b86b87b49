"""The files that a question passes through behind the route. A reader follows it in this order, and each file does one thing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from governance.access import filter_for
from tests.fakes.world import World

ROOT = Path(__file__).parents[2]
SHARED = (
    "rag/adapters/",
    "rag/models.py",
    "rag/ids.py",
    "rag/telemetry.py",
    "rag/sentences.py",
)  # vocabulary and servers


@contextmanager
def traced() -> Iterator[list[str]]:
    """Yield the files of the project in the order in which the block first calls into them."""
    files: list[str] = []

    def call(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT) and ".venv" not in path.parts:
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(("tests/", *SHARED)) and name not in files:
                files.append(name)

    before = sys.getprofile()
    sys.setprofile(call)
    try:
        yield files
    finally:
        sys.setprofile(before)


async def test_a_question_reads_from_top_to_bottom() -> None:
    world = World()
    await world.put("a.md")
    await world.run_lane()
    answering = world.answering
    with traced() as files:
        access = filter_for(tenant="acme", subject="alice", groups=("staff",))
        answered = await answering.answer("How many ropes hold a zeppelin?", access)
    assert "Three ropes" in answered.answer.text
    assert files == [
        "governance/access.py",
        "rag/answer/answering.py",
        "rag/answer/answer_cache.py",
        "rag/answer/retrieval.py",
        "rag/answer/reranking.py",
        "rag/answer/generation.py",
        "rag/answer/passages.py",
    ]
