"""No document, and no harm to the process that reads it, affects the next document."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from rag.errors import Rejected, Unavailable
from rag.ingest.parsing import ParseLimits, SandboxedParser, parse, wire
from rag.ingest.parsing import sandbox as sandbox_module
from rag.ingest.parsing.isolation import landlock_version
from rag.models import Block, BlockKind, ParsedDocument
from rag.no_telemetry import SWITCHES

pytestmark = pytest.mark.heavy

GOOD = b"# Good\n\nA document like any other, which says nothing in particular."


def reason(parser: SandboxedParser, content: bytes, name: str) -> str:
    with pytest.raises(Rejected) as caught:
        parser.parse_now(content, name)
    assert name in str(caught.value)
    assert parser.parse_now(GOOD, "good.md").title == "Good"  # the next document is not affected
    return caught.value.reason


# -- hostile documents


def test_the_sandbox_returns_the_documents_that_parse_returns(sandbox: SandboxedParser, company: list[Path]) -> None:
    assert {path.suffix for path in company[::3]} == {path.suffix for path in company}
    for path in company[::3]:
        content = path.read_bytes()
        assert sandbox.parse_now(content, path.name) == parse(content, path.name)


def test_bombs_of_all_kinds_are_refused_or_read_within_bounds(sandbox: SandboxedParser, make: SimpleNamespace) -> None:
    entities = b'<?xml version="1.0"?><!DOCTYPE d [<!ENTITY a "aaaaaaaaaa">' + b"".join(
        b'<!ENTITY %c "%s">' % (ord("b") + n, b"&%c;" % (ord("a") + n) * 10) for n in range(12)
    )
    body = (
        entities
        + b']><w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p><w:r><w:t>&m;'
    )
    assert reason(sandbox, make.docx_with(body + b"</w:t></w:r></w:p></w:body></w:document>"), "entities.docx") in {
        "corrupt",
        "no_text",
    }
    assert reason(sandbox, b'{"a":' * 200_000, "deep.json") == "corrupt"
    assert reason(sandbox, b"[" * 5_000 + b"1" + b"]" * 5_000, "deep.json") == "corrupt"
    assert reason(sandbox, zip_bomb(), "zip.docx") == "too_large"
    for content, name in (
        (b"<div>" * 200_000 + b"deep words in a page", "deep.html"),
        (b"> " * 3_000 + b"quoted deeply", "deep.md"),
        (b",".join(b"c%d" % n for n in range(1_000_000)) + b"\n" + b",".join([b"value"] * 1_000_000), "wide.csv"),
        (b"* " * 20_000, "stars.md"),
        (b"[" * 20_000 + b"words", "brackets.md"),
        (b"a" * 5_000_000, "long.txt"),
    ):
        with contextlib.suppress(Rejected):
            parsed = sandbox.parse_now(content, name)
            assert max((len(b.header or "") + sum(map(len, b.section)) for b in parsed.blocks), default=0) < 5_000
        assert sandbox.parse_now(GOOD, "good.md").title == "Good"


def zip_bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        with archive.open("word/document.xml", "w", force_zip64=True) as member:
            for _ in range(600):
                member.write(b"\x00" * 2**20)
    return out.getvalue()


def test_limits_of_size_and_pages_are_named(make: SimpleNamespace) -> None:
    parser = SandboxedParser(ParseLimits(input_bytes=20_000, pages=2, output_bytes=2_000))
    assert reason(parser, b"x" * 20_001, "large.txt") == "too_large"
    assert reason(parser, b"words " * 500, "much.txt") == "too_large"
    assert reason(parser, make.pdf(*[make.lines("a page")] * 3), "long.pdf") == "too_many_pages"
    parser.close()


def test_a_document_that_eats_memory_is_out_of_memory() -> None:
    parser = SandboxedParser(ParseLimits(memory_bytes=64 * 2**20))
    assert reason(parser, b"[" + b"[[],[]]," * 2_000_000 + b"1]", "wide.json") == "out_of_memory"
    parser.close()


def test_a_document_that_takes_too_long_is_killed() -> None:
    rows = b"\n".join(b"%d,%s" % (n, b"cell," * 20) for n in range(400_000))
    for limits in (ParseLimits(seconds=0.3), ParseLimits(wall_seconds=1)):
        parser = SandboxedParser(limits)
        parser.start()
        began = time.monotonic()
        assert reason(parser, rows, "slow.csv") == "timeout"
        assert time.monotonic() - began < 20
        parser.close()


# -- attacks of a parser that was taken over, made by a hostile parser


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxedParser]:
    """Return a sandbox whose plain-text parser runs the document as a program, which is the worst exploit of a parser."""
    package = tmp_path_factory.mktemp("hostile")
    (package / "sitecustomize.py").write_text(
        textwrap.dedent(
            """
            import sys, types
            from importlib import abc, machinery, util

            class Finder(abc.MetaPathFinder):
                def find_spec(self, name, path, target=None):
                    if name == "rag.ingest.parsing.plain":
                        return util.spec_from_loader(name, Loader())

            class Loader(abc.Loader):
                def create_module(self, spec):
                    return None
                def exec_module(self, module):
                    def parse(content, name):
                        from rag.models import BlockKind
                        from rag.ingest.parsing.elements import Element, assemble
                        from rag.errors import Rejected
                        scope = {}
                        try:
                            program = compile(content.decode(errors="replace"), name, "exec")
                        except SyntaxError:
                            raise Rejected("no program")  # the sample texts that warm a worker up
                        exec(program, scope)
                        return assemble([Element(BlockKind.PARAGRAPH, str(scope["said"]))], name=name, media_type="text/plain")
                    module.parse = parse

            sys.meta_path.insert(0, Finder())
            """
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "rag.ingest.parsing.sandbox._PATHS", [str(package), *sys.modules["rag.ingest.parsing.sandbox"]._PATHS]
        )
        patch.setenv("TIDEMARK_SECRET", "do-not-tell")
        parser = SandboxedParser(ParseLimits(seconds=2, wall_seconds=8, memory_bytes=256 * 2**20))
        parser.start()
    yield parser
    parser.close()


def said(parser: SandboxedParser, program: str) -> str:
    return parser.parse_now(textwrap.dedent(program).encode(), "program").text


def test_the_hostile_parser_is_really_run(hostile: SandboxedParser) -> None:
    assert said(hostile, "said = 'sum ' + str(40 + 2)") == "sum 42"


def test_no_secret_of_the_parent_is_in_the_environment(hostile: SandboxedParser) -> None:
    names = said(hostile, "import os; said = 'names ' + ' '.join(sorted(os.environ))").split()
    assert "TIDEMARK_SECRET" not in names
    assert set(names[1:]) <= {*SWITCHES, "LANG", "LC_CTYPE", "PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "RAYON_NUM_THREADS",
                              "UNSTRUCTURED_DISABLE_NOTICE"}  # fmt: skip


@pytest.mark.parametrize(
    "attempt",
    [
        "import socket; socket.create_connection(('127.0.0.1', 1))",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import _socket; _socket.socket()",
        "import os; os.fork()",
        "import os; os.execv('/bin/true', ['true'])",
        "import subprocess; subprocess.run(['true'])",
        "open('/escaped', 'x')",
        "open('/etc/passwd').read()",
        "open('/proc/%d/environ' % __import__('os').getppid()).read()",
        "__import__('os').listdir('/')",
        "import threading; t = threading.Thread(target=print); t.start()",
        "import os, signal; os.kill(os.getppid(), signal.SIGKILL)",
        "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (0, 0))",
        "import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        "import os; os.sched_setaffinity(os.getppid(), {0})",
        "import os; os.setpgid(0, os.getppid())",
        "import os; os.pidfd_open(os.getppid())",
        "import fcntl, os; fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
        "import fcntl; fcntl.fcntl(0, 10, 9)  # F_SETSIG, SIGKILL",
    ],
)
def test_it_reaches_no_network_and_starts_nothing(hostile: SandboxedParser, attempt: str) -> None:
    program = f"try:\n    {attempt}\n    said = 'escaped'\nexcept (OSError, RuntimeError):\n    said = 'refused'"
    assert said(hostile, program) == "refused"
    assert said(hostile, "said = 'still here'") == "still here"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's filter is Linux's")
def test_the_kernel_refuses_calls_that_python_does_not_see(hostile: SandboxedParser) -> None:
    program = """
        from ctypes import byref, c_int, pythonapi as libc  # already loaded, so the audit hook sees none of these calls
        kill_with_parent, nothing, set_owner = 1, 0, 0x8901
        answers = [
            libc.socket(2, 1, 0), libc.socket(1, 1, 0), libc.execve(b"/bin/true", None, None), libc.fork(),
            libc.prctl(kill_with_parent, nothing, 0, 0, 0), libc.sigqueue(libc.getppid(), 9, None),
            max(libc.ioctl(fd, set_owner, byref(c_int(libc.getppid()))) for fd in range(3, 64)),
        ]
        said = "answers " + " ".join(map(str, answers))
    """
    assert said(hostile, program) == "answers -1 -1 -1 -1 -1 -1 -1"


ANSWER = (
    "import os, struct\nfor fd in range(3, 64):\n  try: os.write(fd, struct.pack('!cQ', {})\n  except OSError: pass"
)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("while True: pass", "timeout"),
        ("import time; time.sleep(3600)", "timeout"),
        ("import signal; signal.signal(signal.SIGPROF, signal.SIG_IGN); signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
         "timeout|crashed"),
        ("x = bytearray(2**29)", "out_of_memory"),
        ("import os; os.abort()", "crashed"),
        ("import os; os._exit(0)", "crashed"),
        ("raise ValueError('quotes the document')", "crashed"),
        ("import sys; sys.setrecursionlimit(10**6); f = lambda n: f(n + 1); f(0)", "corrupt|crashed|out_of_memory|timeout"),
        (ANSWER.format("b'+', 2**40)"), "crashed"),
        (ANSWER.format("b'+', 4) + b'null'"), "crashed"),
    ],
)  # fmt: skip
def test_every_attack_ends_as_a_refusal(hostile: SandboxedParser, program: str, expected: str) -> None:
    with pytest.raises(Rejected) as caught:
        hostile.parse_now(program.encode(), "program")
    assert caught.value.reason in expected.split("|")
    assert "quotes" not in str(caught.value)
    assert said(hostile, "said = 'still here'") == "still here"


# -- processes that are killed


def worker_of(parser: SandboxedParser) -> psutil.Process:
    parser.start()
    assert parser._worker is not None
    return psutil.Process(parser._worker._process.pid)


def busy(worker: psutil.Process) -> psutil.Process | None:
    """Return the child that has worked for longer than a child does before it waits for a document."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return next((child for child in worker.children() if child.cpu_times().user > 0.2), None)
    return None


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def while_parsing(parser: SandboxedParser, kill: Callable[[psutil.Process], None]) -> Future[ParsedDocument]:
    """Start a slow parse, call ``kill`` on the worker in the middle, and return the outcome."""
    worker = worker_of(parser)
    rows = b"\n".join(b"%d,%s" % (n, b"cell," * 20) for n in range(20_000))
    with ThreadPoolExecutor(1) as threads:
        outcome = threads.submit(parser.parse_now, rows, "slow.csv")
        eventually(lambda: busy(worker) is not None)
        kill(worker)
    return outcome


