"""Every process of the stack is killed, and stopped for seconds, while documents change: no search is wrong, and all changes arrive.

At the end the index is compared with a clean build.
"""

from __future__ import annotations

import asyncio
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import boto3
import httpx
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from deploy.local.processes import STREAM
from deploy.local.stack import ROOT, read_stack
from deploy.local.supervision import Supervisor
from tests.live.clean_build import repair, require_clean_build
from tests.live.world import World, eventually

SEED = 8
DOCUMENTS = 12
STOPPED_SECONDS = 5.0  # of a stopped process: longer than a request waits before it is sent again
EDITS = 15  # before the fault is over
READER = {"contractors": "bob", "staff": "alice"}  # group → a member of it alone
SHOWN = re.compile(r"Beacon (\d+) has revision (\d+) for (\w+)\.")
SERVERS = ("kafka", "qdrant", "postgres", "redis", "registry", "s3", "gateway", "consumers", STREAM)


@dataclass(frozen=True)
class State:
    """A document as its source has it. ``group`` is empty when it is deleted."""

    revision: int
    group: str

    def text(self, number: int) -> str:
        return f"# Beacon {number}\n\nBeacon {number} has revision {self.revision} for {self.group}.\n"


@dataclass
class Story:
    """The documents, who changes them, and what the readers must see. Only settled documents have a right answer at every moment."""

    world: World
    random: random.Random
    wanted: dict[int, State] = field(default_factory=dict)
    settled: dict[int, State] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    answers: int = 0

    def edit(self, *, delete: bool = False) -> None:
        """Change or delete one document, and return when its store has acknowledged that."""
        number = self.random.randrange(DOCUMENTS)
        revision = self.wanted[number].revision + 1 if number in self.wanted else 1
        group = "" if delete else self.random.choice(("staff", "staff", "contractors"))
        self.settled.pop(number, None)
        self.wanted[number] = State(revision, group)
        _until_acknowledged(self.world, number, self.wanted[number])

    def read(self) -> None:
        """Search as everyone, and note what is wrong. A gateway that cannot answer says so."""
        for group, user in READER.items():
            before = dict(self.settled)
            with suppress(httpx.HTTPError):
                response = self.world.call("POST", "/v1/search", user, json={"query": "beacon revision", "top_k": 50})
                if response.status_code == 200:
                    self.answers += 1
                    self._check(group, response.json()["hits"], before)
                elif response.status_code not in {429, 500, 502, 503, 504}:
                    self.wrong.append(f"the gateway answered {response.status_code}: {response.text[:200]}")

    def _check(self, group: str, hits: list[dict[str, str]], before: Mapping[int, State]) -> None:
        shown = [(int(n), State(int(r), g)) for hit in hits for n, r, g in SHOWN.findall(hit["text"])]
        for number, state in shown:
            if state.group != group:
                self.wrong.append(f"{READER[group]} sees beacon {number} as it is for {state.group!r}")
            if sum(other == number for other, _ in shown) > 1:
                self.wrong.append(f"beacon {number} is shown in several revisions")
        for number, state in before.items():
            if self.settled.get(number) != state:
                continue  # it was changed meanwhile
            expected = [state] if state.group == group else []
            if [each for other, each in shown if other == number] != expected:
                self.wrong.append(f"{READER[group]} sees beacon {number} as {shown}, settled is {state}")

    def arrived(self) -> dict[str, list[State]]:
        """Return group → what its member finds now."""
        found = {}
        for group, user in READER.items():
            hits = self.world.search("beacon revision", user, top_k=50)
            shown = {int(n): State(int(r), g) for hit in hits for n, r, g in SHOWN.findall(hit["text"])}
            found[group] = [shown[number] for number in sorted(shown)]
        return found

    def due(self) -> dict[str, list[State]]:
        return {g: [s for _, s in sorted(self.wanted.items()) if s.group == g] for g in READER}

    def settle(self, why: str) -> None:
        eventually(lambda: _or_empty(self.arrived), lambda seen: seen == self.due(), f"all changes are found {why}")
        self.settled = dict(self.wanted)


def _or_empty(look: Callable[[], dict[str, list[State]]]) -> dict[str, list[State]]:
    with suppress(httpx.HTTPError, AssertionError):
        return look()
    return {}


