"""``GET /.well-known/tidemark/jwks.json``: the public keys with which anyone verifies what this platform signed."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway.messages import KeysMessage

router = APIRouter(tags=["operation"])


@router.get("/.well-known/tidemark/jwks.json")
async def published(request: Request, response: Response) -> KeysMessage:
    """Return the keys of certificates and audit checkpoints as a JSON Web Key Set, the current one first."""
    response.headers["Cache-Control"] = "public, max-age=300"
    return KeysMessage.model_validate(request.app.state.signer.jwks())
