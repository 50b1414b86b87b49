"""Qdrant's REST API over the Qdrant engine in this process (`qdrant-edge-py`), for the local stack.

An unmodified `QdrantClient(url=...)` talks to it. It serves the part of the API that Tidemark uses. It refuses every other
part with a 400 that names it, because a condition that is dropped silently widens a delete or an access filter. Read in this order:
`app` (keys, limits and envelopes), `registry` (names and aliases), `collection` (one engine shard, one thread), and the modules that
turn JSON into engine values: `settings`, `filters`, `points`, `queries`.

One node holds the whole of a collection, whatever its shard number, so ranks of BM25 are those of one shard. A collection keeps and
shows its shard number and replication factor, as on a single node of Qdrant.

    QDRANT_API_KEY=... QDRANT_READ_ONLY_API_KEY=... python -m deploy.local.qdrant --port 16333 --data .stack/qdrant
"""
