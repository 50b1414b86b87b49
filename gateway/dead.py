"""``tidemark dead``: the documents that could not be indexed, as the catalog has them."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import typer
from rich.table import Table

from gateway.client import Failed, GatewayClient
from gateway.terminal import AsJson, Limit, console, plain, print_json, reported

app = typer.Typer(no_args_is_help=True, help="List, show, redrive and drop the documents that could not be indexed.")

Source = Annotated[str, typer.Option(help="the name of a source")]
Reason = Annotated[str, typer.Option(help="the reason: corrupt, encrypted, too_large, bug, ...")]


@app.command("list")
def listed(
    context: typer.Context, source: Source = "", reason: Reason = "", limit: Limit = 100, as_json: AsJson = False
) -> None:
    """List the dead documents that you may see."""
    with reported():
        rows = list(context.obj.gateway().documents(limit=limit, state="dead", source=source, reason=reason))
    if as_json:
        return print_json(rows)
    table = Table("document", "reason", "since", "source", "uri", box=None)
    table.columns[0].no_wrap = True  # to be copied
    for row in rows:
        table.add_row(row["document_id"], row["reason"], row["updated_at"][:19], row["source"], plain(row["uri"]))
    return console.print(table if rows else "No dead documents that you may see.")


@app.command()
def show(context: typer.Context, document: UUID, as_json: AsJson = False) -> None:
    """Show the way of a document until it died: its version, its event and its run."""
    with reported():
        row = context.obj.gateway().call("GET", f"/v1/documents/{document}/lineage")
    if as_json:
        return print_json(row)
    cause = row["cause"]
    event = f"{cause['topic']}[{cause['partition']}] offset {cause['offset']}" if cause["topic"] else "a backfill"
    lines = {
        "status": f"{row['status']} {row['reason']}".strip(),
        "object": f"{row['uri']} ({row['source']})",
        "version": row["source_version"],
        "changed": cause["changed_at"],
        "event": event,
        "run": cause["run_id"],
        "trace": cause["trace_id"],
        "since": row["updated_at"],
    }
    for name, value in lines.items():
        console.print(plain(f"{name:8} {value or '-'}"), soft_wrap=True)
    return None


@app.command()
def redrive(
    context: typer.Context,
    documents: Annotated[list[UUID] | None, typer.Argument(help="their ids")] = None,
    every: Annotated[bool, typer.Option("--all", help="all dead ones, of the source and reason if given")] = False,
    source: Source = "",
    reason: Reason = "",
) -> None:
    """Have documents read again although they did not change, after the cause was removed. This needs the scope rag:admin."""
    with reported():
        if bool(documents) == every:
            raise Failed("name the ids of documents, or --all", 2)
        gateway: GatewayClient = context.obj.gateway()
        ids = [str(each) for each in documents or ()]
        if every:
            ids = [
                row["document_id"]
                for row in gateway.documents(limit=100_000, state="dead", source=source, reason=reason)
            ]
        for each in ids:
            gateway.call("POST", f"/v1/documents/{each}/redrive")
            console.print(f"{each}  announced again")
    if not ids:
        console.print("No dead documents that you may see.")


@app.command()
def drop(context: typer.Context, documents: Annotated[list[UUID], typer.Argument(help="their ids")]) -> None:
    """Give up dead documents: uploads are withdrawn, and with the scope rag:erase any document is suppressed for ever."""
    with reported():
        gateway: GatewayClient = context.obj.gateway()
        for each in documents:
            row: dict[str, Any] = gateway.call("GET", f"/v1/documents/{each}")
            if row["status"] != "dead":
                raise Failed(f"document {each} is {row['status']} and not dead: it was left as it is")
            answer = gateway.call("DELETE", f"/v1/documents/{each}")
            console.print(f"{each}  {'suppressed' if answer['status'] == 'suppressed' else 'withdrawn'}")
