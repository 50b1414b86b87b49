"""Chunks of a parsed document that fit the embedder, cut at the boundaries of its content.

The end of a chunk depends on the sections, paragraphs and sentences near it, never on its distance from the start of the document.
So an edit changes the chunks around it and no others. Chunks do not overlap; retrieval can add neighbours.
docs/chunking.md describes how the rule was chosen.
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Literal, NamedTuple

from rag.ids import Ids
from rag.ingest.segmentation import Unit, units_of
from rag.models import SECTION_SEPARATOR, Block, BlockKind, Chunk, ParsedDocument
from rag.ports import Tokenizer

VERSION = 1  # raise it when the same document and settings give other chunks

Rule = Literal["greedy", "window", "minima"]
_LONGEST_TOKEN = 16  # characters; a text with more per token is oversized (a hash, base64)


@dataclass(frozen=True, slots=True)
class ChunkSettings:
    """Limits of the chunks, in the embedder's tokens."""

    max_tokens: int = 256  # of ``input``, special tokens included
    min_tokens: int = 64  # of text; the rule "window" looks for no boundary before it
    special_tokens: int = 2  # added by the embedder
    path_tokens: int = 48  # at most, of the heading path
    header_tokens: int = 64  # at most, of a table's header
    reach: int = 64  # to either side, of the rule "minima"
    rule: Rule = "window"
    title: bool = False  # begin ``input`` with the document's title

    def __post_init__(self) -> None:
        if self.room < 8:
            raise ValueError(
                f"chunks of {self.max_tokens} tokens leave {self.room} for text: raise max_tokens or lower path_tokens"
                f" ({self.path_tokens}) and header_tokens ({self.header_tokens})"
            )

    @property
    def room(self) -> int:
        """Return the tokens of text that fit under the longest path and header."""
        return self.max_tokens - self.special_tokens - self.path_tokens * (1 + self.title) - self.header_tokens

    def fingerprint(self) -> dict[str, object]:
        return {**asdict(self), "version": VERSION}


@dataclass(slots=True)
class Run:
    """Blocks under one path and one table header. The last ``opening`` headings of ``path`` are in ``blocks`` themselves."""

    path: tuple[str, ...]
    header: str | None
    blocks: list[Block] = field(default_factory=list)
    opening: int = 0


def chunk(
    parsed: ParsedDocument, *, document_id: str, tenant: str, ids: Ids, tokenizer: Tokenizer, settings: ChunkSettings
) -> tuple[Chunk, ...]:
    """Cut the document into ordered chunks without overlap that cover every block. ``input`` has at most ``settings.max_tokens`` tokens."""
    prefixes: dict[tuple[str, ...], str] = {}
    drafts = [draft for run in runs(parsed) for draft in _Cutter(parsed, run, tokenizer, settings, prefixes).drafts()]
    chunk_ids = ids.chunk_ids(tenant, document_id, [draft.input for draft in drafts])
    return tuple(
        Chunk(
            chunk_id=chunk_id,
            ordinal=ordinal,
            text=parsed.text[draft.start : draft.end],
            input=draft.input,
            start=draft.start,
            end=draft.end,
            section=draft.section,
            tokens=draft.tokens,
            page=draft.page,
        )
        for ordinal, (chunk_id, draft) in enumerate(zip(chunk_ids, drafts, strict=True))
    )


# -- runs: blocks that may share a chunk --------------------------------------------------------------------------------


def runs(parsed: ParsedDocument) -> Iterator[Run]:
    """Yield the runs of a document. A heading is in the run of the text below it, or else in the run of the first heading below it."""
    current: Run | None = None
    for block in parsed.blocks:
        if block.kind is BlockKind.HEADING:
            path = (*block.section, parsed.text[block.start : block.end])
            if current and len(current.blocks) == current.opening and path[: len(current.path)] == current.path:
                current.path, current.opening = path, current.opening + 1
            else:
                if current:
                    yield current
                current = Run(path, None, opening=1)
        else:
            header = block.header if block.kind is BlockKind.ROW else None
            if current and current.path == block.section and len(current.blocks) == current.opening:
                current.header = header
            elif current is None or current.path != block.section or current.header != header:
                if current:
                    yield current
                current = Run(block.section, header)
        current.blocks.append(block)
    if current:
        yield current


