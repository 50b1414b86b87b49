from __future__ import annotations

import logging
import os

import uvicorn

from deploy.local import local_server
from deploy.local.qdrant.app import Keys, application
from deploy.local.qdrant.registry import Registry

INDEX_FROM = 100_000  # points; scanning that many takes a few milliseconds, building their graph minutes


def main() -> None:
    parser = local_server.arguments("qdrant", "Qdrant's REST API over the Qdrant engine in this process.")
    parser.add_argument(
        "--index-from",
        type=int,
        default=INDEX_FROM,
        help="points from which HNSW is built at start (default %(default)s)",
    )
    options = parser.parse_args()
    keys = Keys(os.environ.get("QDRANT_API_KEY", ""), os.environ.get("QDRANT_READ_ONLY_API_KEY", ""))
    if not keys.write:
        raise SystemExit("QDRANT_API_KEY is not set: clients must send the key that it holds")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    place = local_server.place(options)
    registry = Registry(place.data, options.index_from)
    registry.load()
    uvicorn.run(application(registry, keys), host=place.host, port=place.port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
