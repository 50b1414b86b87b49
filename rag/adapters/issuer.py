"""Access tokens for the platform's own programs that call the gateway: the demo and the bench."""

from __future__ import annotations

import httpx
from authlib.integrations.httpx_client import OAuth2Client
from pydantic import SecretStr

TIMEOUT = 30.0  # seconds


def fetch_token(issuer: str, client_id: str, secret: SecretStr | None) -> str:
    """Fetch an access token by client credentials. The issuer's discovery document names the token endpoint.

    Raises httpx.HTTPError or authlib's AuthlibBaseError, because a program without a token cannot continue.
    """
    discovery = httpx.get(f"{issuer.rstrip('/')}/.well-known/openid-configuration", timeout=TIMEOUT)
    endpoint = discovery.raise_for_status().json()["token_endpoint"]
    with OAuth2Client(client_id, secret.get_secret_value() if secret else None, timeout=TIMEOUT) as client:
        return str(client.fetch_token(endpoint, grant_type="client_credentials")["access_token"])