def _until_acknowledged(world: World, number: int, state: State) -> None:
    """Write until the store says that it has the state: a request without an answer may have been executed, or not."""
    s3 = _impatient(world)
    where = {"Bucket": world.env["S3_BUCKET"], "Key": f"beacons/{number}.md"}
    deadline = time.monotonic() + 120
    while True:
        try:
            if state.group:
                s3.put_object(
                    **where, Body=state.text(number).encode(), Metadata={"principals": f"group:{state.group}"}
                )
            else:
                s3.delete_object(**where)
            return
        except (BotoCoreError, ClientError):
            assert time.monotonic() < deadline, "the object store has not come back"
            time.sleep(0.2)


def _impatient(world: World) -> Any:
    env = world.env
    return boto3.client(
        "s3", endpoint_url=env["S3_ENDPOINT_URL"], region_name=env["AWS_REGION"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"], aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        config=Config(connect_timeout=2, read_timeout=2, retries={"total_max_attempts": 1}),
    )  # fmt: skip


@pytest.fixture(scope="module")
def supervisor(stack: Mapping[str, str]) -> Iterator[Supervisor]:
    """The supervisor of the stack, with the stream lane started for this module."""
    local = read_stack(World(stack).inbox.parent)
    assert local is not None
    command = [sys.executable, "-m", "deploy.local", "up", "--dir", str(local.folder), "--lane"]
    subprocess.run([*command, "stream"], cwd=ROOT, check=True, capture_output=True, timeout=300)
    yield Supervisor(local)
    subprocess.run([*command, "dagster"], cwd=ROOT, check=True, capture_output=True, timeout=300)


@pytest.fixture(scope="module")
def story(stack: Mapping[str, str], supervisor: Supervisor) -> Story:
    story = Story(World(stack), random.Random(SEED))
    for user in READER.values():
        story.world.token(user)
    for number in range(DOCUMENTS):
        story.wanted[number] = State(1, "staff")
        _until_acknowledged(story.world, number, story.wanted[number])
    story.settle("at the start")
    return story


@contextmanager
def readers(story: Story) -> Iterator[None]:
    """Search without a pause for the time of the block."""
    end = threading.Event()

    def work() -> None:
        while not end.is_set():
            story.read()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def kill(supervisor: Supervisor, name: str) -> None:
    """Kill the process; the supervisor starts it again."""
    psutil.Process(supervisor.states()[name].pid).kill()


def stop(supervisor: Supervisor, name: str) -> None:
    """Stop the process and its children for a while, as a machine that hangs."""
    parent = psutil.Process(supervisor.states()[name].pid)
    family = [parent, *parent.children(recursive=True)]
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGSTOP)
    try:
        time.sleep(STOPPED_SECONDS)
    finally:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("fault", [kill, stop])
def test_a_fault_of_one_process_loses_no_change_and_shows_nothing_wrong(
    story: Story, supervisor: Supervisor, fault: Callable[[Supervisor, str], None], name: str
) -> None:
    with readers(story):
        thread = threading.Thread(target=fault, args=(supervisor, name))
        for number in range(EDITS):
            # More deletions in one hour would look like an accident, and wait for a confirmation.
            story.edit(delete=fault is kill and number == 2 * EDITS // 3)
            if number == EDITS // 3:
                thread.start()
        thread.join()
        story.settle(f"after {fault.__name__} of {name}")
    assert story.wrong == []
    assert story.answers


def test_the_daemon_is_killed_while_the_dagster_lane_works(story: Story, supervisor: Supervisor) -> None:
    supervisor.stop(STREAM)
    try:
        story.edit()
        kill(supervisor, "daemon")
        for _ in range(EDITS):
            story.edit()
        story.settle("after the daemon was killed")
        stop(supervisor, "daemon")
        story.edit()
        story.settle("after the daemon was stopped")
    finally:
        supervisor.start(STREAM)
    assert story.wrong == []


def test_the_index_is_that_of_a_clean_build(story: Story) -> None:
    folder = story.world.inbox.parent
    done = asyncio.run(repair(folder))
    assert done.documents == 0, f"documents had lost points or artifacts: {done}"
    asyncio.run(require_clean_build(folder))
