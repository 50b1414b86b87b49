from pathlib import Path

import pytest

from rag.adapters.embedders.minilm import Minilm
from rag.adapters.embedders.onnx import OnnxEmbedder


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def minilm(models_dir: Path) -> OnnxEmbedder:
    return Minilm.load(models_dir, threads=1)
