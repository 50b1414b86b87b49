"""The bytes that come out of the sandbox: their sender has read a hostile document, so every field is checked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evals.sample_corpus import documents
from rag.errors import Rejected
from rag.ingest.parsing import parse, wire
from rag.models import Block, BlockKind, ParsedDocument

PARSED = ParsedDocument(
    "Title\n\nName | City\n\n„Ü“ 🚀",
    (
        Block(BlockKind.HEADING, 0, 5),
        Block(BlockKind.ROW, 7, 18, ("Title",), 2, "Who | Where"),
        Block(BlockKind.PARAGRAPH, 20, 25, ("Title",), 2),
    ),
    "Title", "de", "text/html", 2,
)  # fmt: skip


def altered(**fields: Any) -> bytes:
    return json.dumps(json.loads(wire.dump(PARSED)) | fields).encode()


def test_a_document_comes_back_as_it_was() -> None:
    assert wire.load(wire.dump(PARSED)) == PARSED


@pytest.mark.parametrize("path", [path for path in documents() if path.suffix in {".md", ".html", ".json"}][::4])
def test_the_documents_of_the_sample_company_come_back_as_they_were(path: Any) -> None:
    parsed = parse(path.read_bytes(), path.name)
    assert wire.load(wire.dump(parsed)) == parsed


def test_a_section_shared_by_many_blocks_is_written_once() -> None:
    blocks = tuple(Block(BlockKind.ROW, n, n + 1, ("a long heading " * 50,), None, "h " * 100) for n in range(500))
    content = wire.dump(ParsedDocument("x" * 500, blocks, "T", None, "text/csv"))
    assert content.count(b"a long heading") == 50
    assert len(content) < 20_000


@pytest.mark.parametrize(
    "content",
    [
        b"", b"null", b"[]", b"{}", b"\xff", b"[" * 100_000,
        altered(text=3), altered(title=None), altered(media_type=[]), altered(language=3), altered(pages="2"), altered(pages=True),
        altered(sections=[["a", 3]]), altered(headers=[3]), altered(blocks=3),
        altered(blocks=[[0, 0, 5, 0, None]]),
        altered(blocks=[[99, 0, 5, 0, None, 0]]),
        altered(blocks=[[0, 0, 5, 99, None, 0]]),
        altered(blocks=[[0, 0, 5, 0, "2", 0]]),
        altered(blocks=[[0, 0, 10_000, 0, None, 0]]),
        altered(blocks=[[0, -1, 5, 0, None, 0]]),
        altered(blocks=[[0, 5, 3, 0, None, 0]]),
        altered(blocks=[[0, 0, 5, 0, None, 0], [0, 4, 6, 0, None, 0]]),
    ],
)  # fmt: skip
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - a JSON decoder has its own subclasses and messages
        wire.load(content)
    assert str(caught.value)


def test_a_refusal_comes_back_with_its_reason_and_a_bounded_message() -> None:
    error = wire.load_error(wire.dump_error(Rejected("damaged: " + "x" * 10_000, reason="corrupt")))
    assert error.reason == "corrupt"
    assert len(str(error)) == 2_000


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}", b"[" * 60_000, b'{"refused": 1, "reason": "corrupt"}'])
def test_any_other_refusal_is_an_invalid_reply(content: bytes) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - a JSON decoder has its own subclasses and messages
        wire.load_error(content)
    assert str(caught.value)
