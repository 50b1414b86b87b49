"""The embedder alone, on the chunks that the platform has indexed: the limit of every lane."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from evals.questions import load as load_questions
from rag.ports import Embedder
from rag.wiring import Services

SLICE = (
    512  # texts between two readings of the clock: one window of the embedder, so that slices do not change its batches
)


@dataclass(frozen=True, slots=True)
class EmbeddingFigures:
    """The embedder alone on the inputs of the same chunks. Rates are in chunks per second."""

    chunks: int
    tokens: int
    seconds: float
    slowest_slice: float
    fastest_slice: float


async def chunk_inputs(backend: Services) -> tuple[list[str], int]:
    """Return the embedder's inputs for the index, in the order of the partitions, and the number of their tokens."""
    inputs, tokens = [], 0
    for partition in range(backend.settings.kafka_partitions):
        for task in (await backend.pipeline.live_batch(partition)).tasks:
            if task.chunked:
                chunks = await backend.pipeline.artifacts.chunks(task.chunked)
                inputs += [chunk.input for chunk in chunks]
                tokens += sum(chunk.tokens for chunk in chunks)
    return list(dict.fromkeys(inputs)), tokens


async def embedder_pace(embedder: Embedder) -> float:
    """Return the current speed of the machine: texts per second of the embedder, always on the same texts."""
    questions = [each.text for each in load_questions("enterprise").questions]
    texts = [" ".join(questions[first : first + 5]) for first in range(0, len(questions), 5)]
    await embedder.embed(texts[:16])  # the first call allocates memory
    began = time.perf_counter()
    await embedder.embed(texts)
    return len(texts) / (time.perf_counter() - began)


async def measure_embedder(inputs: Sequence[str], tokens: int, embedder: Embedder) -> EmbeddingFigures:
    """Measure the embedder alone on the inputs, slice by slice."""
    await embedder.embed(inputs[:16])  # the first call allocates memory
    rates, total = [], 0.0
    for start in range(0, len(inputs), SLICE):
        texts = inputs[start : start + SLICE]
        began = time.perf_counter()
        await embedder.embed(texts)
        seconds = time.perf_counter() - began
        rates.append(len(texts) / seconds)
        total += seconds
    return EmbeddingFigures(len(inputs), tokens, total, min(rates), max(rates))
