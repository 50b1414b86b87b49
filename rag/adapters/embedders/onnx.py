"""Any ONNX embedder from a folder (``model.onnx``, ``tokenizer.json``) on ONNX Runtime, fp32, on the CPU."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Encoding, Tokenizer

from rag import ids
from rag.errors import Rejected
from rag.models import Vector

Pooling = Literal["mean", "cls"]
TokenVectors = npt.NDArray[np.float32]
Batch = tuple[list[int], list[Encoding]]  # positions among the texts, and what the model sees of them

_WINDOW = (
    512  # texts sorted by length together: padding falls from 1.45x to 1.04x, and the first vectors do not wait for all
)
# One run of the model: small ones stay in a core's cache. Runs side by side on one thread each make 18 texts of 256 tokens per
# CPU-second, batches of 16 on all threads together 15.
_BATCH, _BATCH_TOKENS = 16, 512
_DEFAULT_MAX_TOKENS = 510  # the positions of a BERT, less its two special tokens


class OnnxEmbedder:
    """Embedder and Tokenizer over one model. A text's vector does not depend on its batch mates: padding is masked exactly.

    ``fingerprint`` covers weights, tokenizer, pooling, prefixes, precision and limits; a golden test guards the libraries.
    Thread-safe; calls run in threads, so that the event loop stays free.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        tokenizer: Tokenizer,
        *,
        name: str,
        digest: str,
        pooling: Pooling = "mean",
        query_prefix: str = "",
        document_prefix: str = "",
        dimensions: int | None = None,
        max_tokens: int = _DEFAULT_MAX_TOKENS,
        normalise: bool = True,
        threads: int = 0,
    ) -> None:
        self._session = session
        self._threads = threads or os.cpu_count() or 1
        self._workers = ThreadPoolExecutor(self._threads, thread_name_prefix="embed")
        self._inputs = {item.name for item in session.get_inputs()}
        self._output, self.dimensions = _token_output(session, dimensions)
        self._pooling, self._normalise = pooling, normalise
        self._query_prefix, self._document_prefix = query_prefix, document_prefix
        self._plain, self._cutting = _copies(tokenizer, max_tokens)
        self.name = name
        prefix_tokens = max(len(self.spans(prefix)) for prefix in (query_prefix, document_prefix))
        self.max_tokens = max_tokens - prefix_tokens
        self.fingerprint = ids.fingerprint(
            {
                "model": digest,
                "precision": "fp32",
                "pooling": pooling,
                "query_prefix": query_prefix,
                "document_prefix": document_prefix,
                "max_tokens": max_tokens,
                "normalise": normalise,
            }
        )

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        name: str | None = None,
        pooling: Pooling = "mean",
        query_prefix: str = "",
        document_prefix: str = "",
        dimensions: int | None = None,
        max_tokens: int = _DEFAULT_MAX_TOKENS,
        normalise: bool = True,
        threads: int = 0,
        digest: str | None = None,
    ) -> Self:
        """``threads`` 0: one per core. ``max_tokens`` leaves special tokens out. ``digest`` names the model when the caller
        already knows its identity. Raises Rejected("bad_model") for a folder that holds no such model."""
        model, tokenizer = directory / "model.onnx", directory / "tokenizer.json"
        for path in (model, tokenizer):
            if not path.is_file():
                raise Rejected(f"embedder folder {directory} has no {path.name}: put one there", reason="bad_model")
        if pooling not in ("mean", "cls"):
            raise Rejected(f"pooling {pooling!r} is unknown: take mean or cls", reason="bad_model")
        try:
            session = onnxruntime.InferenceSession(model, _session_options(), ["CPUExecutionProvider"])
            vocabulary = Tokenizer.from_file(str(tokenizer))
        except Exception as error:  # both raise bare library exceptions
            raise Rejected(f"embedder folder {directory} cannot be loaded: {error}", reason="bad_model") from error
        return cls(
            session,
            vocabulary,
            name=name or directory.name,
            digest=digest or _digest(directory),
            pooling=pooling,
            query_prefix=query_prefix,
            document_prefix=document_prefix,
            dimensions=dimensions,
            max_tokens=max_tokens,
            normalise=normalise,
            threads=threads,
        )

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        return await asyncio.to_thread(self.embed_now, [self._document_prefix + text for text in texts])

    async def embed_query(self, text: str) -> Vector:
        return await asyncio.to_thread(self._embed_one, self._query_prefix + text)

    def spans(self, text: str) -> Sequence[tuple[int, int]]:
        offsets: list[tuple[int, int]] = self._plain.encode(text, add_special_tokens=False).offsets
        return offsets

    def embed_now(self, texts: Sequence[str]) -> list[Vector]:
        """Vectors of ``texts`` as they are (no prefix), in order."""
        vectors: list[Vector] = [np.empty(0, np.float32)] * len(texts)
        for window in self._windows(texts):
            pooled = self._workers.map(lambda batch: self._pool(*self._run(batch[1])), window)
            for (positions, _), found in zip(window, pooled, strict=True):
                for position, vector in zip(positions, found, strict=True):
                    vectors[position] = vector.copy()
        return vectors

    def token_vectors(self, texts: Sequence[str]) -> list[TokenVectors]:
        """One unit vector per token of each text, special tokens left out: what late interaction compares."""
        found: list[TokenVectors] = [np.empty((0, self.dimensions), np.float32)] * len(texts)
        for positions, encodings in (batch for window in self._windows(texts) for batch in window):
            hidden, _ = self._run(encodings)
            for row, position in enumerate(positions):
                special = np.array(encodings[row].special_tokens_mask, bool)
                found[position] = _unit(hidden[row, : len(special)][~special])
        return found

    def _embed_one(self, text: str) -> Vector:
        vector: Vector = self._pool(*self._run([self._cutting.encode(text)]))[0]
        return vector

    def _windows(self, texts: Sequence[str]) -> Iterator[list[Batch]]:
        """Batches of texts of like length, longest first; window by window."""
        for start in range(0, len(texts), _WINDOW):
            encodings = self._cutting.encode_batch(list(texts[start : start + _WINDOW]))
            order = sorted(range(len(encodings)), key=lambda i: len(encodings[i].ids), reverse=True)
            batches, first, fair = [], 0, -(-len(order) // self._threads)  # few texts are for all threads too
            while first < len(order):
                longest = max(1, len(encodings[order[first]].ids))
                rows = order[first : first + max(1, min(_BATCH, fair, _BATCH_TOKENS // longest))]
                batches.append(([start + row for row in rows], [encodings[row] for row in rows]))
                first += len(rows)
            yield batches

    def _run(self, encodings: Sequence[Encoding]) -> tuple[TokenVectors, npt.NDArray[np.int64]]:
        longest = max(len(encoding.ids) for encoding in encodings)
        tokens = np.zeros((len(encodings), longest), np.int64)
        mask = np.zeros_like(tokens)
        for row, encoding in enumerate(encodings):
            tokens[row, : len(encoding.ids)] = encoding.ids
            mask[row, : len(encoding.ids)] = 1
        feeds = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}
        (hidden,) = self._session.run([self._output], {k: v for k, v in feeds.items() if k in self._inputs})
        return hidden, mask

    def _pool(self, hidden: TokenVectors, mask: npt.NDArray[np.int64]) -> TokenVectors:
        if self._pooling == "cls":
            pooled = hidden[:, 0].astype(np.float32)
        else:
            weights = mask[:, :, None].astype(np.float32)
            pooled = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
        return _unit(pooled) if self._normalise else pooled


def _session_options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # texts are spread over threads, not a text
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors; warnings are about devices that a server has none of
    return options


def _token_output(session: onnxruntime.InferenceSession, dimensions: int | None) -> tuple[str, int]:
    """Name and width of the output with a vector per token."""
    outputs: list[Any] = [item for item in session.get_outputs() if len(item.shape) == 3]
    if not outputs:
        raise Rejected("the model has no output of shape (batch, tokens, dimensions)", reason="bad_model")
    width = outputs[0].shape[2]
    if not isinstance(width, int):
        width = dimensions
    if width is None:
        raise Rejected("the model does not say its dimensions: set them", reason="bad_model")
    if dimensions is not None and dimensions != width:
        raise Rejected(f"the model has {width} dimensions, the setting says {dimensions}", reason="bad_model")
    return outputs[0].name, width


def _copies(tokenizer: Tokenizer, max_tokens: int) -> tuple[Tokenizer, Tokenizer]:
    """The tokenizer without and with a limit. What its file says of either is overridden; padding is done here."""
    plain, cutting = (Tokenizer.from_str(tokenizer.to_str()) for _ in range(2))
    for copy in (plain, cutting):
        copy.no_truncation()
        copy.no_padding()
    cutting.enable_truncation(max_tokens + cutting.num_special_tokens_to_add(False))
    return plain, cutting


def _digest(directory: Path) -> str:
    """Of the model, weights kept beside it, and the tokenizer. Names the model, is no identity of a document."""
    total = hashlib.sha256()
    files = [p for p in directory.iterdir() if p.is_file() and p.suffix not in {".md", ".txt", ".lock"}]
    for path in sorted(files):
        total.update(path.name.encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _unit(vectors: TokenVectors) -> TokenVectors:
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: TokenVectors = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    return unit
