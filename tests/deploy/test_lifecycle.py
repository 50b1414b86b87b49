from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from deploy.local import lifecycle, process_tree
from deploy.local.errors import StackError
from deploy.local.lifecycle import exclusive
from deploy.local.processes import Process
from deploy.local.stack import open_stack


def test_each_part_comes_after_the_parts_that_it_needs() -> None:
    done: list[str] = []
    lifecycle._walk(
        {"gateway": ("topics", "redis"), "topics": ("kafka",), "kafka": (), "redis": ()},
        lambda name, _: done.append(name),
    )
    assert sorted(done) == ["gateway", "kafka", "redis", "topics"]
    assert done.index("kafka") < done.index("topics") < done.index("gateway")
    assert done.index("redis") < done.index("gateway")


def test_what_needs_nothing_of_each_other_is_started_at_once() -> None:
    together = threading.Barrier(3, timeout=5)

    def act(name: str, _: threading.Event) -> None:
        together.wait()

    lifecycle._walk({"a": (), "b": (), "c": ()}, act)


def test_a_failure_stops_the_parts_that_need_the_failed_one_and_no_others() -> None:
    done: list[str] = []

    def act(name: str, _: threading.Event) -> None:
        if name in ("kafka", "s3"):
            raise StackError(f"{name} is broken")
        done.append(name)

    with pytest.raises(StackError, match=r"(?s)kafka is broken.*s3 is broken|s3 is broken.*kafka is broken"):
        lifecycle._walk({"kafka": (), "topics": ("kafka",), "s3": (), "redis": (), "databases": ("redis",)}, act)
    assert sorted(done) == ["databases", "redis"]


def test_a_taken_port_is_named_with_its_setting_and_its_holder(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        stack = open_stack(tmp_path, environ={"TIDEMARK_PORT_KAFKA": str(port)})
        kafka = Process("kafka", (), lambda _: True, ports=("kafka", "kafka_controller"))
        with pytest.raises(StackError, match=rf"port {port} \(kafka\) is taken by .*TIDEMARK_PORT_KAFKA.*--free-ports"):
            lifecycle._refuse_taken_ports(stack, [kafka])


@pytest.mark.heavy
def test_an_up_that_is_refused_for_a_taken_port_leaves_no_process(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        environ = {"TIDEMARK_PORT_REDIS": str(listener.getsockname()[1])}
        stack = open_stack(tmp_path, free_ports=True, environ=environ)
        with pytest.raises(StackError, match="TIDEMARK_PORT_REDIS"):
            lifecycle.up(stack, lifecycle.choose(stack, ["redis"]), lambda *_: None)
    assert process_tree.processes_of(tmp_path) == []
    assert (tmp_path / "logs" / "supervisor.out").exists()  # the supervisor did run


def test_a_later_up_does_not_make_a_lost_inbox_anew(tmp_path: Path) -> None:
    lifecycle.create_folders(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"logs", "artifacts", "inbox"}
    (tmp_path / "inbox").rmdir()
    (tmp_path / "artifacts").rmdir()
    lifecycle.create_folders(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"logs", "artifacts"}


def test_two_ups_of_one_folder_exclude_each_other(tmp_path: Path) -> None:
    with exclusive(tmp_path), pytest.raises(StackError, match="another up or down"), exclusive(tmp_path):
        pass
    with exclusive(tmp_path):
        pass
