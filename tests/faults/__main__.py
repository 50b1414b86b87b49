"""``python -m tests.faults --schedules 1000 --seed 7``: run schedules, and print the shrunk schedule of a failure."""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback

import structlog

from tests.faults.schedules import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--schedules", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20, help="the largest number of steps of a schedule")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    started = time.monotonic()
    try:
        run(arguments.schedules, arguments.seed, steps=arguments.steps)
    except Exception as error:
        traceback.print_exception(error)
        print(f"\nseed {arguments.seed} failed: the shrunk schedule is above")
        return 1
    seconds = time.monotonic() - started
    print(
        f"{arguments.schedules} schedules of seed {arguments.seed}: no failure, {arguments.schedules / seconds:.0f}/s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
