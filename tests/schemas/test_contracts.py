"""The commands of `python -m schemas` on copies of the schemas, with every relevant fault."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas import __main__ as command
from schemas import compatibility, contracts, documentation, events, generation
from schemas.topics import BY_EVENT, TOPICS, topics

CHANGED = "documents.changed.v1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(contracts.FOLDER, tmp_path / "avro"))


def edit(folder: Path, topic: str, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / f"{topic}.avsc"
    schema = json.loads(path.read_text())
    change({"schema": schema, **{field["name"]: field for field in schema["fields"]}})
    path.write_text(json.dumps(schema))


def check(folder: Path) -> int:
    return command.main(["check", "--avro", str(folder)])


def field(name: str, type_: Any = "string", **more: Any) -> dict[str, Any]:
    return {"name": name, "type": type_, "doc": "Something new.", **more}


def test_the_committed_schemas_are_compatible_documented_and_up_to_date() -> None:
    assert command.main(["check"]) == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s["schema"]["fields"].append(field("size")), "field 'size' is new and has no default"),
        (lambda s: s["uri"].update(name="address"), "field 'address' is new and has no default"),
        (lambda s: s["uri"].update(type="long"), "field 'uri' changed"),
        (lambda s: s["version"].update(type="string", default=""), "field 'version' changed"),
        (
            lambda s: s["occurred_at"]["type"].update(logicalType="timestamp-micros"),
            "field 'occurred_at' changed its logical",
        ),
        (lambda s: s["occurred_at"].update(type="long"), "field 'occurred_at' changed its logical"),
        (lambda s: s["schema"].update(name="DocumentAltered"), "'DocumentChanged' became 'DocumentAltered'"),
        (lambda s: s["kind"]["type"].update(name="Kind"), "field 'kind' changed"),
    ],
)
def test_a_schema_that_cannot_read_a_release_fails_the_check_with_the_name_of_the_field(
    folder: Path, capsys: pytest.CaptureFixture[str], change: Any, named: str
) -> None:
    edit(folder, CHANGED, change)
    assert check(folder) == 1
    problem = capsys.readouterr().err
    assert problem.startswith(f"{CHANGED}: ")
    assert named in problem
    assert "release 1" in problem
    assert command.main(["release", "--avro", str(folder)]) == 1
    assert list(contracts.released(CHANGED, folder)) == [1]


def test_a_removed_symbol_breaks_unless_the_enum_has_a_default(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(folder, "erasures.requested.v1", lambda s: s["kind"]["type"].update(symbols=["DOCUMENT"]))
    assert check(folder) == 1
    assert "erasures.requested.v1: field 'kind' changed ({'SUBJECT'})" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["schema"]["fields"].append(field("size", "long", default=0)),
        lambda s: s["schema"]["fields"].append(field("owner", ["null", "string"], default=None)),
        lambda s: s["schema"]["fields"].remove(s["origin"]),
        lambda s: s["kind"]["type"]["symbols"].append("MOVED"),
        lambda s: s["uri"].update(name="address", aliases=["uri"]),
        lambda s: s["uri"].update(doc="In other words."),
    ],
)
def test_a_compatible_change_passes_once_it_is_released(
    folder: Path, capsys: pytest.CaptureFixture[str], change: Any
) -> None:
    edit(folder, CHANGED, change)
    assert check(folder) == 1
    assert "changed since its last release" in capsys.readouterr().err
    assert command.main(["release", "--avro", str(folder)]) == 0
    assert list(contracts.released(CHANGED, folder)) == [1, 2]
    assert check(folder) == 0
    assert command.main(["release", "--avro", str(folder)]) == 0
    assert list(contracts.released(CHANGED, folder)) == [1, 2]


def test_every_release_must_stay_readable_and_not_only_the_newest(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(folder, CHANGED, lambda s: s["schema"]["fields"].remove(s["origin"]))
    assert command.main(["release", "--avro", str(folder)]) == 0
    edit(folder, CHANGED, lambda s: s["schema"]["fields"].append(field("origin", "long", default=0)))
    newest = {2: contracts.released(CHANGED, folder)[2]}
    assert compatibility.problems(CHANGED, contracts.current(CHANGED, folder), newest) == []
    assert check(folder) == 1
    assert "field 'origin' changed" in capsys.readouterr().err


def test_a_field_without_doc_a_missing_schema_and_a_stray_one_fail_the_check(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(folder, CHANGED, lambda s: s["uri"].pop("doc"))
    (folder / "documents.dead.v1.avsc").rename(folder / "documents.lost.v1.avsc")
    assert check(folder) == 1
    problems = capsys.readouterr().err
    assert "field 'uri' has no doc" in problems
    assert "documents.dead.v1 must have both" in problems
    assert "documents.lost.v1 must have both" in problems


@pytest.mark.parametrize(("constant", "remedy"), [("EVENTS", "schemas generate"), ("DOCS", "schemas docs")])
def test_generated_files_that_are_out_of_date_fail_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], constant: str, remedy: str
) -> None:
    stale = tmp_path / "stale"
    stale.write_text("old")
    monkeypatch.setattr(command, constant, stale)
    assert command.main(["check"]) == 1
    assert remedy in capsys.readouterr().err
    assert command.main([remedy.split()[1]]) == 0
    assert command.main(["check"]) == 0


def test_the_generator_refuses_a_type_that_it_does_not_support() -> None:
    schema = {"name": "A", "doc": "A.", "fields": [field("a", {"type": "map", "values": "string"})]}
    with pytest.raises(ValueError, match="map"):
        generation.generate([schema])


def test_every_topic_has_its_schema_its_event_and_a_reason_for_each_setting() -> None:
    assert contracts.topics() == sorted(TOPICS)
    for topic in TOPICS.values():
        assert contracts.current(topic.name)["name"] == topic.event.__name__
        assert topic.key in {f["name"] for f in contracts.current(topic.name)["fields"]}
        assert all(setting.reason for setting in topic.settings.values())
    assert len(BY_EVENT) == len(TOPICS)


def test_topics_keyed_by_document_have_the_partitions_of_the_installation() -> None:
    assert [topic.partitions for topic in TOPICS.values()] == [8, 8, 1, 1, 1]
    assert [topic.partitions for topic in topics(12).values()] == [12, 12, 1, 1, 1]


def test_topics_with_document_ids_are_bounded_in_time_even_in_quiet_partitions() -> None:
    bounded = {name for name, topic in TOPICS.items() if topic.retention_ms is not None}
    assert {name for name, topic in TOPICS.items() if topic.key == "document_id"} <= bounded
    assert TOPICS["erasures.completed.v1"].retention_ms is None


def test_only_a_changed_document_contains_its_uri() -> None:
    with_uri = {name for name in TOPICS if any("uri" in f["name"] for f in contracts.current(name)["fields"])}
    assert with_uri == {CHANGED}
    names = {f["name"] for name in TOPICS for f in contracts.current(name)["fields"]}
    assert not names & {"content", "text", "title", "body", "email"}


def test_the_document_of_topics_lists_every_field_and_setting() -> None:
    text = documentation.document(TOPICS.values(), {name: contracts.current(name) for name in TOPICS})
    for topic in TOPICS.values():
        section = re.search(rf"## {re.escape(topic.name)}\n(.*?)(?=\n## |\Z)", text, re.DOTALL)
        assert section
        assert all(f"| `{f['name']}` |" in section[1] for f in contracts.current(topic.name)["fields"])
        assert all(f"| `{name}` | `{setting.value}`" in section[1] for name, setting in topic.settings.items())


def test_an_event_is_immutable() -> None:
    event = events.ErasureCompleted.__dataclass_params__  # type: ignore[attr-defined]
    assert event.frozen
    assert "__slots__" in vars(events.ErasureCompleted)


@pytest.mark.parametrize("arguments", [[], ["register"], ["register", "--bootstrap", "127.0.0.1:9092"], ["unheard-of"]])
def test_a_command_without_a_required_option_prints_its_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)
    assert "usage: python -m schemas" in capsys.readouterr().err
