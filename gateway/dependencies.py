"""What routes are given: the services, and a caller who has the scope and stays within their rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import OAuth2AuthorizationCodeBearer, OpenIdConnect, SecurityScopes

from gateway.identity import Caller, bearer
from governance.access import filter_for
from rag.models import AccessFilter

if TYPE_CHECKING:
    from rag.wiring import Services

SCOPES = {
    "rag:query": "search, ask and look at documents",
    "rag:ingest": "upload documents and withdraw own ones",
    "rag:admin": "withdraw uploads of others",
}
# The addresses are the issuer's: gateway.docs fills them in when the API page is served.
_schemes = (
    OAuth2AuthorizationCodeBearer("issuer", "issuer", scheme_name="oauth2", scopes=SCOPES, auto_error=False),
    OpenIdConnect(openIdConnectUrl="issuer", scheme_name="oidc", auto_error=False),
)


async def _caller(
    request: Request,
    scopes: SecurityScopes,
    _oauth2: Annotated[str | None, Security(_schemes[0])],
    _oidc: Annotated[str | None, Security(_schemes[1])],
) -> Caller:
    state = request.app.state
    caller: Caller = await state.verifier.verify(bearer(request.headers.getlist("authorization")))
    for scope in scopes.scopes:
        caller.require(scope)
    await state.limits.check(state.services.ids.caller_id(caller.tenant, caller.subject))
    return caller


def _services(request: Request) -> Any:
    return request.app.state.services


def access_of(caller: Caller, narrow: dict[str, Any] | None = None) -> AccessFilter:
    return filter_for(tenant=caller.tenant, subject=caller.subject, groups=caller.groups, narrow=narrow)


Asking = Annotated[Caller, Security(_caller, scopes=["rag:query"])]
Ingesting = Annotated[Caller, Security(_caller, scopes=["rag:ingest"])]
if TYPE_CHECKING:
    Backend = Annotated[Services, Depends(_services)]
else:  # the composition root knows every adapter; a route needs none of them to be imported
    Backend = Annotated[Any, Depends(_services)]
