"""``tidemark``: log in, ask, search, upload, list and repair, at any gateway.

The addresses of the gateway and the issuer come from the options, else from the environment, else from ``.stack/env`` of a local
stack in this folder or above. Exit codes: 1 refused, 2 wrong usage, 3 not logged in, 4 not reachable.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from dotenv import dotenv_values
from rich.panel import Panel
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from gateway import audit_commands, dead, erase, grants, holding
from gateway.client import Failed
from gateway.login import Target, TokenFile, by_browser, by_client_credentials
from gateway.terminal import AsJson, Context, Limit, complaints, console, plain, print_json, reported, why

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(dead.app, name="dead")
app.add_typer(grants.app, name="access")
app.add_typer(holding.app, name="hold")
app.add_typer(erase.app, name="erase")
app.add_typer(audit_commands.app, name="audit")
Filter = Annotated[list[str] | None, typer.Option("--filter", help="field=value, repeatable: source, language, ...")]
TopK = Annotated[int, typer.Option(min=1, max=50, help="how many hits")]


@app.callback()
def _where(
    context: typer.Context,
    gateway: Annotated[str, typer.Option(envvar="GATEWAY_URL", help="base address of the gateway")] = "",
    issuer: Annotated[str, typer.Option(envvar="OIDC_ISSUER", help="the OpenID provider")] = "",
    client: Annotated[
        str, typer.Option(envvar="TIDEMARK_CLI_CLIENT_ID", help="its client for this program")
    ] = "tidemark-cli",
    machine: Annotated[str, typer.Option(envvar="OIDC_CLIENT_ID", hidden=True)] = "",
    secret: Annotated[str, typer.Option(envvar="OIDC_CLIENT_SECRET", hidden=True)] = "",
    stack: Annotated[Path | None, typer.Option(envvar="TIDEMARK_STACK", help="folder of a local stack")] = None,
) -> None:
    folder = _stack_folder(stack)
    found = {name: value for name, value in dotenv_values(folder / "env").items() if value} if folder else {}
    target = Target(
        gateway=(gateway or found.get("GATEWAY_URL") or "http://127.0.0.1:18000").rstrip("/"),
        issuer=issuer or found.get("OIDC_ISSUER", ""),
        client_id=client,
        machine_id=machine or found.get("OIDC_CLIENT_ID", ""),
        machine_secret=secret or found.get("OIDC_CLIENT_SECRET", ""),
    )
    kept = TokenFile(Path(typer.get_app_dir("tidemark")) / "tokens.json")
    context.obj = Context(target, kept, folder, context.call_on_close)


@app.command()
def login(
    context: typer.Context,
    user: Annotated[str, typer.Option(help="local development only: the user, without a browser")] = "",
    client_credentials: Annotated[
        bool, typer.Option("--client-credentials", help="as a program, not a person")
    ] = False,
) -> None:
    """Get a token and keep it for this gateway."""
    target: Target = context.obj.target
    with reported():
        if user and client_credentials:
            raise Failed("choose one of --user and --client-credentials", 2)
        if client_credentials:
            token = by_client_credentials(target)
        else:
            token = by_browser(target, user=user, show=lambda url: console.print(f"Log in at {url}", soft_wrap=True))
        context.obj.kept.write(target.gateway, token)
    console.print(f"Logged in to {target.gateway}" + (f" as {user}" if user else ""))


@app.command()
def ask(context: typer.Context, question: str, top_k: TopK = 8, filter: Filter = None, as_json: AsJson = False) -> None:
    """Ask a question and show the answer with its evidence."""
    with reported():
        body = {"question": question, "top_k": top_k, "filters": _filters(filter)}
        answer = context.obj.gateway().call("POST", "/v1/answers", json=body)
    if as_json:
        return print_json(answer)
    how = "extractive" if answer["generator"] == "extractive" else f"written by {answer['generator']}"
    console.print(Panel(plain(answer["answer"]), title=f"Answer ({how})", title_align="left"))
    _print_hits(answer["citations"])
    return console.print(f"{answer['timings']['total']:.2f} s{', cached' if answer['cached'] else ''}", style="dim")


@app.command()
def search(context: typer.Context, query: str, top_k: TopK = 8, filter: Filter = None, as_json: AsJson = False) -> None:
    """Find passages."""
    with reported():
        body = {"query": query, "top_k": top_k, "filters": _filters(filter)}
        found = context.obj.gateway().call("POST", "/v1/search", json=body)
    return print_json(found) if as_json else _print_hits(found["hits"])


@app.command()
def upload(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, readable=True)],
    title: Annotated[str, typer.Option(help="instead of the file's own; one file only")] = "",
    principal: Annotated[
        list[str] | None, typer.Option(help="a principal of yours who may see it; default: you alone")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="until it is searchable")] = False,
    seconds: Annotated[float, typer.Option(help="how long to wait for each")] = 120,
    as_json: AsJson = False,
) -> None:
    """Upload files."""
    gateway, done = context.obj.gateway(), []
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TextColumn("{task.fields[status]}"),
               TimeElapsedColumn())  # fmt: skip
    with reported(), Progress(*columns, console=complaints) as progress:
        if title and len(files) > 1:
            raise Failed("--title is for one file", 2)
        if twice := sorted(name for name, count in Counter(path.name for path in files).items() if count > 1):
            raise Failed(f"several files are named {twice[0]!r}, and each would replace the one before: rename them", 2)
        for path in files:
            bar = progress.add_task(plain(path.name).plain, total=path.stat().st_size, status="uploading")
            uploaded = gateway.upload(
                path,
                title=title,
                principals=principal or (),
                progress=lambda sent, bar=bar: progress.advance(bar, sent),
            )
            progress.update(bar, status="indexing" if wait else "accepted")
            if wait:
                uploaded |= gateway.wait(uploaded["status_url"], seconds=seconds)
                progress.update(bar, status=uploaded["status"] if uploaded["status"] == "live" else why(uploaded))
            done.append(uploaded)
    if as_json:
        print_json(done)
    else:
        for uploaded in done:
            note = "  (replaces your earlier upload of this name)" if uploaded.get("replaces") else ""
            console.print(
                f"{uploaded['document_id']}  {uploaded.get('status', 'accepted')}  {uploaded['uri']}{note}",
                soft_wrap=True,
            )
    if wait and any(uploaded["status"] != "live" for uploaded in done):
        raise typer.Exit(1)


@app.command()
def documents(
    context: typer.Context,
    state: Annotated[str, typer.Option(help="live, parked, deleted, dead")] = "",
    source: Annotated[str, typer.Option(help="the name of a source")] = "",
    title: Annotated[str, typer.Option(help="a part of the title")] = "",
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List the documents that you may see."""
    with reported():
        rows = list(context.obj.gateway().documents(limit=limit, state=state, source=source, title=title))
    if as_json:
        return print_json(rows)
    table = Table("document", "status", "title", "source", "chunks", box=None)
    for row in rows:
        table.add_row(row["document_id"], why(row), plain(row["title"]), row["source"], str(row["chunks"]))
    return console.print(table if rows else "No documents that you may see.")


