"""Entries of the audit log with the field names of the Open Cybersecurity Schema Framework, class "API Activity" (6003).

``unmapped.tidemark`` holds the entry as its link covers it, so that an export can be verified without this platform.
"""

from __future__ import annotations

from typing import Any

from governance.audit import ACTIONS, CREATE, DELETE, OTHER, READ, UPDATE
from rag.models import AuditEntry

VERSION = "1.6.0"
_CLASS = 6003
_ACTIVITIES = {CREATE: "Create", READ: "Read", UPDATE: "Update", DELETE: "Delete", OTHER: "Other"}
_STATUS = {"success": (1, "Success"), "failure": (2, "Failure"), "denied": (2, "Failure"), "started": (99, "Started")}
_SEVERITY = {"failure": (2, "Low"), "denied": (3, "Medium")}


def activity(entry: AuditEntry) -> dict[str, Any]:
    """Return the entry as an OCSF event."""
    event = entry.event
    kind = ACTIONS.get(event.action, OTHER)
    status_id, status = _STATUS.get(event.outcome, (99, event.outcome))
    severity_id, severity = _SEVERITY.get(event.outcome, (1, "Informational"))
    return {
        "activity_id": kind,
        "activity_name": _ACTIVITIES[kind],
        "category_uid": 6,
        "category_name": "Application Activity",
        "class_uid": _CLASS,
        "class_name": "API Activity",
        "type_uid": _CLASS * 100 + kind,
        "type_name": f"API Activity: {_ACTIVITIES[kind]}",
        "time": int(event.at.timestamp() * 1000),
        "time_dt": event.fields()["at"],
        "severity_id": severity_id,
        "severity": severity,
        "status_id": status_id,
        "status": status,
        "status_code": event.reason or event.outcome,
        "actor": {"user": {"uid": event.actor or "unknown"}},
        "api": {"operation": event.action, "service": {"name": "tidemark"}},
        "resources": [{"type": each.partition(":")[0], "uid": each.partition(":")[2]} for each in event.objects],
        "src_endpoint": {"uid": "not recorded"},  # an address is personal data
        "metadata": {
            "version": VERSION,
            "profiles": ["datetime"],
            "product": {"name": "Tidemark", "vendor_name": "Tidemark"},
            "log_name": "audit",
            "uid": event.event_id,
            "sequence": entry.number,
            "tenant_uid": event.tenant,
            "correlation_uid": str(event.details.get("trace", "")),
        },
        "unmapped": {
            "tidemark": {"previous": entry.previous, "link": entry.link, "fields": event.fields()},
        },
    }
