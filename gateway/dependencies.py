"""The dependencies of routes: the services, and a caller who has the scope and stays within the rate."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import OAuth2AuthorizationCodeBearer, OpenIdConnect, SecurityScopes

from gateway.identity import Caller, InvalidToken, bearer
from governance.access import filter_for
from rag.models import AccessFilter

if TYPE_CHECKING:
    from rag.wiring import Services

SCOPES = {
    "rag:query": "search, ask and look at documents",
    "rag:ingest": "upload documents and withdraw your own",
    "rag:erase": "erase documents and people of your tenant for ever, with a certificate",
    "rag:audit": "search, export and verify the audit log of your tenant",
    "rag:admin": "grant and revoke access, place and lift legal holds, withdraw uploads of others, and try dead documents again",
}
# The addresses are the issuer's, and gateway.docs fills them in when it serves the API page.
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
    caller = await _verified(request)
    for scope in scopes.scopes:
        caller.require(scope)
    return await _within_rate(caller, request)


async def _withdrawing(request: Request) -> Caller:
    caller = await _verified(request)
    if "rag:erase" not in caller.scopes:
        caller.require("rag:ingest")
    return await _within_rate(caller, request)


async def _within_rate(caller: Caller, request: Request) -> Caller:
    state = request.app.state
    await state.limits.check(state.services.ids.caller_id(caller.tenant, caller.subject))
    return caller


async def _verified(request: Request) -> Caller:
    """Return the caller that the request's token names, or raise.

    Refused tokens are counted by the client's address, and above the limit the answer is 429 instead of 401. A good token is
    always accepted: many callers may share an address, and none of them can lock out the others. A guess gains nothing by
    that, because a signature cannot be guessed, and verifying it costs less than looking up a list of locked addresses.
    """
    state = request.app.state
    token = bearer(request.headers.getlist("authorization"))
    try:
        caller: Caller = await state.verifier.verify(token)
    except InvalidToken:
        await state.failed_logins.check(state.services.ids.caller_id("", network_of(request)))
        raise
    request.state.caller = caller
    return caller


def network_of(request: Request) -> str:
    """Return the client's IPv4 address or IPv6 /64 network, which one client has for itself."""
    host = request.client.host if request.client else ""
    try:
        address = ip_address(host)
    except ValueError:  # a Unix socket has no address
        return host
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or ip_network((address, 64), strict=False))
    return str(address)


def _services(request: Request) -> Any:
    return request.app.state.services


def access_of(caller: Caller, narrow: dict[str, Any] | None = None) -> AccessFilter:
    """Return the filter of everything that the caller may see, narrowed by the caller's own filters."""
    return filter_for(tenant=caller.tenant, subject=caller.subject, groups=caller.groups, narrow=narrow)


Asking = Annotated[Caller, Security(_caller, scopes=["rag:query"])]
Ingesting = Annotated[Caller, Security(_caller, scopes=["rag:ingest"])]
Administering = Annotated[Caller, Security(_caller, scopes=["rag:admin"])]
Erasing = Annotated[Caller, Security(_caller, scopes=["rag:erase"])]
Auditing = Annotated[Caller, Security(_caller, scopes=["rag:audit"])]
Withdrawing = Annotated[Caller, Depends(_withdrawing)]
WITHDRAWING_SECURITY = [
    {scheme.scheme_name: [scope]} for scope in ("rag:ingest", "rag:erase") for scheme in _schemes
]  # FastAPI can only describe scopes that are all required
if TYPE_CHECKING:
    Backend = Annotated[Services, Depends(_services)]
else:  # the composition root imports every adapter, and a route needs none of them
    Backend = Annotated[Any, Depends(_services)]
