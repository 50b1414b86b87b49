"""``tidemark access``: grant, revoke, list, withdraw and explain. All of it needs the scope rag:admin."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import typer
from rich.table import Table

from gateway.client import Failed
from gateway.terminal import AsJson, console, plain, print_json, reported

app = typer.Typer(no_args_is_help=True, help="Decide who may see documents, apart from their labels.")

Principal = Annotated[str, typer.Argument(help="user:NAME or group:NAME")]
Document = Annotated[UUID | None, typer.Option(help="the id of a document")]
Source = Annotated[str, typer.Option(help="the name of a source: all of it, or the folder of --prefix")]
Prefix = Annotated[
    str, typer.Option(help="a folder of the source, as its documents' uris show it, ending with a slash")
]
Reason = Annotated[str, typer.Option(help="for the record")]


@app.command()
def grant(
    context: typer.Context,
    principal: Principal,
    document: Document = None,
    source: Source = "",
    prefix: Prefix = "",
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Let a user or a group see the documents, whatever their labels name."""
    _decide(context, "grant", principal, document, source, prefix, reason, as_json)


@app.command()
def revoke(
    context: typer.Context,
    principal: Principal,
    document: Document = None,
    source: Source = "",
    prefix: Prefix = "",
    reason: Reason = "",
    as_json: AsJson = False,
) -> None:
    """Hide the documents from a user or a group, whatever labels and grants say."""
    _decide(context, "revoke", principal, document, source, prefix, reason, as_json)


@app.command("list")
def listed(
    context: typer.Context,
    principal: Annotated[str, typer.Option(help="user:NAME or group:NAME")] = "",
    source: Source = "",
    document: Annotated[UUID | None, typer.Option(help="the rules that reach this document")] = None,
    as_json: AsJson = False,
) -> None:
    """List the rules of your tenant."""
    with reported():
        query = {"principal": principal, "source": source} | named(document)
        rules = context.obj.gateway().listed("/v1/access", "rules", **query)
    if as_json:
        return print_json(rules)
    table = Table("rule", "effect", "principal", "documents", "decided", "reason", box=None)
    table.columns[0].no_wrap = True  # to be copied
    for rule in rules:
        at = rule["decided_at"][:19]
        table.add_row(
            rule["rule_id"], rule["effect"], plain(rule["principal"]), plain(_scope(rule)), at, plain(rule["reason"])
        )
    return console.print(table if rules else "No rules: labels and settings alone decide.")


@app.command()
def withdraw(context: typer.Context, rule: Annotated[UUID, typer.Argument(help="its id, from list")]) -> None:
    """Delete a rule, so that labels and other rules decide again."""
    with reported():
        _print(context.obj.gateway().call("DELETE", f"/v1/access/{rule}"), "withdrawn: ")


@app.command()
def why(
    context: typer.Context,
    document: Annotated[UUID, typer.Argument(help="its id")],
    user: Annotated[str, typer.Option(help="the user's subject, as their token names it")],
    group: Annotated[list[str] | None, typer.Option(help="a group of the user, repeatable")] = None,
    as_json: AsJson = False,
) -> None:
    """Explain whether a user sees a document, and which label, setting or rule decides."""
    query = {"document_id": str(document), "user": user, "group": group or []}
    with reported():
        decided = context.obj.gateway().call("GET", "/v1/access/why", params=query)
    if as_json:
        return print_json(decided)
    return console.print(
        plain(f"{'visible' if decided['is_visible'] else 'hidden'}: {decided['reason']}"), soft_wrap=True
    )


def _decide(
    context: typer.Context,
    effect: str,
    principal: str,
    document: UUID | None,
    source: str,
    prefix: str,
    reason: str,
    as_json: bool,
) -> None:
    with reported():
        body = {"effect": effect, "principal": principal, "reason": reason} | target(document, source, prefix)
        rule = context.obj.gateway().call("POST", "/v1/access", json=body)
    if as_json:
        print_json(rule)
    else:
        _print(rule)


def target(document: UUID | None, source: str, prefix: str) -> dict[str, str]:
    """Return the fields of a request that name a document, a folder or a source. Raises Failed unless they name exactly one."""
    if bool(document) == bool(source) or (prefix and not source):
        raise Failed("name --document, or --source with or without --prefix", 2)
    return {"source": source, "uri_prefix": prefix} | named(document)


def named(document: UUID | None) -> dict[str, str]:
    return {"document_id": str(document)} if document else {}


def _scope(rule: dict[str, Any]) -> str:
    return str(rule["document_id"] or rule["uri_prefix"] or f"source {rule['source']}")


def _print(rule: dict[str, Any], note: str = "") -> None:
    text = f"{rule['rule_id']}  {note}{rule['effect']} {rule['principal']} {_scope(rule)}"
    console.print(plain(text), soft_wrap=True)
