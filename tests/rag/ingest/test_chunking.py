"""Chunks are verbatim, complete and bounded, and an edit leaves distant chunks unchanged."""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.sample_corpus import documents as sample_documents
from rag.errors import Rejected
from rag.ids import Ids
from rag.ingest.chunking import VERSION, ChunkSettings, chunk
from rag.ingest.parsing import parse
from rag.ingest.parsing.elements import Element, assemble
from rag.models import BlockKind, Chunk, ParsedDocument

IDS = Ids(b"a secret of this test")


class Subwords:
    """Tokenizer that cuts words every six characters, as a small vocabulary does, and with ``blank`` counts line breaks."""

    def __init__(self, *, blank: bool = False) -> None:
        self._pattern = re.compile(r"\w{1,6}|[^\w\s]" + (r"|\n" if blank else ""))

    def spans(self, text: str) -> Sequence[tuple[int, int]]:
        return [match.span() for match in self._pattern.finditer(text)]


TOKENIZER = Subwords()


def chunks(parsed: ParsedDocument, tokenizer: Subwords = TOKENIZER, **changes: object) -> tuple[Chunk, ...]:
    return chunk(
        parsed, document_id="d", tenant="t", ids=IDS, tokenizer=tokenizer, settings=replace(ChunkSettings(), **changes)
    )


def document(*elements: Element) -> ParsedDocument:
    return assemble(elements, name="x.txt", media_type="text/plain", title="Title")


def markdown(text: str) -> ParsedDocument:
    return parse(text.encode(), "x.md")


def prose(sentences: int, seed: int = 1) -> list[str]:
    """Return different sentences of five to thirty words."""
    generator = random.Random(seed)
    words = [
        "plan",
        "price",
        "order",
        "the",
        "a",
        "of",
        "customer",
        "pays",
        "within",
        "days",
        "returns",
        "warehouse",
        "signs",
        "every",
    ]
    bodies = (" ".join(generator.choices(words, k=generator.randint(5, 30))) for _ in range(sentences))
    return [f"{text.capitalize()} {number}." for number, text in enumerate(bodies)]


# -- any document

texts = st.text(st.characters(codec="utf-8"), max_size=400) | st.lists(
    st.sampled_from(["word", "Sentence.", "x" * 90, "一句话。", "a;", "No.", "\n", "1,234", "|"]), max_size=120
).map(" ".join)
elements = st.builds(
    Element,
    st.sampled_from(BlockKind),
    texts,
    level=st.integers(1, 4),
    page=st.none() | st.integers(1, 9),
    header=st.none() | st.sampled_from(["name | city", "h " * 90]),
)


@st.composite
def documents(draw: st.DrawFn) -> ParsedDocument:
    try:
        return document(*draw(st.lists(elements, max_size=12)), Element(BlockKind.PARAGRAPH, "At least this."))
    except Rejected as error:  # pragma: no cover - the last element has text
        raise AssertionError from error


shapes = st.fixed_dictionaries(
    {
        "rule": st.sampled_from(["greedy", "window", "minima"]),
        "title": st.booleans(),
        "max_tokens": st.sampled_from([48, 100, 256]),
        "path_tokens": st.just(8),
        "header_tokens": st.just(8),
    }
)


@given(documents(), shapes, st.booleans())
@settings(max_examples=150, deadline=None)
def test_chunks_are_verbatim_ordered_complete_bounded_and_the_same_again(
    parsed: ParsedDocument, shape: dict[str, Any], blank: bool
) -> None:
    tokenizer = Subwords(blank=blank)
    result = chunks(parsed, tokenizer, **shape)
    assert [c.ordinal for c in result] == list(range(len(result)))
    assert all(c.text == parsed.text[c.start : c.end] and c.input.endswith(c.text) and c.text for c in result)
    assert all(a.end <= b.start for a, b in pairwise(result))
    gaps = [0, *(offset for c in result for offset in (c.start, c.end)), len(parsed.text)]
    assert all(not parsed.text[a:b].strip() for a, b in zip(gaps[::2], gaps[1::2], strict=True))
    for c in result:
        assert c.tokens == len(tokenizer.spans(c.input)) + 2
        assert c.tokens <= shape["max_tokens"]
    assert len({c.chunk_id for c in result}) == len(result)
    assert chunks(parsed, tokenizer, **shape) == result


# -- units that stay together


