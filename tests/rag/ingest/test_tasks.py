"""The states of a task. All changes of a status are in ``rag.ingest.tasks``."""

from __future__ import annotations

from dataclasses import replace

from rag.ingest.tasks import (
    Report,
    backfill_task,
    dead,
    deleted,
    overtaken,
    reset,
    summarize,
    suppressed,
    windows,
    windows_of_text,
)
from rag.models import Cause, DocumentRecord, DocumentStatus, IndexingTask, Placement
from rag.ports import Delta

PLACED = Placement("p", "h", 0, 0, 1)
CAUSE = Cause("documents.changed.v1", "epoch", 3, 41)
TASK = IndexingTask("d", "acme", "s3", "s3://docs/a.md", 4, CAUSE, version="v1", change_token="t1", content_hash="h1",
                    parsed="i/d/h1/parsed.json", chunked="i/d/h1/chunks.json", embedded="i/d/h1/vectors.npz", fresh=2)  # fmt: skip


def artifacts(task: IndexingTask) -> tuple[str, str, str]:
    return task.parsed, task.chunked, task.embedded


def test_a_dead_and_a_suppressed_task_keep_their_version_and_lose_their_artifacts() -> None:
    for task, status, reason in (
        (dead(TASK, "corrupt"), DocumentStatus.DEAD, "corrupt"),
        (suppressed(TASK), DocumentStatus.SUPPRESSED, "suppressed"),
    ):
        assert (task.status, task.reason, task.version, artifacts(task)) == (status, reason, "v1", ("", "", ""))


def test_a_deleted_task_has_no_version_so_that_the_object_may_come_back_with_its_old_one() -> None:
    task = deleted(TASK)
    assert (task.status, task.version, task.change_token, task.content_hash) == (DocumentStatus.DELETED, "", "", "")


def test_an_overtaken_task_keeps_its_status_and_starts_afresh_without_the_old_reason() -> None:
    assert overtaken(TASK).status is DocumentStatus.LIVE
    again = reset(dead(TASK, "corrupt"))
    assert (again.status, again.reason, again.fresh, artifacts(again)) == (DocumentStatus.LIVE, "", 0, ("", "", ""))


def test_a_backfill_starts_from_the_record_with_its_artifacts_and_without_an_event() -> None:
    record = DocumentRecord("d", 7, DocumentStatus.DEAD, "acme", "s3", "s3://docs/a.md", 3, reason="corrupt",
                            artifacts=("i/d/h1/parsed.json", "i/d/h1/vectors.npz"))  # fmt: skip
    task = backfill_task(record, "run-1")
    assert (task.base_revision, task.status, task.reason) == (7, DocumentStatus.DEAD, "corrupt")
    assert artifacts(task) == ("i/d/h1/parsed.json", "", "i/d/h1/vectors.npz")
    assert task.cause.is_backfill
    assert not CAUSE.is_backfill


def test_a_report_adds_up_and_names_the_new_revision_of_each_document() -> None:
    live = Delta(DocumentRecord("d", 4, DocumentStatus.LIVE, chunks={"c1": PLACED, "c2": PLACED}), {"c1": {}}, tokens=9)
    poison = Delta(DocumentRecord("e", 0, DocumentStatus.DEAD, reason="empty"))
    total = summarize([live], {"d": TASK}) + summarize([poison], {"e": replace(TASK, document_id="e", fresh=0)})
    assert [(each.task.document_id, each.chunks, each.revision) for each in total.outcomes] == [
        ("d", 2, 5),
        ("e", 0, 1),
    ]
    assert [each.task.reason for each in total.outcomes] == ["", "empty"]
    assert total == Report(total.outcomes, documents=2, chunks=2, written=1, embedded=2, tokens=9, dead=1)


def test_windows_cover_all_items_in_order() -> None:
    assert [list(window) for window in windows("abcde", 2)] == [["a", "b"], ["c", "d"], ["e"]]


def test_windows_of_text_are_bounded_by_tasks_and_by_characters_and_keep_the_order() -> None:
    tasks = [replace(TASK, characters=size) for size in (3, 3, 3, 9, 50, 1, 1, 1, 1)]
    found = [[task.characters for task in window] for window in windows_of_text(tasks, 3, 10)]
    assert found == [[3, 3, 3], [9], [50], [1, 1, 1], [1]]
    assert not list(windows_of_text([], 3, 10))
