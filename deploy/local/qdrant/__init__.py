"""Qdrant's REST API over the Qdrant engine in this process (`qdrant-edge-py`), for the local stack.

An unmodified `QdrantClient(url=...)` talks to it. It serves what Tidemark uses and refuses the rest with a 400 that names it: a
condition that is dropped in silence widens a delete or an access filter. Read in this order: `app` (the door), `registry` (names
and aliases), `collection` (one engine shard, one thread), and what turns JSON into engine values: `settings`, `filters`, `points`,
`queries`.

    QDRANT_API_KEY=... python -m deploy.local.qdrant --port 16333 --data .stack/qdrant
"""
