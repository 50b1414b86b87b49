"""Optimize one closed shard and end: `python -m deploy.local.qdrant.optimize DIR`."""

from __future__ import annotations

import sys

import qdrant_edge as edge

if __name__ == "__main__":
    shard = edge.EdgeShard.load(sys.argv[1])
    shard.optimize()
    shard.flush()
    shard.close()
