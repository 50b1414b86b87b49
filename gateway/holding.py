"""``tidemark hold``: place, list and lift legal holds. All of it needs the scope rag:admin."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import typer
from rich.table import Table

from gateway.grants import Document, Prefix, Source, named, target
from gateway.terminal import AsJson, console, plain, print_json, reported

app = typer.Typer(no_args_is_help=True, help="Forbid the erasure of documents for a legal matter.")


@app.command()
def place(
    context: typer.Context,
    reason: Annotated[str, typer.Option(help="the matter, for the record")],
    document: Document = None,
    source: Source = "",
    prefix: Prefix = "",
    as_json: AsJson = False,
) -> None:
    """Forbid every erasure and withdrawal of a document, a folder or a source."""
    with reported():
        body = {"reason": reason} | target(document, source, prefix)
        hold = context.obj.gateway().call("POST", "/v1/holds", json=body)
    if as_json:
        print_json(hold)
    else:
        _print(hold, "placed")


@app.command("list")
def listed(
    context: typer.Context,
    document: Annotated[UUID | None, typer.Option(help="the holds that protect this document")] = None,
    as_json: AsJson = False,
) -> None:
    """List the holds of your tenant."""
    with reported():
        holds = context.obj.gateway().listed("/v1/holds", "holds", **named(document))
    if as_json:
        return print_json(holds)
    table = Table("hold", "documents", "placed", "reason", box=None)
    table.columns[0].no_wrap = True  # to be copied
    for hold in holds:
        table.add_row(hold["hold_id"], plain(_scope(hold)), hold["placed_at"][:19], plain(hold["reason"]))
    return console.print(table if holds else "No legal holds.")


@app.command()
def lift(context: typer.Context, hold: Annotated[UUID, typer.Argument(help="its id, from list")]) -> None:
    """Lift a hold. Other holds on the same documents stand."""
    with reported():
        _print(context.obj.gateway().call("DELETE", f"/v1/holds/{hold}"), "lifted")


def _scope(hold: dict[str, Any]) -> str:
    return str(hold["document_id"] or hold["uri_prefix"] or f"source {hold['source']}")


def _print(hold: dict[str, Any], note: str) -> None:
    console.print(plain(f"{hold['hold_id']}  {note} on {_scope(hold)}"), soft_wrap=True)