def kill_busy(worker: psutil.Process) -> None:
    child = busy(worker)
    assert child is not None
    child.kill()


def test_a_document_whose_process_was_killed_once_is_parsed_again() -> None:
    parser = SandboxedParser()
    outcome = while_parsing(parser, kill_busy)
    assert len(outcome.result().blocks) == 20_000
    parser.close()


def test_the_next_document_is_parsed_after_the_worker_was_killed() -> None:
    parser = SandboxedParser()
    outcome = while_parsing(parser, lambda worker: worker.kill())
    assert len(outcome.result().blocks) == 20_000
    assert parser.parse_now(GOOD, "good.md").title == "Good"
    parser.close()


def test_no_process_outlives_its_parser() -> None:
    parser = SandboxedParser()
    worker = worker_of(parser)
    parser.parse_now(GOOD, "good.md")
    waiting = worker.children()
    parser.close()
    assert not worker.is_running()
    eventually(lambda: not any(child.is_running() for child in waiting))
    with pytest.raises((Unavailable, RuntimeError)):
        parser.parse_now(GOOD, "good.md")


def test_no_process_outlives_a_killed_parent() -> None:
    program = (
        "from rag.ingest.parsing import SandboxedParser\np = SandboxedParser(); p.start(); print(p._worker._process.pid, flush=True)\n"
        "p.parse_now(b'\\n'.join(b'%d,' % n + b'cell,' * 20 for n in range(400_000)), 'slow.csv')"
    )
    root = Path(sys.modules["rag"].__file__ or "").parents[1]
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    worker = psutil.Process(int(parent.stdout.readline()))
    eventually(lambda: busy(worker) is not None)
    children = worker.children()
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    eventually(lambda: not any(process.is_running() for process in (worker, *children)))


