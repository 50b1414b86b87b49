"""Environment variables that keep the dependencies from reporting to their makers.

Each library reads its variable when it is imported or first used, so ``rag/__init__.py`` sets them all before any other
module. The local stack and the image set them too, for processes that never import ``rag`` (Dagster's webserver and
daemon). Two switches are not environment variables: the Snowflake connector's session parameter (``SNOWFLAKE_SESSION``), and
``telemetry: enabled: false`` in ``dagster.yaml``, without which Dagster writes a user id under ``~/.dagster``.
"""

from __future__ import annotations

from collections.abc import Mapping

SWITCHES: Mapping[str, str] = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime: on import it writes a device id and resolves mobile.events.data.microsoft.com
    "DO_NOT_TRACK": "1",  # unstructured and huggingface_hub: on import the former resolves packages.unstructured.io
    "SCARF_NO_ANALYTICS": "1",  # unstructured's other name for the same switch
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAGAS_DO_NOT_TRACK": "true",  # ragas compares with "true"
    "DAGSTER_DISABLE_TELEMETRY": "yes",
}
SNOWFLAKE_SESSION: Mapping[str, bool] = {"CLIENT_TELEMETRY_ENABLED": False}  # session parameters of each connection
