"""Parts of the API's description that FastAPI cannot derive: the event stream, and the media type of problems."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from gateway.messages import AnswerResponse, ProblemMessage
from gateway.problems import MEDIA_TYPE

STREAM = "text/event-stream"
PROBLEMS: dict[int | str, dict[str, Any]] = {"4XX": {"model": ProblemMessage}, "5XX": {"model": ProblemMessage}}
_REF = "#/components/schemas/"


def event_schema() -> dict[str, Any]:
    """Return the schema of one event of a streamed answer, which is what OpenAPI before 3.2 describes for a stream."""
    citations = {"type": "array", "items": {"$ref": f"{_REF}CitationMessage"}}
    done = AnswerResponse.model_json_schema(ref_template=f"{_REF}{{model}}")
    del done["properties"]["citations"], done["$defs"]
    done |= {"title": "Done", "required": [name for name in done["required"] if name != "citations"]}
    events = [
        _event("delta", "a piece of the text, repeated", _object(text={"type": "string"})),
        _event("citations", "once, when the text is complete", _object(citations=citations)),
        _event("done", "the last event: the answer without its citations", done),
        _event("error", "the last event instead of done", {"$ref": f"{_REF}ProblemMessage"}),
    ]
    return {"oneOf": events, "description": "one event of the stream: delta (repeated), citations, done; or error"}


def _event(name: str, description: str, data: dict[str, Any]) -> dict[str, Any]:
    encoded = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
    return _object(event={"const": name}, data=encoded) | {"description": description}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def with_problems(document: dict[str, Any]) -> dict[str, Any]:
    """Return the description with problems under the media type that they have, where FastAPI writes the type of the route."""
    described = deepcopy(document)
    for operations in described["paths"].values():
        for operation in operations.values():
            for status in PROBLEMS:
                content = operation["responses"][status]["content"]
                content[MEDIA_TYPE] = content.pop("application/json")
    return described
