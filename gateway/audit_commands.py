"""``tidemark audit``: search, export and verify the audit log of your tenant. All of it needs the scope rag:audit."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.table import Table

from gateway.client import Failed
from gateway.terminal import AsJson, complaints, console, plain, print_json, reported

app = typer.Typer(no_args_is_help=True, help="Search, export and verify the audit log. This needs the scope rag:audit.")

Since = Annotated[datetime | None, typer.Option(help="from this time on (UTC)")]
Until = Annotated[datetime | None, typer.Option(help="before this time (UTC)")]
Actor = Annotated[str, typer.Option(help="the pseudonym of a caller")]
Action = Annotated[str, typer.Option(help="an action, or its first word: query, document, erasure, access, ...")]
Object = Annotated[str, typer.Option(help="the id of a document, or kind:id")]
Outcome = Annotated[str, typer.Option(help="started, success, failure, denied")]


@app.command()
def search(
    context: typer.Context,
    since: Since = None,
    until: Until = None,
    actor: Actor = "",
    action: Action = "",
    object: Object = "",
    outcome: Outcome = "",
    limit: Annotated[int, typer.Option(min=1, help="how many entries")] = 50,
    as_json: AsJson = False,
) -> None:
    """List entries, newest first."""
    query = _query(since, until, actor, action, object, outcome)
    rows: list[dict[str, Any]] = []
    with reported():
        while len(rows) < limit:
            page = context.obj.gateway().call("GET", "/v1/audit", params=query | {"limit": min(500, limit - len(rows))})
            rows += page["entries"]
            if page["next"] is None:
                break
            query["before"] = page["next"]
    if as_json:
        return print_json(rows)
    table = Table("number", "time", "actor", "action", "outcome", "objects", box=None)
    for column in table.columns[1:4]:
        column.no_wrap = True  # a pseudonym is to be copied
    for row in rows:
        outcome = f"{row['outcome']} ({row['reason']})" if row["reason"] else row["outcome"]
        more = f" and {len(row['objects']) - 1} more" if len(row["objects"]) > 1 else ""
        objects = f"{row['objects'][0]}{more}" if row["objects"] else ""
        table.add_row(str(row["number"]), row["at"][:19], row["actor"], row["action"], plain(outcome), plain(objects))
    return console.print(table if rows else "No entries.")


@app.command()
def export(
    context: typer.Context,
    since: Since = None,
    until: Until = None,
    actor: Actor = "",
    action: Action = "",
    object: Object = "",
    outcome: Outcome = "",
    out: Annotated[Path | None, typer.Option(help="a file; default: the terminal")] = None,
) -> None:
    """Write entries as JSON lines with the field names of OCSF, oldest first."""
    query = _query(since, until, actor, action, object, outcome) | {"format": "jsonl"}
    with reported():
        lines = context.obj.gateway().lines("/v1/audit", params=query)
        if out is None:
            _copy(lines, sys.stdout)
            return
        try:
            with out.open("w", encoding="utf-8") as file:
                count = _copy(lines, file)
        except OSError as error:
            raise Failed(f"{out} cannot be written: {error.strerror}") from None
        complaints.print(f"{count} entries in {out}", soft_wrap=True)


def _copy(lines: Iterable[str], file: TextIO) -> int:
    """Write the lines, and return their number."""
    return sum(1 for line in lines if file.write(f"{line}\n"))


@app.command()
def verify(
    context: typer.Context,
    after: Annotated[int, typer.Option(min=0, help="begin at the last signed checkpoint at or before this entry")] = 0,
    as_json: AsJson = False,
) -> None:
    """Verify every entry and the signed checkpoints. Exit with 1 when an entry was edited, deleted, moved or cut off."""
    with reported():
        found = context.obj.gateway().call("GET", "/v1/audit/verify", params={"after": after})
    if as_json:
        print_json(found)
    else:
        _print_verified(found)
    if not found["intact"]:
        raise typer.Exit(1)


def _print_verified(found: dict[str, Any]) -> None:
    state = "intact" if found["intact"] else f"CHANGED: {len(found['findings'])} findings"
    console.print(f"{state}: entries {found['first']} to {found['entries']}, last link {found['link']}", soft_wrap=True)
    anchored = f"up to entry {found['anchored']}, {found['anchored_at'][:19]}" if found["anchored_at"] else "none"
    console.print(f"confirmed by a signed checkpoint: {anchored}")
    for each in found["findings"]:
        where = f"{each['first']}" if each["first"] == each["last"] else f"{each['first']} to {each['last']}"
        console.print(plain(f"  {each['kind']} {where}: {each['detail']}"), soft_wrap=True)


def _query(
    since: datetime | None, until: datetime | None, actor: str, action: str, object: str, outcome: str
) -> dict[str, Any]:
    given = {
        "since": since.isoformat() if since else "",
        "until": until.isoformat() if until else "",
        "actor": actor,
        "action": action,
        "object": object,
        "outcome": outcome,
    }
    return {name: value for name, value in given.items() if value}
