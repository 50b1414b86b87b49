from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from governance.audit import ACTIONS, asked, code, event, is_sealed
from governance.audit_chain import Progress, check_page
from governance.ocsf import activity
from rag.ids import NO_LINK, Ids, link
from rag.models import AuditEntry, AuditEvent

IDS = Ids(b"0123456789abcdef")
DOCUMENT = "document:5a1c2f00-0000-4000-8000-000000000001"


def made(action: str = "query.search", **values: Any) -> AuditEvent:
    return event(action, **({"tenant": "acme", "actor": IDS.caller_id("acme", "alice"), "ids": IDS} | values))


@pytest.mark.parametrize(
    "values",
    [
        {"actor": "alice"},
        {"actor": "alice@acme.example"},
        {"objects": ["document:jane@acme.example"]},
        {"objects": ["s3://docs/cv of jane.pdf"]},
        {"objects": ["5a1c2f00"]},
        {"reason": "Jane asked for it"},
        {"reason": "jane@acme.example"},
        {"details": {"title": "CV of Jane Doe"}},
        {"outcome": "maybe"},
        {"action": "query.guess"},
    ],
)
def test_a_value_that_may_be_personal_data_is_refused(values: dict[str, Any]) -> None:
    action = values.pop("action", "query.search")
    with pytest.raises(ValueError, match=r"audit|declare|record a code") as refused:
        made(action, **values)
    assert "ane" not in str(refused.value)


def test_pseudonyms_ids_and_codes_are_accepted() -> None:
    accepted = made(
        objects=[DOCUMENT, "source:s3", "rule:1"], reason="DSR-2026/117", details={"route": "DELETE:/v1/documents/{id}"}
    )
    assert accepted.reason == "DSR-2026/117"


def test_a_question_is_kept_as_a_keyed_hash_as_a_text_or_not_at_all() -> None:
    question = "What does Carol earn?"
    hashed = asked(question, tenant="acme", ids=IDS, keep="hash")
    assert hashed == {"question": IDS.question_id("acme", question)}
    assert "Carol" not in str(hashed)
    assert hashed != asked(question, tenant="globex", ids=IDS, keep="hash")
    assert asked(question, tenant="acme", ids=IDS, keep="text") == {"question": question}
    assert asked(question, tenant="acme", ids=IDS, keep="none") == {}
    assert made(details=asked(question, tenant="acme", ids=IDS, keep="text")).details["question"] == question


def test_a_seal_covers_every_field_and_needs_the_secret() -> None:
    sealed = made(objects=[DOCUMENT], details={"trace": "1"})
    assert is_sealed(sealed, IDS)
    assert not is_sealed(sealed, Ids(b"another secret of 16"))
    others = made("query.answer", tenant="globex", actor="operator", outcome="failure", reason="bug")
    names = ("event_id", "at", "tenant", "actor", "action", "objects", "outcome", "reason", "details")
    for name in names:
        assert not is_sealed(replace(sealed, **{name: getattr(others, name)}), IDS), name


def test_a_link_can_be_made_without_the_secret_and_covers_what_is_before_it() -> None:
    fields = made().fields()
    assert link(NO_LINK, fields) == link(NO_LINK, dict(reversed(fields.items())))
    assert link(NO_LINK, fields) != link("1" * 64, fields)


def test_a_message_becomes_a_code() -> None:
    assert code("the token is refused: expired_token (exp)") == "the_token_is_refused:_expired_token_exp"
    assert made(reason=code("é \n'; drop table")).reason == "drop_table"


def entry(number: int = 1, **values: Any) -> AuditEntry:
    recorded = made(**values)
    return AuditEntry(number, NO_LINK, link(NO_LINK, recorded.fields()), recorded)


@pytest.mark.parametrize("action", ACTIONS)
def test_every_action_has_an_activity_of_ocsf(action: str) -> None:
    exported = activity(entry(action=action))
    assert exported["type_uid"] == exported["class_uid"] * 100 + exported["activity_id"]
    assert exported["api"]["operation"] == action


def test_an_export_has_the_required_fields_and_the_entry_itself() -> None:
    recorded = entry(7, action="document.erase", objects=[DOCUMENT], outcome="denied", reason="missing_scope")
    exported = activity(recorded)
    required = ["activity_id", "actor", "api", "category_uid", "class_uid", "metadata", "severity_id", "src_endpoint",
                "time", "type_uid"]  # fmt: skip
    assert set(required) <= exported.keys()
    assert exported["resources"] == [{"type": "document", "uid": DOCUMENT.partition(":")[2]}]
    assert (exported["status_id"], exported["status_code"]) == (2, "missing_scope")
    assert exported["metadata"]["sequence"] == 7
    kept = exported["unmapped"]["tidemark"]
    assert link(kept["previous"], kept["fields"]) == kept["link"]


def test_the_pages_of_a_chain_are_verified_as_one() -> None:
    chain: list[AuditEntry] = []
    for number in range(1, 8):
        recorded, previous = made(), chain[-1].link if chain else NO_LINK
        chain.append(AuditEntry(number, previous, link(previous, recorded.fields()), recorded))
    progress = Progress()
    for page in (chain[:3], chain[3:4], chain[4:]):
        progress, findings = check_page(progress, page, IDS)
        assert findings == []
    assert progress == Progress(7, chain[-1].link)
    _, findings = check_page(Progress(3, chain[2].link), chain[4:], IDS)
    assert [(each.kind, each.first, each.last) for each in findings] == [("missing", 4, 4)]
