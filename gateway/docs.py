"""The API page: the OpenAPI description with the issuer's addresses, and Swagger UI with a login, both served from here."""

from __future__ import annotations

import secrets
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html, get_swagger_ui_oauth2_redirect_html
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from gateway.issuer import IssuerKeys
from gateway.openapi import with_problems

_ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
_REDIRECT = "/docs/oauth2-redirect"


def install(app: FastAPI, *, issuer: IssuerKeys, client_id: str) -> None:
    """Add ``/openapi.json``, ``/docs`` and its assets. ``client_id`` is a public client of the issuer, with PKCE."""

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(described(app, await issuer.discovery(), issuer.issuer))

    @app.get("/docs", include_in_schema=False)
    async def page() -> HTMLResponse:
        discovery = await issuer.discovery()
        return _page(app.title, client_id, [issuer.issuer, *_addresses(discovery)])

    @app.get(_REDIRECT, include_in_schema=False)
    async def redirected() -> HTMLResponse:
        return _with_scripts(get_swagger_ui_oauth2_redirect_html().body, [])

    @app.get("/docs/{asset}", include_in_schema=False)
    async def asset(asset: str) -> Response:
        if asset not in _ASSETS:
            raise HTTPException(404)
        content = (files("fastapi_swagger") / "resources" / asset).read_bytes()
        return Response(content, media_type=_ASSETS[asset], headers={"Cache-Control": "public, max-age=86400"})


def described(app: FastAPI, discovery: dict[str, Any], issuer: str) -> dict[str, Any]:
    """Return the description. Without a discovery document it offers only the scheme whose client reads that document."""
    document = with_problems(app.openapi())
    schemes = dict(document["components"]["securitySchemes"])
    schemes["oidc"] = {
        "type": "openIdConnect",
        "openIdConnectUrl": f"{issuer.rstrip('/')}/.well-known/openid-configuration",
    }
    addresses = _addresses(discovery)
    if addresses:
        flow = schemes["oauth2"]["flows"]["authorizationCode"]
        urls = {"authorizationUrl": addresses[0], "tokenUrl": addresses[1]}
        schemes["oauth2"] = {"type": "oauth2", "flows": {"authorizationCode": {**flow, **urls}}}
    document["components"] = {**document["components"], "securitySchemes": schemes}
    return document


def _addresses(discovery: dict[str, Any]) -> list[str]:
    found = [discovery.get(name) for name in ("authorization_endpoint", "token_endpoint")]
    return [each for each in found if isinstance(each, str)] if all(isinstance(each, str) for each in found) else []


def _page(title: str, client_id: str, addresses: list[str]) -> HTMLResponse:
    html = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=title,
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="data:,",
        oauth2_redirect_url=_REDIRECT,
        init_oauth={
            "clientId": client_id,
            "usePkceWithAuthorizationCodeGrant": True,
            "scopes": "openid rag:query rag:ingest",
        },
        swagger_ui_parameters={"persistAuthorization": False},
    )
    return _with_scripts(html.body, addresses)


def _with_scripts(html: bytes | memoryview, addresses: list[str]) -> HTMLResponse:
    """Return FastAPI's page with a policy under which its inline scripts run by a nonce and nothing is loaded from elsewhere."""
    nonce = secrets.token_urlsafe(16)
    origins = " ".join(sorted({f"{url.scheme}://{url.netloc}" for url in map(urlsplit, addresses)}))
    policy = (
        "default-src 'none'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; "
        f"base-uri 'none'; script-src 'self' 'nonce-{nonce}'; connect-src 'self' {origins}"
    )
    text = bytes(html).decode().replace("<script>", f'<script nonce="{nonce}">')
    # the login page opens in a window, which must be able to pass the code back
    headers = {"Content-Security-Policy": policy, "Cross-Origin-Opener-Policy": "unsafe-none"}
    return HTMLResponse(text, headers=headers)
