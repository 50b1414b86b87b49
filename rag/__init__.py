"""The domain: what a document becomes, and how a question is answered from it."""

import os

from rag.no_telemetry import SWITCHES

os.environ.update(SWITCHES)  # at import, because onnxruntime and unstructured report at theirs
