"""The local stack's OpenID provider: discovery, JWKS, client credentials, authorization code with PKCE, refresh, userinfo.

Every caller may log in as every user, so it listens on loopback only and redirects to loopback only. `login_hint` chooses the user
without a page, so that a command line tool logs in with three ordinary calls of an OIDC client.

    OIDC_CLIENT_SECRET=... python -m deploy.local.issuer --port 9080 --data .stack/issuer [--rotate]

SIGHUP, or --rotate at start, makes a new signing key and keeps the previous one published.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse
from joserfc.errors import JoseError

from deploy.local.issuer.accounts import CLIENTS, SCOPES, USERS
from deploy.local.issuer.authorize import Refused, authorize, parse_form
from deploy.local.issuer.grants import Grants
from deploy.local.issuer.keys import ALGORITHM, Keys
from deploy.local.issuer.pages import error_page
from deploy.local.issuer.tokens import ACCESS_TOKEN, Issuer, TokenError
from deploy.local.local_server import arguments, is_loopback_authority, place

LOOPBACK_ORIGIN = r"http://(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?"
NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


def create_app(issuer: Issuer) -> FastAPI:
    app = FastAPI(title="Tidemark development issuer", openapi_url=None)
    app.add_middleware(
        CORSMiddleware,
        allow_origin_regex=LOOPBACK_ORIGIN,
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "X-Requested-With"],
    )

    @app.middleware("http")
    async def loopback_names_only(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        if not is_loopback_authority(request.headers.get("host", "")):
            return PlainTextResponse("this issuer answers on 127.0.0.1 and localhost only\n", 403)
        return await call_next(request)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/.well-known/openid-configuration")
    def discovery() -> dict[str, Any]:
        return _discovery(issuer.url)

    @app.get("/jwks")
    def jwks() -> dict[str, Any]:
        return issuer.keys.published()

    @app.get("/authorize")
    async def authorize_get(request: Request) -> Response:
        try:
            return authorize(issuer, parse_form(request.url.query))
        except Refused as refused:
            return error_page(str(refused))

    @app.post("/authorize")
    async def authorize_post(request: Request) -> Response:
        try:
            return authorize(issuer, parse_form(await _body(request)))
        except (Refused, TokenError) as refused:
            return error_page(str(refused))

    @app.post("/token")
    async def token(request: Request) -> Response:
        try:
            answer = issuer.token(request.headers.get("authorization"), parse_form(await _body(request)))
            return JSONResponse(answer, headers=NO_STORE)
        except Refused as refused:
            return _token_error(TokenError("invalid_request", str(refused)))
        except TokenError as error:
            return _token_error(error)

    @app.api_route("/userinfo", methods=["GET", "POST"])
    def userinfo(request: Request) -> Response:
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        try:
            if scheme.lower() != "bearer":
                raise ValueError("send the access token as a bearer token")
            expected = {"iss": issuer.url, "aud": issuer.audience}
            claims = issuer.keys.verify(bearer, ACCESS_TOKEN, expected, issuer.now())
        except (JoseError, ValueError):
            return Response(status_code=401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
        who = USERS.get(claims["sub"]) or CLIENTS[claims["client_id"]].principal
        return JSONResponse(who.profile() if who else {"sub": claims["sub"]}, headers=NO_STORE)

    return app


async def _body(request: Request, limit: int = 64 * 1024) -> str:
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise TokenError("invalid_request", "send application/x-www-form-urlencoded")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise TokenError("invalid_request", f"the body is larger than {limit} bytes")
    return body.decode("latin-1")


def _token_error(error: TokenError) -> JSONResponse:
    status = 401 if error.code == "invalid_client" else 400
    headers = NO_STORE | ({"WWW-Authenticate": 'Basic realm="tidemark"'} if status == 401 else {})
    return JSONResponse({"error": error.code, "error_description": str(error)}, status, headers)


def _discovery(url: str) -> dict[str, Any]:
    return {
        "issuer": url,
        "authorization_endpoint": f"{url}/authorize",
        "token_endpoint": f"{url}/token",
        "userinfo_endpoint": f"{url}/userinfo",
        "jwks_uri": f"{url}/jwks",
        "scopes_supported": list(SCOPES),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "client_credentials", "refresh_token"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [ALGORITHM],
        "claims_supported": ["sub", "name", "preferred_username", "email", "tenant", "groups"],
        "authorization_response_iss_parameter_supported": True,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments("issuer", "the development OpenID provider")
    parser.add_argument("--audience", default="tidemark", help="aud of access tokens (default %(default)s)")
    parser.add_argument("--lifetime", type=int, default=900, help="seconds an access token lives (default %(default)s)")
    parser.add_argument("--rotate", action="store_true", help="make a new signing key first")
    options = parser.parse_args(argv)
    secret = os.environ.get("OIDC_CLIENT_SECRET", "")
    if len(secret) < 16:
        raise SystemExit("OIDC_CLIENT_SECRET must name a secret of 16 characters or more for the client 'demo'")
    here = place(options)
    keys = Keys(here.data / "keys.json")
    if options.rotate:
        keys.rotate()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn stops serving, then raises the signal again
    signal.signal(signal.SIGHUP, lambda *_: keys.rotate())
    issuer = Issuer(
        url=f"http://{here.host}:{here.port}",
        audience=options.audience,
        lifetime=options.lifetime,
        secret=secret,
        keys=keys,
        grants=Grants(here.data / "grants.json"),
        now=lambda: int(time.time()),
    )
    print(f"OpenID provider on {issuer.url}, keys in {here.data}", flush=True)
    # No access log, because query strings carry codes and names.
    uvicorn.run(create_app(issuer), host=here.host, port=here.port, access_log=False, log_level="warning")
