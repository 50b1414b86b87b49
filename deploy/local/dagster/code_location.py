"""A Dagster code location whose runs start warm: ``python -m deploy.local.dagster.code_location MODULE ARGUMENTS OF dagster api grpc``.

Dagster spawns an interpreter for every run, and each interpreter imports the same modules for seconds. Here runs are forked from a
process that has imported the definitions and does nothing else. That process has no thread, lock or connection that a fork could break.
A deployment whose runs are pods does not use this module.
"""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.context import BaseContext

from dagster._cli import main as dagster


def main() -> None:
    module, *arguments = sys.argv[1:]
    contexts = multiprocessing.get_context
    multiprocessing.set_forkserver_preload([module])

    def warm(method: str | None = None) -> BaseContext:
        return contexts("forkserver" if method == "spawn" else method)

    # Dagster's code server names its start method and has no setting for it. Everything else of the run stays as it is.
    multiprocessing.get_context = warm  # type: ignore[assignment]
    sys.argv = ["dagster", "api", "grpc", "-m", module, *arguments]
    dagster()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