# -- processes that wait


def test_each_process_reads_one_document_and_another_one_takes_its_place(hostile: SandboxedParser) -> None:
    worker, seen = worker_of(hostile), set()
    for _ in range(6):
        pid = said(hostile, "import os; said = 'pid ' + str(os.getpid())")
        assert pid not in seen
        seen.add(pid)
    eventually(lambda: len(worker.children()) == hostile._spares)


def test_a_document_leaves_nothing_to_the_next_one(hostile: SandboxedParser) -> None:
    look = "import sys; said = 'mark ' + str(getattr(sys, 'mark', None))"
    for _ in range(hostile._spares + 1):
        assert said(hostile, f"import sys, rag.errors; {look}; sys.mark = 1; rag.errors.Rejected = None") == "mark None"


# -- processes that several documents share


def pid_of_reader(parser: SandboxedParser, compartment: str) -> str:
    return parser.parse_now(b"import os; said = 'pid ' + str(os.getpid())", "program", compartment=compartment).text


def test_documents_of_one_compartment_share_a_process_and_others_do_not(hostile: SandboxedParser) -> None:
    staff = {pid_of_reader(hostile, "staff") for _ in range(5)}
    hr = {pid_of_reader(hostile, "hr") for _ in range(5)}
    alone = {said(hostile, "import os; said = 'pid ' + str(os.getpid())") for _ in range(3)}
    assert (len(staff), len(hr), len(alone)) == (1, 1, 3)
    assert len(staff | hr | alone) == 5


