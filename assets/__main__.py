"""``python -m assets rebuild``: write a lost collection again, from the artifacts of the ledger's documents and without an embedding.

``python -m assets prepare``: create the index when it is missing, because a gateway with a read-only key cannot.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from assets.batches import lane
from rag.errors import TidemarkError
from rag.ingest.repair import rebuild
from rag.settings import Settings, load
from rag.telemetry import configure
from rag.wiring import services


async def _rebuild(settings: Settings) -> None:
    async with services(settings) as opened:
        repairs = await rebuild(lane(opened), opened.ledger, report=print)
    print(f"rebuilt: {repairs.documents} documents were written again")


async def _prepare(settings: Settings) -> None:
    async with services(settings) as opened:
        await opened.pipeline.prepare()
    print(f"index {opened.spec.index_id} is ready")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m assets", description="Maintenance of the index.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "rebuild", help="write the points of a lost collection again, from the artifacts of the ledger's documents"
    )
    commands.add_parser("prepare", help="create the index when it is missing")
    command = parser.parse_args().command
    settings = load()
    configure(command, level=settings.log_level)
    try:
        asyncio.run(_prepare(settings) if command == "prepare" else _rebuild(settings))
    except TidemarkError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
