"""The domain: the ingest of documents into an index, and the answers to questions from that index."""

import os

from rag.no_telemetry import SWITCHES

os.environ.update(
    SWITCHES
)  # at import, because onnxruntime and unstructured send telemetry as soon as they are imported