class ChunkDraft(NamedTuple):
    start: int
    end: int
    input: str
    tokens: int
    section: tuple[str, ...]
    page: int | None


@dataclass(slots=True)
class _Cutter:
    parsed: ParsedDocument
    run: Run
    tokenizer: Tokenizer
    settings: ChunkSettings
    prefixes: dict[tuple[str, ...], str]  # of ``input``, by path and header, because neighbours share them

    def drafts(self) -> Iterator[ChunkDraft]:
        if (single := self._single_draft()) is not None:
            yield single
            return
        prefix_tokens = self._count_tokens(self._prefix(self.run.path))
        budget = self.settings.max_tokens - self.settings.special_tokens - prefix_tokens
        units = list(units_of(self.parsed.text, self.run.blocks, self.tokenizer, budget))
        cut = RULES[self.settings.rule]
        for first, last in _stretches(cut(units, self.parsed.text, budget, self.settings)):
            yield from self._fit(units[first:last])

    def _single_draft(self) -> ChunkDraft | None:
        """Return the run as one draft when it fits, as most sections do. Such a run needs no segmentation."""
        first, last = self.run.blocks[0], self.run.blocks[-1]
        if last.end - first.start > self.settings.max_tokens * _LONGEST_TOKEN:
            return None
        draft = self._draft(first, first.start, last.end, self.run.blocks)
        return draft if draft.tokens <= self.settings.max_tokens else None

    def _fit(self, units: Sequence[Unit]) -> Iterator[ChunkDraft]:
        """Yield one draft, or several when the joined text has more tokens than its units together, or when one unit is too long."""
        first, last = units[0], units[-1]
        draft = self._draft(first.block, first.start, last.end, [unit.block for unit in units])
        if draft.tokens <= self.settings.max_tokens or last.end - first.start < 2:
            yield draft
            return
        if len(units) == 1:
            middle = (first.start + first.end) // 2
            units = [first._replace(end=middle), first._replace(start=middle)]
        yield from self._fit(units[: len(units) // 2])
        yield from self._fit(units[len(units) // 2 :])

    def _draft(self, first: Block, start: int, end: int, blocks: Iterable[Block]) -> ChunkDraft:
        text = self.parsed.text[start:end]
        input_ = self._prefix(first.section) + text
        body = next((block for block in blocks if block.kind is not BlockKind.HEADING), None)
        section = body.section if body else (*first.section, text)
        return ChunkDraft(
            start, end, input_, self._count_tokens(input_) + self.settings.special_tokens, section, first.page
        )

    # -- the prefix of ``input``: title, path and table header

    def _prefix(self, path: tuple[str, ...]) -> str:
        key = (*path, "", self.run.header or "")
        if key not in self.prefixes:
            names = [re.sub(r"\[\d+\]", "", name) for name in path] if self._is_record else list(path)
            lines = [
                self._shortened(self.parsed.title, self.settings.path_tokens) if self.settings.title else "",
                self._joined_path([name for name in names if name]),
                self._shortened(self.run.header or "", self.settings.header_tokens),
            ]
            self.prefixes[key] = "".join(f"{line}\n" for line in lines if line)
        return self.prefixes[key]

    @property
    def _is_record(self) -> bool:
        """Return whether the run is a record. Its path omits list positions: a record inserted before it must not change its input."""
        return self.run.blocks[0].kind is BlockKind.RECORD

    def _joined_path(self, names: list[str]) -> str:
        """Join as many headings as fit. The outermost gives the topic and the innermost the place, so those in the middle go first."""
        names = [name[: self.settings.path_tokens * _LONGEST_TOKEN] for name in names]
        while len(names) > 1 and self._count_tokens(SECTION_SEPARATOR.join(names)) > self.settings.path_tokens:
            names.pop(1 if len(names) > 2 else 0)
        return self._shortened(SECTION_SEPARATOR.join(names), self.settings.path_tokens)

    def _shortened(self, text: str, most: int) -> str:
        if len(text) <= most:
            return text
        text = text[: most * _LONGEST_TOKEN]
        spans = self.tokenizer.spans(text)
        return text if len(spans) <= most else text[: spans[most][0]].rstrip()

    def _count_tokens(self, text: str) -> int:
        return len(self.tokenizer.spans(text)) if text else 0


# -- the rule: where to cut a run ---------------------------------------------------------------------------------------

Cut = Callable[[Sequence[Unit], str, int, ChunkSettings], list[int]]  # → index after the last unit of each chunk


def cut_greedy(units: Sequence[Unit], text: str, budget: int, settings: ChunkSettings) -> list[int]:
    """Fill each chunk as far as possible. Only for comparison: one more word at the top moves every boundary below it."""
    ends, filled = [], 0
    for index, unit in enumerate(units):
        if filled + unit.tokens > budget and index:
            ends.append(index)
            filled = 0
        filled += unit.tokens
    return [*ends, len(units)]


def cut_window(units: Sequence[Unit], text: str, budget: int, settings: ChunkSettings) -> list[int]:
    """Cut at the best boundary between ``min_tokens`` and the budget. The remaining text is one chunk when it fits."""
    least = min(settings.min_tokens, budget // 2)
    left = sum(unit.tokens for unit in units)
    ends: list[int] = []
    start = 0
    while left > budget:
        filled, index, best, at = units[start].tokens, start + 1, (-1, -1), start + 1
        while index < len(units):
            if (filled >= least or at == start + 1) and (rank := _rank(units[index], text)) >= best:
                best, at = rank, index
            if filled < least:
                best = (-1, -1)
            filled += units[index].tokens
            if filled > budget:
                break
            index += 1
        ends.append(at)
        left -= sum(unit.tokens for unit in units[start:at])
        start = at
    return [*ends, len(units)] if start < len(units) else ends


def cut_minima(units: Sequence[Unit], text: str, budget: int, settings: ChunkSettings) -> list[int]:
    """Cut at boundaries that are the best within ``reach`` tokens on either side. ``cut_window`` cuts stretches that are still too long."""
    if sum(unit.tokens for unit in units) <= budget:
        return [len(units)]
    positions = list(accumulate((unit.tokens for unit in units), initial=0))
    ranks = [_rank(unit, text) for unit in units]
    cuts = []
    for index in range(1, len(units)):
        first = bisect_left(positions, positions[index] - settings.reach)
        last = bisect_left(positions, positions[index] + settings.reach, hi=len(units))
        if first > 0 and max(ranks[first:last]) == ranks[index] and ranks[index] not in ranks[first:index]:
            cuts.append(index)
    ends: list[int] = []
    for first, last in zip([0, *cuts], [*cuts, len(units)], strict=True):
        ends += [first + end for end in cut_window(units[first:last], text, budget, settings)]
    return ends


RULES: dict[Rule, Cut] = {"greedy": cut_greedy, "window": cut_window, "minima": cut_minima}


def _rank(unit: Unit, text: str) -> tuple[int, int]:
    """Rank the boundary before ``unit`` by strength, then by a hash of the unit's first words: arbitrary, but not a matter of position."""
    return unit.strength, zlib.crc32(text[unit.start : min(unit.end, unit.start + 32)].encode())


def _stretches(ends: Sequence[int]) -> Iterator[tuple[int, int]]:
    start = 0
    for end in ends:
        yield start, end
        start = end
