from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest
from authlib.common.errors import AuthlibBaseError
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import SecretStr

from rag.adapters.issuer import fetch_token
from tests.fakes.serving import serving


@pytest.fixture
def issuer() -> Iterator[str]:
    app = FastAPI()

    async def discovery(request: Request) -> dict[str, Any]:
        return {"token_endpoint": f"{request.base_url}oauth/token"}

    async def token(request: Request) -> JSONResponse:
        credentials = b64encode(b"demo:hush").decode()
        form = (await request.body()).decode()
        if request.headers.get("authorization") != f"Basic {credentials}" or form != "grant_type=client_credentials":
            return JSONResponse({"error": "invalid_client"}, 401)
        return JSONResponse({"access_token": "t-1", "token_type": "Bearer", "expires_in": 300})

    app.get("/.well-known/openid-configuration")(discovery)
    app.post("/oauth/token")(token)
    with serving(app) as url:
        yield url


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_token_is_fetched_from_the_endpoint_of_the_discovery_document(issuer: str, slash: str) -> None:
    assert fetch_token(f"{issuer}{slash}", "demo", SecretStr("hush")) == "t-1"


def test_a_wrong_secret_raises(issuer: str) -> None:
    with pytest.raises(AuthlibBaseError, match="invalid_client"):
        fetch_token(issuer, "demo", SecretStr("wrong"))
