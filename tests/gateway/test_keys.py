from __future__ import annotations

from typing import Any

from governance.signing import verify


async def test_anyone_can_read_the_public_keys_and_verify_with_them(world: Any) -> None:
    answer = await world.client.get("/.well-known/tidemark/jwks.json")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "public, max-age=300")
    signed = world.app.state.signer.sign({"erasure": "42"}, kind="a")
    assert verify(signed, answer.json(), kind="a") == {"erasure": "42"}
