"""Worker process, which loads the parsers once and forks children that read them.

``rag.ingest.parsing.sandbox`` starts ``python -m rag.ingest.parsing.worker FD`` with an empty environment. The worker takes commands on
the socket FD. ``fork``, with a socket of the child's own attached, answers the child's pid. The child isolates itself, reports this on
its socket, waits there for a document, and ends after its reply, unless the document may share its process with the next. ``end PID``
kills the rest of that child's process group and answers its wait status. The worker and its children end when the worker's socket
closes. The worker itself never reads a document, so each child starts from the same state.
"""

from __future__ import annotations

import array
import contextlib
import gc
import io
import json
import os
import signal
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from rag.errors import Rejected
from rag.ingest.parsing import isolation, memory, wire
from rag.ingest.parsing.formats import parse, parser_of
from rag.ingest.parsing.language import detector
from rag.ingest.parsing.sniffing import SHARED, media_type_of

_PROSE = 20_000  # characters
_SENTENCE = "The first call of everything is the slow one, and a child that is forked later need not make it again."
_SAMPLE = (
    f"# Title\n\n## Part\n\n{_SENTENCE} [link](a.md) `code` **bold**\n\n* item\n  * item\n\n1. item\n\n```\ncode\n```\n\n"
    "| a | b |\n|---|---|\n| c | d |\n"
).encode()
_PACKAGES = {path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"} and Path(path).is_dir()}
_LIBRARIES = {
    sys.prefix,
    sys.base_prefix,
    str(Path(__file__).parents[1]),
    *_PACKAGES,
}  # readable, because a codec may still be imported


def main(control_fd: int) -> None:
    layers = ["network namespace"] if isolation.leave_network() else []
    isolation.drop_capabilities()
    preload()
    layers += ["seccomp"] if isolation.refuse_system_calls() else []
    layers += ["landlock"] if isolation.landlock_version() else []
    control = socket.socket(fileno=control_fd)
    control.send(json.dumps({"ready": [*layers, "audit hook"]}).encode())
    children: set[int] = set()
    try:
        while order := _receive(control):
            verb, attached = order
            if verb == b"fork":
                pid = _fork(control, attached[0], layers)
                children.add(pid)
                control.send(b"%d" % pid)
            else:
                pid = int(verb.split()[1])
                children.discard(pid)
                control.send(b"%d" % _end(pid))
            for fd in attached:
                os.close(fd)
    finally:
        for pid in children:
            _end(pid)


def preload() -> None:
    """Parse a sample of every format, so that children start with loaded modules and filled caches."""
    for content, name in (
        (_SAMPLE, "sample.md"),
        (f"<h1>Title</h1><p>{_SENTENCE}<ul><li>item</ul><table><tr><td>a<tr><td>b</table>".encode(), "sample.html"),
        (_SENTENCE.encode("utf-16"), "sample.txt"),
        (f"name,text\nfirst,{_SENTENCE}".encode(), "sample.csv"),
        (json.dumps({"text": _SENTENCE}).encode(), "sample.json"),
        (_sample_docx(_SENTENCE), "sample.docx"),
        (b"%PDF-1.4 of nothing", "sample.pdf"),
        (b"caf\xe9 " * 20, "sample.txt"),
    ):  # fmt: skip
        with contextlib.suppress(Rejected):
            wire.dump(parse(content, name))
    # The detector loads each part of its model, for ten milliseconds, when a text first needs it. So detect a long and varied English text.
    modules = [module for module in [*sys.modules.values()] if isinstance(module, ModuleType)]
    detector().detect_language_of(" ".join(str(vars(module).get("__doc__")) for module in modules)[:_PROSE])
    gc.collect()
    gc.freeze()  # so that a child's garbage collector does not copy pages that it only reads
    memory.use_huge_pages()


def _sample_docx(sentence: str) -> bytes:
    import docx

    document, content = docx.Document(), io.BytesIO()
    document.add_heading("Title")
    document.add_paragraph(sentence)
    document.add_table(2, 2)
    document.save(content)
    return content.getvalue()


def _receive(control: socket.socket) -> tuple[bytes, list[int]] | None:
    fds = array.array("i")
    try:
        data, ancillary, _, _ = control.recvmsg(64, socket.CMSG_LEN(fds.itemsize))
    except ConnectionError:  # the sandbox ended before it read an answer
        return None
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return (data, list(fds)) if data else None


def _end(pid: int) -> int:
    """Kill a process group, and return the wait status of its leader, which may have left the group."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def _fork(control: socket.socket, fd: int, layers: list[str]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            isolation.die_with_parent(parent)
            control.close()
            _serve(socket.socket(fileno=fd), layers)
        finally:
            os._exit(0)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.setpgid(pid, pid)  # parent and child both set it, so that it is set whichever runs first
    return pid


# -- in the child: its documents -----------------------------------------------------------------------------------------


def _serve(connection: socket.socket, layers: list[str]) -> None:
    _silence()
    _warm()
    in_use = memory.in_use()
    missing = ", ".join(_missing(layers)).encode()
    connection.sendall(wire.REPLY.pack(wire.REFUSED if missing else wire.ACCEPTED, len(missing)) + missing)
    if missing:
        return
    is_shared = is_first = True
    while is_shared:
        request_length, content_length = wire.LENGTHS.unpack(_exactly(connection, wire.LENGTHS.size))
        request = json.loads(_exactly(connection, request_length))
        content = _exactly(connection, content_length)
        is_shared = request.get("shared", False)
        if is_first:  # what is allowed cannot be raised again
            allowed = in_use.plus(content_length + request["memory_bytes"])
            isolation.limit_resources(seconds=request["seconds"], allowed=allowed)
        is_first = False
        status, reply = _reply(content, request)
        connection.sendall(wire.REPLY.pack(status, len(reply)) + reply)


def _warm() -> None:
    """Parse a text of our own, so that the child copies the pages that every parse writes before a document waits for it."""
    parse(_SAMPLE, "sample.md")


def _missing(layers: list[str]) -> list[str]:
    """Isolate this process. Return those of the ``layers`` that cannot be applied. The others are inherited from the worker."""
    applied = {
        "landlock": isolation.refuse_files(_LIBRARIES),
        "seccomp": isolation.refuse_system_calls(alone=True),
    }
    isolation.refuse_in_python()
    return [layer for layer in layers if not applied.get(layer, True)]


def _reply(content: bytes, request: dict[str, Any]) -> tuple[bytes, bytes]:
    name = request["name"]
    try:
        reply = wire.dump(_parse(content, name, request))
        if len(reply) <= request["output_bytes"]:
            return wire.ACCEPTED, reply
        error = Rejected(
            f"{name!r} gives {len(reply):,} bytes of text, at most {request['output_bytes']:,} are allowed: split it",
            reason="too_large",
        )
    except Rejected as refused:
        error = refused
    except MemoryError:
        error = Rejected(
            f"{name!r} needs more than {request['memory_bytes']:,} bytes of memory to parse: split it",
            reason="out_of_memory",
        )
    except RecursionError:
        error = Rejected(f"{name!r} nests too deeply to be read: flatten it", reason="corrupt")
    except Exception as bug:  # its message may quote the document
        error = Rejected(
            f"the parser failed on {name!r} ({type(bug).__name__}): convert it to another format", reason="crashed"
        )
    return wire.REFUSED, wire.dump_error(error)


def _parse(content: bytes, name: str, request: dict[str, Any]) -> Any:
    media_type = media_type_of(content, name, request["media_type"])
    if request.get("shared") and media_type not in SHARED:
        raise Rejected(f"{media_type} needs a process of its own", reason="not_shared")
    if media_type == "application/pdf":
        from rag.ingest.parsing import pdf

        return pdf.parse(content, name, request["pages"])
    return parser_of(media_type)(content, name)


def _silence() -> None:
    """Discard all output, because libraries print the parts of the document that they cannot read."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)


def _exactly(connection: socket.socket, length: int) -> bytes:
    buffer = bytearray(length)
    view = memoryview(buffer)
    while view:
        received = connection.recv_into(view)
        if not received:
            os._exit(0)  # the sandbox has closed the connection
        view = view[received:]
    view.release()
    return bytes(buffer)


if __name__ == "__main__":
    main(int(sys.argv[1]))
