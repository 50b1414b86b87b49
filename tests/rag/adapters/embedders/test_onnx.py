import asyncio
import random
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from rag.adapters.embedders.onnx import OnnxEmbedder
from rag.errors import Rejected

WORDS = ["invoice", "travel", "expense", "policy", "manager", "sensor", "pump", "valve", "leave", "contract"]


def sentences(count: int, longest: int = 200) -> list[str]:
    chance = random.Random(7)
    return [" ".join(chance.choices(WORDS, k=chance.randint(1, longest))) for _ in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a model whose token vectors are rows of a table, so that pooling and prefixes can be computed by hand."""
    words = {"[PAD]": 0, "[UNK]": 1, "query": 2, "passage": 3, "cat": 4, "dog": 5}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_truncation(1)  # limits in the file must have no effect
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    table = numpy_helper.from_array(np.eye(6, dtype=np.float32), "table")
    shape = ["batch", "tokens"]
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["hidden"])],
        "table",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, shape)],
        [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [*shape, 6])],
        [table],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "model.onnx")
    return tmp_path


async def test_a_vector_does_not_depend_on_its_batch_mates(minilm: OnnxEmbedder) -> None:
    texts = sentences(40)
    together = await minilm.embed(texts)
    for text, vector in list(zip(texts, together, strict=True))[::5]:
        (alone,) = await minilm.embed([text])
        assert np.abs(alone - vector).max() < 1e-6


async def test_vectors_come_in_the_order_of_the_texts_across_windows(folder: Path) -> None:
    embedder = OnnxEmbedder.load(folder, max_tokens=8)
    texts = ["cat", "dog dog dog cat"] * 700
    vectors = await embedder.embed(texts)
    assert all(vector.argmax() == (4 if text == "cat" else 5) for text, vector in zip(texts, vectors, strict=True))


async def test_mean_pooling_leaves_padding_out_and_cls_takes_the_first_token(folder: Path) -> None:
    mean = OnnxEmbedder.load(folder, max_tokens=8, normalise=False)
    cls = OnnxEmbedder.load(folder, max_tokens=8, normalise=False, pooling="cls")
    cat, both = await mean.embed(["cat", "cat dog dog dog"])
    assert cat.tolist() == [0, 0, 0, 0, 1, 0]
    assert both.tolist() == [0, 0, 0, 0, 0.25, 0.75]
    assert (await cls.embed(["dog cat cat"]))[0].tolist() == [0, 0, 0, 0, 0, 1]
    assert mean.fingerprint != cls.fingerprint


async def test_documents_and_questions_get_their_own_prefix(folder: Path) -> None:
    embedder = OnnxEmbedder.load(
        folder, max_tokens=8, query_prefix="query ", document_prefix="passage ", normalise=False
    )
    assert (await embedder.embed(["cat"]))[0].tolist() == [0, 0, 0, 0.5, 0.5, 0]
    assert (await embedder.embed_query("cat")).tolist() == [0, 0, 0.5, 0, 0.5, 0]
    assert embedder.max_tokens == 7, "the prefix takes a token of the limit"
    assert embedder.fingerprint != OnnxEmbedder.load(folder, max_tokens=8, normalise=False).fingerprint


async def test_texts_over_the_limit_are_cut_at_the_end_and_spans_are_not(folder: Path) -> None:
    embedder = OnnxEmbedder.load(folder, max_tokens=2, normalise=False)
    assert (await embedder.embed(["cat dog dog dog"]))[0].tolist() == [0, 0, 0, 0, 0.5, 0.5]
    assert embedder.spans("cat dog dog dog") == [(0, 3), (4, 7), (8, 11), (12, 15)]


async def test_no_texts_give_no_vectors(folder: Path) -> None:
    assert list(await OnnxEmbedder.load(folder).embed([])) == []


def test_other_weights_have_another_fingerprint(folder: Path) -> None:
    before = OnnxEmbedder.load(folder).fingerprint
    assert OnnxEmbedder.load(folder).fingerprint == before
    model = onnx.load(folder / "model.onnx")
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(2 * np.eye(6, dtype=np.float32), "table"))
    onnx.save(model, folder / "model.onnx")
    assert OnnxEmbedder.load(folder).fingerprint != before


def test_a_folder_without_a_model_is_refused_by_its_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="has 6 dimensions, but 384 are set"):
        OnnxEmbedder.load(folder, dimensions=384)
    with pytest.raises(Rejected, match="pooling 'max'"):
        OnnxEmbedder.load(folder, pooling="max")  # type: ignore[arg-type]
    (folder / "model.onnx").write_bytes(b"\x00truncated")
    with pytest.raises(Rejected, match="cannot be loaded"):
        OnnxEmbedder.load(folder)
    with pytest.raises(Rejected, match=r"has no model\.onnx"):
        OnnxEmbedder.load(tmp_path / "nowhere")


def test_spans_count_characters_whatever_the_script(minilm: OnnxEmbedder) -> None:
    text = "Zoë 🚀🚀 paid €5 in 東京"
    assert [text[a:b] for a, b in minilm.spans(text)] == ["Zoë", "🚀🚀", "paid", "€", "##5"[2:], "in", "東", "京"]
    assert len(minilm.spans("pump " * 5000)) == 5000


async def test_the_event_loop_stays_free_while_texts_are_embedded(minilm: OnnxEmbedder) -> None:
    work = asyncio.ensure_future(minilm.embed(sentences(48)))
    turns, longest, before = 0, 0.0, time.monotonic()
    while not work.done():
        await asyncio.sleep(0)
        turns, longest, before = turns + 1, max(longest, time.monotonic() - before), time.monotonic()
    assert turns > 100
    assert longest < 0.5


async def test_token_vectors_leave_special_tokens_out(minilm: OnnxEmbedder) -> None:
    one, two = await asyncio.to_thread(minilm.token_vectors, ["pump", "pump valve pressure"])
    assert one.shape == (1, 384)
    assert two.shape == (3, 384)
    assert np.linalg.norm(two, axis=1) == pytest.approx(1, abs=1e-5)
