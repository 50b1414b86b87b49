"""The real gateway over a ``World``: its routes, its tokens and its filters; no socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx

from gateway.app import create_app
from gateway.identity import Verifier
from gateway.issuer import IssuerKeys
from rag.answer.answering import Answering
from rag.settings import Settings, SourceSettings
from tests.fakes.issuer import ISSUER, Issuer
from tests.fakes.world import IDS, SPEC, World

SETTINGS = Settings(
    _env_file=None,
    tidemark_environment="development",
    identity_secret="only-for-these-tests-1234567890",
    database_url="postgresql://none",
    oidc_issuer=ISSUER,
    sources=(SourceSettings(name="s3", kind="s3", tenant="acme", base_uri="s3://docs", principals=("group:staff",)),),
    rate_limit=0,
)


class Gateway:
    """A gateway and its callers."""

    def __init__(self, client: httpx.AsyncClient, issuer: Issuer) -> None:
        self._client = client
        self._issuer = issuer

    async def get(self, user: str, path: str) -> Any:
        return self._body(await self._client.get(path, headers=self._bearer(user)))

    async def search(self, user: str, query: str, **body: Any) -> list[dict[str, Any]]:
        hits: list[dict[str, Any]] = (await self._post(user, "/v1/search", query=query, **body))["hits"]
        return hits

    async def ask(self, user: str, question: str, **body: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await self._post(user, "/v1/answers", question=question, **body)
        return answer

    async def stream(self, user: str, question: str) -> list[tuple[str, dict[str, Any]]]:
        """Ask for a stream. Return its events: (name, data)."""
        answer = await self._client.post(
            "/v1/answers", json={"question": question, "stream": True}, headers=self._bearer(user)
        )
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [
            dict(line.split(": ", 1) for line in event.splitlines()) for event in answer.text.strip().split("\n\n")
        ]
        return [(event["event"], json.loads(event["data"])) for event in events]

    async def status(self, user: str, path: str, **body: Any) -> int:
        """Post as ``user``, or without a token when ``user`` is empty. Return the HTTP status."""
        headers = self._bearer(user) if user else {}
        return (await self._client.post(path, json=body, headers=headers)).status_code

    async def delete(self, user: str, path: str, scope: str) -> int:
        return (await self._client.delete(path, headers=self._bearer(user, scope))).status_code

    async def call(
        self, user: str, method: str, path: str, scope: str = "rag:query rag:ingest", **options: Any
    ) -> httpx.Response:
        return await self._client.request(method, path, headers=self._bearer(user, scope), **options)

    async def redrive(self, user: str, document_id: str) -> int:
        path, headers = f"/v1/documents/{document_id}/redrive", self._bearer(user, "rag:query rag:admin")
        return (await self._client.post(path, headers=headers)).status_code

    async def _post(self, user: str, path: str, **body: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._body(await self._client.post(path, json=body, headers=self._bearer(user)))
        return answer

    def _bearer(self, user: str, scope: str = "rag:query rag:ingest") -> dict[str, str]:
        return {"Authorization": f"Bearer {self._issuer.token(user, scope)}"}

    @staticmethod
    def _body(answer: httpx.Response) -> Any:
        assert answer.status_code == 200, answer.text
        return answer.json()


@asynccontextmanager
async def gateway(world: World, answering: Answering | None = None) -> AsyncIterator[Gateway]:
    """Open a gateway over the world. It answers with the world's own parts, or with ``answering``."""
    issuer = Issuer()
    services = SimpleNamespace(
        settings=SETTINGS, ids=IDS, spec=SPEC, sources=world.sources, objects=world.objects, events=world.log,
        ledger=world.ledger, vectors=world.vectors, cache=world.cache, pipeline=world.pipeline,
        answering=answering or world.answering,
    )  # fmt: skip
    async with httpx.AsyncClient(transport=httpx.MockTransport(issuer.answer)) as keys:
        app = create_app(services, Verifier(IssuerKeys(ISSUER, keys, allow_http=True), audience="tidemark"))  # type: ignore[arg-type]
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as client:
            yield Gateway(client, issuer)
