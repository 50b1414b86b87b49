"""``tidemark erase``: run dry, erase, follow to the certificate, and verify a certificate without any server."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.table import Table

from gateway.certificate_page import page
from gateway.client import Failed, GatewayClient
from gateway.terminal import AsJson, complaints, console, plain, print_json, reported
from governance.certificates import verified
from rag.errors import Rejected

app = typer.Typer(
    no_args_is_help=True,
    help="Erase documents and people for ever, with a certificate. This needs the scope rag:erase.",
)
KEYS = "/.well-known/tidemark/jwks.json"
DONE = ("certified", "incomplete")
Erasure = Annotated[UUID, typer.Argument(help="the id of an erasure")]


@app.command("run")
def erase(
    context: typer.Context,
    document: Annotated[UUID | None, typer.Option(help="the id of a document")] = None,
    prefix: Annotated[str, typer.Option(help="documents whose uri starts with it")] = "",
    email: Annotated[str, typer.Option(help="a person's e-mail address")] = "",
    phone: Annotated[str, typer.Option(help="a person's phone number")] = "",
    iban: Annotated[str, typer.Option(help="a person's bank account")] = "",
    id: Annotated[str, typer.Option("--id", help="a person's number, such as a customer's")] = "",
    custom: Annotated[str, typer.Option(help="any other exact text that identifies a person")] = "",
    name: Annotated[str, typer.Option(help="a person's name; it needs --only, because others may have it")] = "",
    only: Annotated[
        list[UUID] | None, typer.Option(help="a document of the dry run that you confirm; repeatable")
    ] = None,
    reason: Annotated[str, typer.Option(help="for the record, without personal data")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list what would be erased, and change nothing")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="until the certificate")] = False,
    as_json: AsJson = False,
) -> None:
    """Show all that the request means, ask, and erase it. Nothing shows it from then on."""
    people = {"email": email, "phone": phone, "iban": iban, "id": id, "custom": custom, "name": name}
    with reported():
        body = _target(document, prefix, {kind: value for kind, value in people.items() if value}) | {"reason": reason}
        gateway: GatewayClient = context.obj.gateway()
        located = gateway.call("POST", "/v1/erasures", json=body | {"dry_run": True})
        chosen = _chosen(located, [str(each) for each in only] if only else None, is_name=bool(name))
        if not as_json:
            _print_located(located, chosen)
        if dry_run:
            return print_json(located) if as_json else None
        if not yes and not typer.confirm(f"Erase {len(chosen)} documents for ever?", err=True):
            raise Failed("nothing was erased")
        accepted = gateway.call("POST", "/v1/erasures", json=body | {"documents": chosen})
        if wait:
            accepted = _until_done(gateway, accepted["erasure_id"])
    return print_json(accepted) if as_json else _print(accepted)


@app.command()
def status(context: typer.Context, erasure: Erasure, as_json: AsJson = False) -> None:
    """Show the state of an erasure, its stores and its history."""
    with reported():
        found = context.obj.gateway().call("GET", f"/v1/erasures/{erasure}")
    return print_json(found) if as_json else _print(found)


@app.command("list")
def listed(context: typer.Context, as_json: AsJson = False) -> None:
    """List the erasures of your tenant."""
    with reported():
        rows = context.obj.gateway().listed("/v1/erasures", "erasures")
    if as_json:
        return print_json(rows)
    table = Table("erasure", "state", "documents", "requested", "deadline", "reason", box=None)
    table.columns[0].no_wrap = True  # to be copied
    for row in rows:
        requested, deadline = row["requested_at"][:19], row["deadline"][:10]
        table.add_row(
            row["erasure_id"],
            row["state"],
            str(row["affected"].get("documents", 0)),
            requested,
            deadline,
            plain(row["reason"]),
        )
    return console.print(table if rows else "No erasures.")


@app.command()
def certificate(
    context: typer.Context,
    erasure: Erasure,
    file: Annotated[Path, typer.Argument(help="file to write; the public keys go beside it, as FILE.jwks.json")],
) -> None:
    """Save the certificate of an erasure, with the keys that verify it."""
    with reported():
        gateway: GatewayClient = context.obj.gateway()
        signed = gateway.text(f"/v1/erasures/{erasure}/certificate")
        keys = gateway.call("GET", KEYS)
    file.write_text(signed + "\n")
    _keys_beside(file).write_text(json.dumps(keys, indent=2) + "\n")
    console.print(f"written to {file} and {_keys_beside(file)}", soft_wrap=True)


@app.command("verify-certificate")
def verify_certificate(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="a certificate")],
    keys: Annotated[Path | None, typer.Option(help="the published keys; default: FILE.jwks.json")] = None,
    html: Annotated[
        Path | None, typer.Option("--page", help="write it as a page (HTML) for the officer's file")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify a certificate with the published keys, without any server, and show what it states. Exit with 1 if it is not genuine."""
    with reported():
        try:
            published = json.loads((keys or _keys_beside(file)).read_text())
            signed = file.read_text()
            claims = verified(signed, published)
        except OSError as error:
            raise Failed(f"{error.filename} cannot be read ({error.strerror}): name the keys with --keys", 2) from None
        except (Rejected, ValueError) as error:
            raise Failed(f"{file}: {error}") from None
        if html:
            try:
                html.write_text(page(signed, claims), encoding="utf-8")
            except OSError as error:
                raise Failed(f"{html} cannot be written ({error.strerror})", 2) from None
    if as_json:
        return print_json(claims)
    request = claims["request"]
    console.print(f"genuine: erasure {claims['certificate_id']} of tenant {claims['tenant']}", soft_wrap=True)
    console.print(f"requested {request['requested_at'][:19]}, verified {claims['verified_at'][:19]}")
    console.print(f"{len(claims['documents'])} documents, {len(claims['subjects'])} people")
    for name, store in claims["stores"].items():
        console.print(plain(f"  {name}: {store['claim']} ({store['negative_control']})"), soft_wrap=True)
    for each in claims["unproven"]:
        console.print(plain(f"  not proven: {each}"), soft_wrap=True)
    if html:
        console.print(f"written to {html}", soft_wrap=True)
    return None


