"""The group ``embeddings``: the texts that are embedded again after changes that touch little or nothing of them.

The lane is the real one, over stores in memory, so the counts are exact and the same on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from evals import offline
from evals.figures import Aim, Figure
from evals.generated_texts import texts
from evals.offline import CorpusObject, Offline
from evals.options import Options, Say
from rag.adapters.embedders.bm25 import Bm25Encoder
from rag.adapters.llms.extractive import ExtractiveGenerator
from rag.adapters.memory.models import HashEmbedder
from rag.ingest.parsing import parse
from rag.labels import PRINCIPALS_LABEL, TITLE_LABEL
from rag.models import ParsedDocument
from schemas.topics import CHANGED, TOPICS


class _DirectParser:
    """The real parsers without their sandbox: the texts are generated here, and thousands of processes would only take time."""

    async def parse(
        self, content: bytes, *, name: str, media_type: str | None = None, compartment: str = ""
    ) -> ParsedDocument:
        return parse(content, name, media_type)


async def embedding_counts(options: Options, say: Say) -> list[Figure]:
    """Count the embeddings of each change to one of ``options.documents`` documents."""
    say(f"indexing {options.documents} documents in memory, five times with a change")
    counts = await count(options.documents)
    return [
        Figure(f"{name}, of {options.documents} documents", number, "", Aim("==", aim), is_required=True)
        for name, (number, aim) in counts.items()
    ]


async def count(documents: int) -> Mapping[str, tuple[int, int]]:
    """Return change → (embeddings that it cost, embeddings that it must cost)."""
    embedder = HashEmbedder()
    backend = offline.empty_index(
        embedder, embedder, Bm25Encoder(), ExtractiveGenerator(embedder), parser=_DirectParser()
    )
    corpus = [CorpusObject(f"{number}.md", text.encode()) for number, text in enumerate(texts(documents))]
    await offline.index(corpus, backend)
    first = embedder.embedded
    if first < documents:
        raise AssertionError(f"{first} embeddings of {documents} new documents: the count does not work")

    async def cost(changed: Sequence[CorpusObject]) -> int:
        before = embedder.embedded
        await offline.index(changed, backend)
        return embedder.embedded - before

    middle = corpus[documents // 2]
    edited = replace(middle, content=_with_one_changed_sentence(middle.content))
    return {
        "embeddings of an unchanged re-run": (await cost(corpus), 0),
        "embeddings of one changed sentence in one": (await cost([edited]), 1),
        "embeddings of a changed title": (await cost([replace(edited, labels={TITLE_LABEL: "Another"})]), 0),
        "embeddings of a changed access": (await cost([replace(edited, labels={PRINCIPALS_LABEL: "group:law"})]), 0),
        "embeddings of a backfill": (await _backfill(documents, backend, embedder), 0),
    }


async def _backfill(documents: int, backend: Offline, embedder: HashEmbedder) -> int:
    """Derive every document again. Return the number of embeddings."""
    before, derived = embedder.embedded, 0
    for partition in range(TOPICS[CHANGED].partitions):
        report = await backend.lane.derive(await backend.pipeline.live_batch(partition))
        derived += report.documents
    if derived != documents:
        raise AssertionError(f"a backfill derived {derived} of {documents} documents: the count does not work")
    return embedder.embedded - before


def _with_one_changed_sentence(content: bytes) -> bytes:
    """Return the document with another last word in its fifth sentence."""
    lines = content.decode().split("\n")
    lines[10] = lines[10].rsplit(" ", 1)[0] + " another."
    return "\n".join(lines).encode()