def test_a_shared_process_ends_after_so_many_documents(
    hostile: SandboxedParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_module, "_SHARED_DOCUMENTS", 3)
    pids = [pid_of_reader(hostile, "few") for _ in range(6)]
    assert len(set(pids[:3])) == len(set(pids[3:])) == 1
    assert pids[0] != pids[3]


def test_a_shared_process_does_not_wait_for_long(hostile: SandboxedParser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "_IDLE_SECONDS", 0.05)
    reader = psutil.Process(int(pid_of_reader(hostile, "idle").split()[1]))
    eventually(lambda: not reader.is_running())
    eventually(lambda: not hostile._worker._idle)


def test_no_more_shared_processes_wait_than_there_are_workers(hostile: SandboxedParser) -> None:
    for number in range(2 * hostile._spares):
        pid_of_reader(hostile, f"many {number}")
    assert hostile._worker is not None
    assert [idle.compartment for idle in hostile._worker._idle] == [
        f"many {number}" for number in range(hostile._spares, 2 * hostile._spares)
    ]


@pytest.mark.parametrize(
    "harm",
    [
        "import rag.errors, sys; rag.errors.Rejected = None; sys.modules['json'].dumps = None",
        "import builtins; builtins.compile = None",
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1, 1))",
        "import signal; signal.setitimer(signal.ITIMER_REAL, 0.01)  # SIGALRM, while it waits for the next one",
        "import os; os.close(3); os.close(4); os.close(5); os.close(6); os.close(7); os.close(8)",
    ],
    ids=["modules", "builtins", "memory", "alarm", "descriptors"],
)
def test_harm_to_a_shared_process_refuses_no_document(hostile: SandboxedParser, harm: str) -> None:
    """The document after a harmful one is parsed in a process of its own, when the shared one cannot read it."""
    with contextlib.suppress(Rejected):
        hostile.parse_now(f"{harm}\nsaid = 'done'".encode(), "harm", compartment=f"harmed {harm}")
    for _ in range(2):
        assert hostile.parse_now(b"said = 'still here'", "program", compartment=f"harmed {harm}").text == "still here"


def test_a_document_that_fails_in_a_shared_process_gets_the_error_of_a_process_of_its_own(
    hostile: SandboxedParser,
) -> None:
    before = pid_of_reader(hostile, "failing")
    for program, expected in (("while True: pass", "timeout"), ("import os; os._exit(1)", "crashed"), ("=", "invalid")):
        with pytest.raises(Rejected) as caught:
            hostile.parse_now(program.encode(), "program", compartment="failing")
        assert caught.value.reason == expected
    assert pid_of_reader(hostile, "failing") != before