@app.command()
def reconcile(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the differences and change nothing")] = False,
    confirm: Annotated[bool, typer.Option("--confirm", help="believe mass deletions and changed folders")] = False,
) -> None:
    """List every source on this machine, and announce the differences to the index.

    This needs the settings of the platform, from the environment or a stack's folder. The gateway takes no part.
    """
    flags = ["--dry-run"] * dry_run + ["--confirm"] * confirm
    stack = context.obj.stack
    environment = os.environ | ({"TIDEMARK_STACK": str(stack)} if stack else {})
    command = [sys.executable, "-m", "consumers", "reconcile", *flags]
    raise typer.Exit(subprocess.run(command, env=environment, check=False).returncode)  # noqa: S603


def _stack_folder(stack: Path | None) -> Path | None:
    here = Path.cwd()
    folders = [stack] if stack else [folder / ".stack" for folder in (here, *here.parents)]
    return next((folder for folder in folders if (folder / "env").is_file()), None)


def _filters(given: list[str] | None) -> dict[str, list[str]]:
    filters: dict[str, list[str]] = {}
    for each in given or []:
        field, equals, value = each.partition("=")
        if not equals:
            raise Failed(f"--filter {each!r} is not of the form field=value", 2)
        filters.setdefault(field, []).append(value)
    return filters


def _print_hits(hits: list[dict[str, Any]]) -> None:
    if not hits:
        console.print("Nothing found that you may see.")
    for hit in hits:
        place = f", page {hit['page']}" if hit["page"] else ""
        console.print(
            Text.assemble((f"[{hit['marker']}] ", "bold"), plain(hit["title"]), place, f"  {hit['score']:.3f}")
        )
        console.print(Text("    ") + plain(hit["quote"].strip()[:400]))
        console.print(Text(f"    {hit['uri']}", style="dim"), soft_wrap=True)


def main() -> None:
    """Run ``tidemark``."""
    app()


if __name__ == "__main__":
    main()
