"""Files for contributors stay true with the code."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PACKAGES = ["schemas", "rag", "governance", "consumers", "assets", "gateway", "evals", "deploy"]


def test_the_map_has_a_line_for_each_folder_of_code_and_no_other() -> None:
    code = {path.parent.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")}
    mapped = {
        Path(name) for name in re.findall(r"^\| `([\w/]+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    }
    folders = {folder for folder in code if "migrations" not in folder.parts}
    assert folders - mapped == set()
    assert {folder for folder in mapped if not (ROOT / folder).is_dir()} == set()


def test_pre_commit_runs_the_commands_of_make_check() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    commands = [line.strip().replace("$(PYTHON)", ".venv/bin/python") for line in recipe[1].splitlines()]
    assert [hook["entry"] for hook in hooks] == commands


def test_the_index_names_each_decision_once_and_numbers_follow() -> None:
    folder = ROOT / "docs" / "decisions"
    files = sorted(path.name for path in folder.glob("[0-9]*.md"))
    linked = re.findall(r"^\| \[\d{4}\]\((.+)\) \|", (folder / "README.md").read_text(), re.MULTILINE)
    assert linked == files
    assert [int(name[:4]) for name in files] == list(range(1, len(files) + 1))


def test_each_decision_has_all_parts() -> None:
    for path in (ROOT / "docs" / "decisions").glob("[0-9]*.md"):
        parts = re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE)
        assert parts == ["Context", "Options", "Decision", "Consequences"], path.name
        assert re.search(r"^Status: \w", path.read_text(), re.MULTILINE), path.name


def test_teams_own_paths_that_exist() -> None:
    lines = (ROOT / ".github" / "CODEOWNERS").read_text().splitlines()
    owned = [line.split()[0] for line in lines if line and not line.startswith("#")]
    assert [path for path in owned if path != "*" and not (ROOT / path.strip("/")).exists()] == []


def test_the_drawing_of_the_rooms_has_a_line_for_each_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for room in ("rag", "rag/ingest", "rag/answer"):
        modules = {path.name for path in (ROOT / room).glob("*.py")} - {"__init__.py"}
        assert {name for name in modules if f"`{name}`" not in text} == set(), room
