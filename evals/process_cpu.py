"""The CPU and the memory of the processes of a stack, found by the ports on which they listen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil

from rag.settings import Settings

BENCH = "this bench"
OTHERS = "Dagster and others"
Cpu = Mapping[str, float]
"""Process → seconds of CPU."""


def processes(settings: Settings) -> dict[str, psutil.Process]:
    """Return the processes that listen on the addresses of the settings, by name."""
    ports = {
        settings.gateway_port: "gateway",
        settings.metrics_port: "consumers",
        settings.stream_metrics_port: "stream lane",
        urlsplit(settings.qdrant_url).port: "vector index",
        urlsplit(settings.database_url.get_secret_value()).port: "database",
        int(settings.kafka_bootstrap.rpartition(":")[2]): "Kafka",
        urlsplit(settings.s3_endpoint_url or "").port: "object store",
    }
    listening = {
        each.laddr[1]: each.pid
        for each in psutil.net_connections("tcp")
        if each.status == psutil.CONN_LISTEN and each.laddr and each.pid
    }
    return {name: psutil.Process(listening[port]) for port, name in ports.items() if port in listening}


def cpu(settings: Settings, own: Mapping[str, psutil.Process] | None = None) -> Cpu:
    """Return the CPU so far of each named process with its children, of this bench, and of all other processes of the stack.

    ``own`` names processes of the platform that the bench started itself.
    """
    found = processes(settings) | dict(own or {})
    seconds = {name: seconds_of(process) for name, process in found.items()}
    parents = {parent.pid: parent for each in found.values() if (parent := _parent(each))}
    supervisors = [each for each in parents.values() if each.pid != psutil.Process().pid]
    everything = sum(seconds_of(each) for each in supervisors)
    supervised = sum(seconds[name] for name, each in found.items() if _parent(each) in supervisors)
    return seconds | {OTHERS: max(0.0, everything - supervised), BENCH: time.process_time()}


def spent(before: Cpu, after: Cpu) -> dict[str, float]:
    """Return the CPU between two readings, of the processes that were there both times."""
    return {name: after[name] - before[name] for name in after if name in before}


def of_stack(cpu: Cpu) -> float:
    """Return the sum over the processes of the platform, without that of the bench."""
    return sum(seconds for name, seconds in cpu.items() if name != BENCH)


def shares(cpu: Cpu, scale: float = 1.0) -> str:
    """Return the processes with their scaled CPU, most first. Those below a hundredth of all are left out."""
    total = sum(cpu.values())
    shown = sorted(((seconds, name) for name, seconds in cpu.items() if seconds > total / 100), reverse=True)
    return ", ".join(f"{name} {scale * seconds:.1f}" for seconds, name in shown)


def seconds_of(process: psutil.Process) -> float:
    """Return the seconds of CPU of a process and of its children. Those of a child that has ended are its parent's."""
    try:
        times, children = process.cpu_times(), process.children()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system + times.children_user + times.children_system + sum(map(seconds_of, children))


@dataclass
class PeakMemory:
    """Bytes of resident memory of a process with its children: the most that was seen."""

    shared_once: int = 0  # pages that processes share count once (Linux: the proportional set size)
    tree: int = 0  # pages that processes share count for each of them
    alone: int = 0  # of the process without its children


@asynccontextmanager
async def peak_memory(process: psutil.Process, every: float = 0.25) -> AsyncIterator[PeakMemory]:
    """Watch the memory of the process and its children during the block."""
    peak = PeakMemory()

    async def watch() -> None:
        while True:
            own, children = _resident(process), _children(process)
            peak.alone = max(peak.alone, own)
            peak.tree = max(peak.tree, own + sum(map(_resident, children)))
            peak.shared_once = max(peak.shared_once, sum(map(_proportional, (process, *children))))
            await asyncio.sleep(every)

    watching = asyncio.create_task(watch())
    try:
        yield peak
    finally:
        watching.cancel()


def _parent(process: psutil.Process) -> psutil.Process | None:
    try:
        return process.parent()
    except psutil.NoSuchProcess:
        return None


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _proportional(process: psutil.Process) -> int:
    try:
        found = process.memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(found, "pss", found.rss))


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