@pytest.mark.parametrize("kind", ["pdf", "docx", "html"])
def test_formats_that_native_code_reads_never_share_a_process(
    sandbox: SandboxedParser, make: SimpleNamespace, kind: str
) -> None:
    sandbox.parse_now(GOOD, "good.md", compartment="before")
    assert sandbox._worker is not None
    waiting = [idle.child.pid for idle in sandbox._worker._idle]
    html = b"<p>A part of a page, without its head, but with some words.</p>"
    pdf = make.pdf(lambda canvas: canvas.drawString(100, 700, "Text of a page"))
    content = {"pdf": pdf, "docx": make.docx(lambda document: document.add_paragraph("Text")), "html": html}[kind]
    assert sandbox.parse_now(content, f"file.{kind}", compartment="before").text
    assert [idle.child.pid for idle in sandbox._worker._idle] in (waiting, [])


def test_processes_that_were_killed_while_they_waited_fail_no_document() -> None:
    parser = SandboxedParser()
    worker = worker_of(parser)
    assert parser._worker is not None
    for waiting in parser._worker._waiting:
        child = waiting.result()
        assert select.select([child._connection], [], [], 20)[0]  # it has reported that it is isolated
        os.kill(child.pid, signal.SIGKILL)
        eventually(lambda pid=child.pid: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)  # type: ignore[misc]
    assert parser.parse_now(GOOD, "good.md").title == "Good"
    assert worker.is_running()
    parser.close()


def test_more_documents_at_a_time_than_processes_wait_are_all_parsed() -> None:
    parser = SandboxedParser(workers=1)
    with ThreadPoolExecutor(5) as threads:
        parsed = list(threads.map(lambda n: parser.parse_now(GOOD, f"{n}.md"), range(10)))
    assert [document.title for document in parsed] == ["Good"] * 10
    worker = worker_of(parser)
    eventually(lambda: len(worker.children()) == 1)
    parser.close()


@pytest.mark.skipif(not landlock_version(), reason="this kernel has no Landlock")
@pytest.mark.parametrize(
    ("layer", "broken"),
    [
        (
            "landlock",
            "isolation.refuse_files = lambda readable, real=isolation.refuse_files: real(['/no/such/directory'])",
        ),
        (
            "seccomp",
            "real = isolation._program; isolation._program = lambda *a: real(*a) if len(a) == 2 else b'\\0' * 8",
        ),
    ],
)
def test_nothing_is_parsed_when_a_process_cannot_apply_a_layer(
    layer: str, broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"from rag.ingest.parsing import isolation\n{broken}\n")
    monkeypatch.setattr(sandbox_module, "_PATHS", [str(tmp_path), *sandbox_module._PATHS])
    parser = SandboxedParser()
    for parse_or_start in (lambda: parser.parse_now(GOOD, "good.md"), parser.start):
        with pytest.raises(Unavailable, match=f"could not apply {layer}, which this machine supports: check"):
            parse_or_start()
    parser.close()


# -- loops and threads


def test_one_parser_serves_loop_after_loop() -> None:
    parser = SandboxedParser(workers=2)

    async def several() -> list[ParsedDocument]:
        return await asyncio.gather(*(parser.parse(GOOD, name=f"{n}.md") for n in range(8)))

    for _ in range(3):
        assert [p.title for p in asyncio.run(several())] == ["Good"] * 8
    parser.close()


async def test_a_loop_is_not_blocked_by_a_parse(sandbox: SandboxedParser) -> None:
    ticks = 0
    rows = b"\n".join(b"%d,%s" % (n, b"cell," * 20) for n in range(5_000))
    parse_slowly = asyncio.ensure_future(sandbox.parse(rows, name="slow.csv"))
    while not parse_slowly.done():
        await asyncio.sleep(0)
        ticks += 1
    assert len((await parse_slowly).blocks) == 5_000
    assert ticks > 10


# -- the wire format


def test_documents_pass_the_socket_and_invalid_bytes_do_not() -> None:
    blocks = (Block(BlockKind.HEADING, 0, 1), Block(BlockKind.ROW, 3, 4, ("a",), 2, "h"))
    document = ParsedDocument("a\n\nb", blocks, "t", None, "text/plain", 3)
    assert wire.load(wire.dump(document)) == document
    good = wire.dump(document).decode()
    for bad in (
        "null",
        "[]",
        good.replace("[0, 0, 1,", "[0, 0, 9,"),
        good.replace("[0, 0, 1,", "[0, -4, 1,"),
        good.replace('"t"', "7"),
    ):
        assert bad != good
        with pytest.raises(ValueError, match="not a parsed document"):
            wire.load(bad.encode())
