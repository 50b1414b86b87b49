"""The kinds of sources. A new kind is one module with ``streams``, and one line in ``KINDS``. ``docs/sources.md`` shows one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from consumers import debezium, feeds, folder, postgres, s3, s3_kafka, snowflake, web
from consumers.runner import Stream
from rag.settings import SourceSettings
from rag.wiring import Services

Streams = Callable[[SourceSettings, Services], Mapping[str, Stream]]


def no_streams(chosen: SourceSettings, opened: Services) -> Mapping[str, Stream]:
    """Make no stream: the gateway announces uploads, and the reconciling listing finds the changes of the remote containers."""
    return {}


KINDS: Mapping[str, Streams] = {
    "azure": no_streams,
    "debezium": debezium.streams,
    "feed": feeds.streams,
    "folder": folder.streams,
    "gcs": no_streams,
    "postgres": postgres.streams,
    "s3": s3.streams,
    "s3_kafka": s3_kafka.streams,
    "snowflake": snowflake.streams,
    "uploads": no_streams,
    "web": web.streams,
}


def streams(chosen: SourceSettings, opened: Services) -> Mapping[str, Stream]:
    """Make the streams of a configured source by the names of their loops. Raises ValueError for a kind that is not known."""
    try:
        make = KINDS[chosen.kind]
    except KeyError:
        raise ValueError(
            f"source {chosen.name!r} is of the unknown kind {chosen.kind!r}: choose one of {', '.join(KINDS)} in SOURCES"
        ) from None
    return make(chosen, opened)