def test_a_small_section_is_one_chunk_with_its_heading_and_the_path_above_it() -> None:
    result = chunks(markdown("# Leave\n\n## Holidays\n\nThirty days.\n\n* paid\n\n## Sickness\n\nCall before nine."))
    assert [c.text for c in result] == ["Leave\n\nHolidays\n\nThirty days.\n\npaid", "Sickness\n\nCall before nine."]
    assert [c.section for c in result] == [("Leave", "Holidays"), ("Leave", "Sickness")]
    assert result[1].input == "Leave\nSickness\n\nCall before nine."


def test_later_chunks_of_a_section_carry_its_whole_path() -> None:
    result = chunks(markdown("# Leave\n\n## Holidays\n\n" + "\n\n".join(prose(60))))
    assert len(result) > 3
    assert all(c.input.startswith("Leave > Holidays\n") for c in result[1:])
    assert all(c.section == ("Leave", "Holidays") for c in result)


def test_rows_stay_whole_and_every_chunk_of_a_table_has_its_header() -> None:
    rows = [f"| customer {n} | city {n} | {n * 17} |" for n in range(60)]
    result = chunks(
        markdown("# Customers\n\nAll of them:\n\n| Name | City | Spent |\n|---|---|---|\n" + "\n".join(rows))
    )
    tables = [c for c in result if "customer" in c.text]
    assert len(tables) > 2
    assert all(c.input.startswith("Customers\nName | City | Spent\n") for c in tables)
    for c in tables:
        assert all(re.fullmatch(r"customer \d+ \| city \d+ \| \d+", row) for row in c.text.split("\n\n"))


def test_a_row_too_wide_is_cut_between_cells() -> None:
    cells = [f"value number {n}" for n in range(200)]
    result = chunks(parse(("a,b\n" + ",".join(cells)).encode(), "x.csv"))
    assert len(result) > 2
    found = [cell for c in result for cell in re.split(r" \| ?", c.text) if cell]
    assert found == cells


def test_a_path_and_a_header_without_end_leave_room_for_the_text() -> None:
    path = "# " + "long heading " * 35 + "\n\n## " + "another long one " * 25 + "\n\n"
    result = chunks(markdown(path + "\n\n".join(prose(30))))
    assert all(c.tokens <= 256 for c in result)
    assert min(len(c.text) for c in result[:-1]) > 100
    wide = chunks(parse((",".join(f"column{n}" for n in range(5000)) + "\n1,2,3\n").encode(), "x.csv"))
    assert all(c.tokens <= 256 for c in wide)


def test_records_of_a_list_do_not_contain_their_position() -> None:
    def inputs(names: list[str]) -> set[str]:
        items = ", ".join(f'{{"name": "{name}", "note": "{name} " }}' for name in names)
        return {c.input for c in chunks(parse(f'{{"people": [{items}], "x": "{"y " * 600}"}}'.encode(), "x.json"))}

    assert inputs(["ada", "grace"]) <= inputs(["new", "ada", "grace"])


