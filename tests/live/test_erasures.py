"""An erasure on the real stack: hidden at once, certified within seconds, and no file of the stack holds the text."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from governance.certificates import verified
from tests.live.folders import below
from tests.live.world import World, eventually


@pytest.fixture(scope="module")
def world(stack: Mapping[str, str]) -> World:
    return World(stack)


_MATERIALIZATIONS = """
{ assetOrError(assetKey: {path: ["erasures"]}) { ... on Asset {
    assetMaterializations(limit: 20) { metadataEntries { label ... on TextMetadataEntry { text } } }
} } }
"""


def _step(materialization: dict[str, Any]) -> tuple[str | None, str | None]:
    told = {entry["label"]: entry.get("text") for entry in materialization["metadataEntries"]}
    return told.get("erasure"), told.get("state")


def holding(world: World, canary: str) -> list[str]:
    """Return the files of the stack that hold the canary, which is random, so that no compression hides a part of it."""
    folder = world.inbox.parent
    return [
        str(path.relative_to(folder))
        for path in below(folder)
        if path.is_file() and not path.is_symlink() and canary.encode() in _content(path)
    ]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def erase(world: World, **body: Any) -> dict[str, Any]:
    """Request an erasure, and return it once it is certified."""
    answer = world.call("POST", "/v1/erasures", json=body)
    assert answer.status_code == 202, answer.text
    path = f"/v1/erasures/{answer.json()['erasure_id']}"
    return eventually(
        lambda: dict(world.call("GET", path).json()),
        lambda seen: seen["state"] == "certified",
        "the erasure is certified",
    )


def test_an_erased_person_leaves_no_byte_of_text(world: World) -> None:
    canary, person = f"zq{secrets.token_hex(8)}", f"q{secrets.token_hex(6)}@example.com"
    world.put("people/a.md", f"# Pilot\n\nThe {canary} pilot can be reached at {person}.\n")
    world.put("people/a.md", f"# Pilot\n\nThe {canary} pilot, second version: {person}.\n")
    (world.inbox / "pilot.md").write_text(f"# Pilot\n\nAlso {canary}: {person}.\n")
    world.put("people/kept.md", "# Kept\n\nThe pilot of another zeppelin.\n")
    eventually(lambda: world.texts(canary).count(canary), lambda seen: seen >= 2, "both documents are found")
    world.call("POST", "/v1/answers", json={"question": f"Who is the {canary} pilot?"}).raise_for_status()
    before = holding(world, canary)
    assert {path.split("/")[0] for path in before} >= {"artifacts", "qdrant", "s3", "inbox"}
    erasure = erase(world, subject={"kind": "email", "value": person.upper()})
    assert canary not in world.texts(f"{canary} pilot")
    certificate = world.call("GET", erasure["certificate_url"]).text
    claims = verified(certificate, world.call("GET", "/.well-known/tidemark/jwks.json").json())
    assert len(claims["documents"]) == 2
    assert claims["stores"]["vector index"]["negative_control"].endswith("controls found")
    assert eventually(lambda: holding(world, canary), lambda seen: not seen, "no file holds the text", 60.0) == []
    eventually(
        lambda: [event["certificate_id"] for event in world.events("erasures.completed.v1")],
        lambda seen: erasure["erasure_id"] in seen,
        "the certificate is announced",
    )
    eventually(
        lambda: world.graphql(_MATERIALIZATIONS)["assetOrError"]["assetMaterializations"],
        lambda shown: (erasure["erasure_id"], "certified") in map(_step, shown),
        "Dagster shows the certified erasure",
    )
    world.put("people/a.md", f"# Pilot\n\nThe {canary} pilot is back: {person}.\n")  # refused under its old name
    world.put("people/other-name.md", f"# Pilot\n\nThe {canary} pilot under another name: <{person.upper()}>.\n")
    world.put("people/new.md", "# News\n\nNothing of importance.\n")
    eventually(lambda: world.texts("news importance"), lambda seen: "importance" in seen, "a later document is found")
    assert canary not in world.texts(f"{canary} pilot")