def _target(document: UUID | None, prefix: str, people: dict[str, str]) -> dict[str, Any]:
    targets: list[dict[str, Any]] = [{"subject": {"kind": kind, "value": value}} for kind, value in people.items()]
    targets += [{"document_id": str(document)}] if document else []
    targets += [{"uri_prefix": prefix}] if prefix else []
    if len(targets) != 1:
        raise Failed("name exactly one of --document, --prefix and an identifier of a person", 2)
    return targets[0]


def _chosen(located: dict[str, Any], only: list[str] | None, *, is_name: bool) -> list[str]:
    """Return the documents to erase: those confirmed, else all but the probable ones."""
    if only is not None:
        return only
    return [each["document_id"] for each in located["documents"] if is_name or each["because"] != "probable"]


def _print_located(located: dict[str, Any], chosen: list[str]) -> None:
    table = Table("document", "because", "status", "chunks", "title", "uri", box=None)
    table.columns[0].no_wrap = True  # to be copied
    for row in located["documents"]:
        note = "" if row["document_id"] in chosen else " (stays)"
        table.add_row(
            row["document_id"],
            row["because"] + note,
            row["status"],
            str(row["chunks"]),
            plain(row["title"]),
            plain(row["uri"]),
        )
    complaints.print(table if located["documents"] else "No document of your tenant is meant.")
    if located["unread"]:
        complaints.print(
            f"{len(located['unread'])} documents could not be scanned now: run it again later", style="yellow"
        )


def _until_done(gateway: GatewayClient, erasure_id: str, *, pause: float = 0.5) -> dict[str, Any]:
    shown = ""
    while True:
        found = gateway.call("GET", f"/v1/erasures/{erasure_id}")
        if found["state"] != shown:
            shown = found["state"]
            complaints.print(f"{erasure_id}  {shown}")
        if shown in DONE:
            return found
        time.sleep(pause)


def _print(erasure: dict[str, Any]) -> None:
    counted = ", ".join(f"{name} {number}" for name, number in erasure["affected"].items() if number)
    console.print(f"{erasure['erasure_id']}  {erasure['state']}  ({counted})", soft_wrap=True)
    for each in erasure["history"]:
        console.print(plain(f"  {each['at'][:19]}  {each['text']}"), soft_wrap=True)
    if erasure["certificate_url"]:
        console.print(f"certificate: tidemark erase certificate {erasure['erasure_id']} FILE", soft_wrap=True)


def _keys_beside(file: Path) -> Path:
    return file.with_name(f"{file.name}.jwks.json")
