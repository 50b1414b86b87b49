"""Cohere's wire format of ``POST /v2/rerank``."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from tests.fakes.openai import Scripted


@dataclass
class FakeCohere:
    """Scores by the share of the query's words in a document."""

    key: str = "co-test"
    script: deque[Scripted] = field(default_factory=deque)
    requests: list[dict[str, Any]] = field(default_factory=list)
    invent: bool = False  # answer with an index that is not there

    def app(self) -> FastAPI:
        app = FastAPI()
        app.post("/v2/rerank")(self.rerank)
        return app

    async def rerank(self, request: Request) -> JSONResponse:
        body = await request.json()
        self.requests.append(body)
        if request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"id": "r-1", "message": "invalid api token"}, 401)
        if self.script:
            scripted = self.script.popleft()
            if scripted.status != 200:
                return JSONResponse({"id": "r-1", "message": "scripted"}, scripted.status, scripted.headers)
        if not body["model"] or not body["documents"] or not all(isinstance(each, str) for each in body["documents"]):
            return JSONResponse({"id": "r-1", "message": "invalid request"}, 400)
        words = set(re.findall(r"\w+", body["query"].lower()))
        scores = [len(words & set(re.findall(r"\w+", document.lower()))) / len(words) for document in body["documents"]]
        best = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.get("top_n") or len(scores)]
        results = [{"index": index + 100 * self.invent, "relevance_score": scores[index]} for index in best]
        meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
        return JSONResponse({"id": "r-1", "results": results, "meta": meta})
