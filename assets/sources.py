"""The ends of the asset graph: sources, topics and erasures. Dagster does not make them, so they are external assets, which it observes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping

import dagster as dg

from assets.partitions import documents_partitions
from assets.resources import OpenServices
from rag.settings import Settings, SourceSettings
from schemas.topics import CHANGED, DEAD, INDEXED

Metadata = Mapping[str, int | str]

OBSERVE_SECONDS = 300  # between two observations of a source: as often as a source is listed

_ORIGINS = {
    "s3": "Objects of a bucket. The bucket's notifications arrive through an SQS queue, and a listing finds the missed ones.",
    "folder": "Files of a folder that is listed again and again.",
    "uploads": "Documents that callers uploaded through the gateway.",
}


def source_key(name: str) -> dg.AssetKey:
    return dg.AssetKey(["sources", name])


def table_key(source: str, table: str) -> dg.AssetKey:
    """Return the key of a warehouse table, which the code location ``snowflake_assets`` defines."""
    return dg.AssetKey([source, table.lower().replace(".", "__").replace("$", "_")])


def topic_key(topic: str) -> dg.AssetKey:
    return dg.AssetKey(["kafka", topic])


CHANGED_KEY = topic_key(CHANGED)


def source_specs(settings: Settings) -> list[dg.AssetSpec]:
    """Return an external asset for each source except the warehouses, whose tables are assets of their own location."""
    return [
        dg.AssetSpec(
            source_key(each.name),
            description=_ORIGINS.get(
                each.kind, f"Documents that the consumers collect from a source of kind {each.kind}."
            ),
            group_name="sources",
            kinds={"file" if each.kind == "folder" else "s3"},
            metadata={"uri": each.base_uri, "tenant": each.tenant, "principals": ", ".join(each.principals)},
        )
        for each in settings.configured_sources
        if each.kind != "snowflake"
    ]


def topic_specs(settings: Settings) -> list[dg.AssetSpec]:
    """Return the topic that feeds the index and the topics that report its changes."""
    origins = [key for each in settings.configured_sources for key in _origin_keys(each)]
    vector_index = dg.AssetKey("vector_index")
    return [
        _topic(
            CHANGED,
            "Change events of all sources. An event names an object and carries no content. Its key is the document id, so "
            "the events of one document are in order. Partition N of the topic is partition N of each asset of the index.",
            deps=origins,
            group="events",
            partitions_def=documents_partitions,
        ),
        _topic(
            INDEXED,
            "Documents that the index applied, with their revision. Caches and watchers follow them.",
            deps=[vector_index],
            group="outcomes",
        ),
        _topic(DEAD, "Documents that could not be indexed, with a reason code.", deps=[vector_index], group="outcomes"),
    ]


def erasures_spec() -> dg.AssetSpec:
    """Return the external asset of the erasures. Their worker in the consumers reports each change of an erasure's state."""
    return dg.AssetSpec(
        "erasures",
        deps=[dg.AssetKey("vector_index")],
        description="Documents and people that officers had erased. Each materialization is a step of one erasure on its way to the "
        "certificate. It names ids and counts; `tidemark erase status` shows the stores and the history.",
        group_name="outcomes",
        kinds={"postgres"},
    )


def _topic(
    name: str,
    description: str,
    *,
    deps: list[dg.AssetKey],
    group: str,
    partitions_def: dg.PartitionsDefinition | None = None,
) -> dg.AssetSpec:
    return dg.AssetSpec(
        topic_key(name),
        deps=deps,
        description=description,
        group_name=group,
        kinds={"kafka", "avro"},
        partitions_def=partitions_def,
    )


def _origin_keys(source: SourceSettings) -> Iterator[dg.AssetKey]:
    if source.kind == "snowflake":
        yield from (table_key(source.name, each.table) for each in source.tables)
    else:
        yield source_key(source.name)


@dg.sensor(
    minimum_interval_seconds=OBSERVE_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Counts the documents of each source in the index, by status, and starts no run.",
)
def observed_sources(context: dg.SensorEvaluationContext, tidemark: dg.ResourceParam[OpenServices]) -> dg.SensorResult:
    """Return an event for each source."""
    counts = asyncio.run(_documents_by_status(tidemark))
    events, cursor = changes_since(context.cursor, counts)
    return dg.SensorResult(asset_events=events, cursor=cursor)


async def _documents_by_status(tidemark: OpenServices) -> dict[dg.AssetKey, Metadata]:
    async with tidemark() as services:
        sources = [each for each in services.settings.configured_sources if each.kind != "snowflake"]
        index_id, counts = services.spec.index_id, services.ledger.counts
        return {source_key(each.name): await counts(index_id, each.tenant, each.name) for each in sources}


def changes_since(
    cursor: str | None, values: Mapping[dg.AssetKey, Metadata]
) -> tuple[list[dg.AssetMaterialization | dg.AssetObservation], str]:
    """Return an event for each external asset, and the next cursor.

    An asset whose values differ from the cursor's was updated by its owner, which is a materialization. Others are observed.
    """
    known = json.loads(cursor or "{}")
    current = {key.to_user_string(): dict(metadata) for key, metadata in values.items()}
    events: list[dg.AssetMaterialization | dg.AssetObservation] = []
    for key, metadata in values.items():
        is_known = known.get(key.to_user_string()) == dict(metadata)
        kind = dg.AssetObservation if is_known else dg.AssetMaterialization
        events.append(kind(key, metadata=dict(metadata)))
    return events, json.dumps(current)
