"""The parts that all commands of ``tidemark`` share: their context, and their output to the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from gateway.client import NOT_LOGGED_IN, UNREACHABLE, Failed, GatewayClient
from gateway.login import LoginFailed, Target, TokenFile, access_token

console, complaints = Console(highlight=False), Console(stderr=True, highlight=False)

AsJson = Annotated[bool, typer.Option("--json", help="print the gateway's answer as JSON")]
Limit = Annotated[int, typer.Option(min=1, help="how many documents")]


@dataclass(frozen=True)
class Context:
    """The target of a command, the tokens kept for it, and the folder of the local stack, if there is one."""

    target: Target
    kept: TokenFile
    stack: Path | None
    call_on_close: Callable[[Callable[[], None]], object]

    def gateway(self) -> GatewayClient:
        """Open a client, which is closed when the command ends."""
        client = GatewayClient(self.target.gateway, lambda: access_token(self.target, self.kept))
        self.call_on_close(client.close)
        return client


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def why(document: dict[str, Any]) -> str:
    reason = document.get("reason")
    return f"{document['status']} ({reason})" if reason else str(document["status"])


def plain(text: str) -> Text:
    """Return ``text`` without escape sequences and markup: documents may contain both, and neither may reach the terminal."""
    return Text("".join(c if c.isprintable() or c == "\n" else " " for c in text))


@contextmanager
def reported() -> Iterator[None]:
    """Report failures as one sentence on stderr and as an exit code."""
    try:
        yield
    except (Failed, LoginFailed) as error:
        complaints.print(plain(str(error)), style="red")
        raise typer.Exit(_code(error)) from None


def _code(error: Failed | LoginFailed) -> int:
    if isinstance(error, Failed):
        return error.code
    return UNREACHABLE if error.is_unreachable else NOT_LOGGED_IN
