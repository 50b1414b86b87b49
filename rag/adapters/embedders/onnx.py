"""Adapter for any ONNX embedder in a folder (``model.onnx``, ``tokenizer.json``), run by ONNX Runtime in fp32 on the CPU."""

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
Batch = tuple[list[int], list[Encoding]]  # positions among the texts, and their encodings

# Texts that are sorted by length together. Sorting cuts padding from 1.45x to 1.04x; in windows, so that the first vectors come early.
_WINDOW = 512
# Limits of one run of the model. Small runs stay in a core's cache: parallel runs on one thread each embed 18 texts of 256 tokens per
# CPU-second, batches of 16 on all threads together embed 15.
_BATCH, _BATCH_TOKENS = 16, 512
_DEFAULT_MAX_TOKENS = 510  # the positions of a BERT, less its two special tokens


class OnnxEmbedder:
    """Embedder and Tokenizer of ``rag.ports`` over one model. Padding is masked exactly, so a vector does not depend on its batch mates.

    ``fingerprint`` covers weights, tokenizer, pooling, prefixes, precision and limits; a golden test guards the libraries.
    Thread-safe. Calls run in threads and do not block the event loop.
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
        self._plain, self._truncating = _copies(tokenizer, max_tokens)
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
        """Load the model in ``directory``. Raises Rejected("bad_model") when there is no usable model.

        ``threads`` 0 means one per core. ``max_tokens`` does not count special tokens. ``digest`` identifies the model when the caller
        already knows it.
        """
        model, tokenizer = directory / "model.onnx", directory / "tokenizer.json"
        for path in (model, tokenizer):
            if not path.is_file():
                raise Rejected(f"embedder folder {directory} has no {path.name}: put one there", reason="bad_model")
        if pooling not in ("mean", "cls"):
            raise Rejected(f"pooling {pooling!r} is unknown: use mean or cls", reason="bad_model")
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
        """Return the vectors of ``texts`` in order. No prefix is added."""
        vectors: list[Vector] = [np.empty(0, np.float32)] * len(texts)
        for window in self._windows(texts):
            pooled = self._workers.map(lambda batch: self._pool(*self._run(batch[1])), window)
            for (positions, _), batch_vectors in zip(window, pooled, strict=True):
                for position, vector in zip(positions, batch_vectors, strict=True):
                    vectors[position] = vector.copy()
        return vectors

    def token_vectors(self, texts: Sequence[str]) -> list[TokenVectors]:
        """Return one unit vector per token of each text, without special tokens, for late interaction."""
        vectors: list[TokenVectors] = [np.empty((0, self.dimensions), np.float32)] * len(texts)
        for positions, encodings in (batch for window in self._windows(texts) for batch in window):
            hidden, _ = self._run(encodings)
            for row, position in enumerate(positions):
                special = np.array(encodings[row].special_tokens_mask, bool)
                vectors[position] = _unit(hidden[row, : len(special)][~special])
        return vectors

    def _embed_one(self, text: str) -> Vector:
        vector: Vector = self._pool(*self._run([self._truncating.encode(text)]))[0]
        return vector

    def _windows(self, texts: Sequence[str]) -> Iterator[list[Batch]]:
        """Yield the batches of each window. A batch holds texts of similar length; the longest come first."""
        for start in range(0, len(texts), _WINDOW):
            encodings = self._truncating.encode_batch(list(texts[start : start + _WINDOW]))
            order = sorted(range(len(encodings)), key=lambda i: len(encodings[i].ids), reverse=True)
            batches, first, share = [], 0, -(-len(order) // self._threads)  # a few texts also use all threads
            while first < len(order):
                longest = max(1, len(encodings[order[first]].ids))
                rows = order[first : first + max(1, min(_BATCH, share, _BATCH_TOKENS // longest))]
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
    options.intra_op_num_threads = 1  # each thread runs texts of its own
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors; the warnings are about devices that a server does not have
    return options


def _token_output(session: onnxruntime.InferenceSession, dimensions: int | None) -> tuple[str, int]:
    """Return the name and the width of the output that has a vector per token."""
    outputs: list[Any] = [item for item in session.get_outputs() if len(item.shape) == 3]
    if not outputs:
        raise Rejected(
            "the model has no output of shape (batch, tokens, dimensions): use an encoder model", reason="bad_model"
        )
    width = outputs[0].shape[2]
    if not isinstance(width, int):
        width = dimensions
    if width is None:
        raise Rejected("the model does not declare its dimensions: set them", reason="bad_model")
    if dimensions is not None and dimensions != width:
        raise Rejected(
            f"the model has {width} dimensions, but {dimensions} are set: correct the setting", reason="bad_model"
        )
    return outputs[0].name, width


def _copies(tokenizer: Tokenizer, max_tokens: int) -> tuple[Tokenizer, Tokenizer]:
    """Return copies of the tokenizer without and with a limit. They override the settings of its file; padding is done here."""
    plain, truncating = (Tokenizer.from_str(tokenizer.to_str()) for _ in range(2))
    for copy in (plain, truncating):
        copy.no_truncation()
        copy.no_padding()
    truncating.enable_truncation(max_tokens + truncating.num_special_tokens_to_add(False))
    return plain, truncating


def _digest(directory: Path) -> str:
    """Return the digest of the model, of weights stored beside it, and of the tokenizer. It identifies a model, never a document."""
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