def test_the_page_is_that_of_the_first_word() -> None:
    parsed = document(*(Element(BlockKind.PARAGRAPH, text, page=1 + n // 10) for n, text in enumerate(prose(60))))
    pages = {b.start: b.page for b in parsed.blocks}
    result = chunks(parsed)
    assert {c.page for c in result} > {1, 3}
    assert all(c.page == pages[c.start] for c in result if c.start in pages)


def test_text_without_spaces_or_ends_is_bounded() -> None:
    for text in ("x" * 100_000, "word " * 20_000, "。" * 10 + "字" * 20_000, "a|" * 30_000):
        result = chunks(document(Element(BlockKind.PARAGRAPH, text)))
        assert all(c.tokens <= 256 and len(c.text) <= 4_096 for c in result)


# -- the cost of an edit


def changed(before: ParsedDocument, after: ParsedDocument) -> int:
    known = {c.chunk_id for c in chunks(before)}
    return sum(c.chunk_id not in known for c in chunks(after))


def test_one_changed_sentence_in_a_section_costs_one_embedding() -> None:
    sections = [f"## Section {n}\n\n" + " ".join(prose(8, seed=n)) for n in range(20)]
    before = markdown("# Handbook\n\n" + "\n\n".join(sections))
    costs = []
    for n in range(20):
        sections_after = [*sections[:n], sections[n].replace("1.", "1 and more."), *sections[n + 1 :]]
        costs.append(changed(before, markdown("# Handbook\n\n" + "\n\n".join(sections_after))))
    assert costs == [1] * 20


def test_a_sentence_at_the_top_of_a_long_section_changes_few_chunks() -> None:
    costs = []
    for seed in range(20):
        body = prose(400, seed=seed)
        before, after = " ".join(body), " ".join(["Something new stands here now.", *body])
        costs.append(
            changed(document(Element(BlockKind.PARAGRAPH, before)), document(Element(BlockKind.PARAGRAPH, after)))
        )
        assert len(chunks(document(Element(BlockKind.PARAGRAPH, before)))) > 25
    assert sum(costs) / len(costs) <= 3
    assert max(costs) <= 12


def test_a_new_row_changes_few_chunks_of_a_table() -> None:
    rows = [f"customer {n},{text}" for n, text in enumerate(prose(300))]
    for at in (0, 150, 299):
        after = [*rows[:at], "newcomer,Nothing known yet", *rows[at:]]
        before = parse(("name,note\n" + "\n".join(rows)).encode(), "x.csv")
        assert changed(before, parse(("name,note\n" + "\n".join(after)).encode(), "x.csv")) <= 4


def test_a_section_moved_elsewhere_under_its_heading_costs_nothing() -> None:
    one, two = "## One\n\n" + " ".join(prose(9, seed=1)), "## Two\n\n" + " ".join(prose(9, seed=2))
    three = "## Zero\n\nFirst."
    assert changed(markdown(f"# A\n\n{three}\n\n{one}\n\n{two}"), markdown(f"# A\n\n{three}\n\n{two}\n\n{one}")) == 0


# -- settings, speed, real documents


def test_the_same_document_gives_the_chunks_it_gave_before() -> None:
    """When this fails, indexes built before are out of date: raise ``rag.ingest.chunking.VERSION``, and put the new hash here."""
    body = "\n\n".join(" ".join(prose(40, seed=n)) for n in range(5))
    table = "| a | b |\n|---|---|\n" + "\n".join(f"| {n} | {text} |" for n, text in enumerate(prose(40)))
    elements = [Element(BlockKind.HEADING, "One"), *(Element(BlockKind.PARAGRAPH, text) for text in body.split("\n\n"))]
    elements += [Element(BlockKind.ROW, line, header="a | b") for line in table.split("\n")]
    inputs = "\x00".join(c.input for c in chunks(document(*elements)))
    assert (VERSION, hashlib.sha256(inputs.encode()).hexdigest()[:16]) == (1, "95e1e412b4b9daa5")


def test_settings_that_leave_no_room_are_refused() -> None:
    with pytest.raises(ValueError, match="max_tokens"):
        ChunkSettings(max_tokens=100)
    assert ChunkSettings().fingerprint() != ChunkSettings(min_tokens=65).fingerprint()


def test_time_grows_with_the_text_and_not_faster() -> None:
    def seconds(size: int) -> float:
        parsed = document(Element(BlockKind.PARAGRAPH, " ".join(prose(size))))
        began = time.process_time()
        chunks(parsed)
        return time.process_time() - began

    seconds(100)
    assert seconds(8_000) < 16 * max(seconds(1_000), 0.005)


@pytest.mark.parametrize(
    "bit", [".", ". ", "!?", '."', "No. ", "A. ", "; ", " | ", ".x", "。", "\t.", "a\u0301", "\U0001f600 "]
)
def test_time_does_not_explode_on_repeated_marks(bit: str) -> None:
    parsed = document(Element(BlockKind.PARAGRAPH, "Begin " + bit * (100_000 // len(bit)) + " end"))
    began = time.process_time()
    chunks(parsed)
    assert time.process_time() - began < 5


def test_the_documents_of_the_sample_company_are_chunked_completely() -> None:
    _assert_chunked_completely(sample_documents())


def test_real_documents_are_chunked_completely(shared: Path) -> None:
    files = sorted((shared / "enterprise" / "corpus").rglob("*.*"))[::8]
    _assert_chunked_completely(files + sorted((shared / "northwind/corpus").glob("*.pdf")))


def _assert_chunked_completely(files: list[Path]) -> None:
    assert files
    for path in files:
        parsed = parse(path.read_bytes(), path.name)
        result = chunks(parsed)
        assert "".join("".join(c.text.split()) for c in result) == "".join(parsed.text.split())
        assert max(c.tokens for c in result) <= 256
