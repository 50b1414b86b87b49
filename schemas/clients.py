"""How clients reach Kafka and the schema registry beyond their addresses: one file of ``key=value`` lines, so that secrets are mounted.

The keys are librdkafka's (``security.protocol=SASL_SSL``, ``sasl.mechanism``, ``sasl.username``, ``ssl.ca.location``); those that begin
with ``schema.registry.`` are of Confluent's registry client (``schema.registry.basic.auth.user.info=name:secret``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_REGISTRY = "schema.registry."


@dataclass(frozen=True, slots=True)
class ClientOptions:
    kafka: Mapping[str, str] = field(default_factory=dict, repr=False)
    registry: Mapping[str, str | int] = field(default_factory=dict, repr=False)


def client_options(path: Path | None) -> ClientOptions:
    """Of the file, none of none. Raises ValueError for a file that cannot be read, or has a line that is no pair."""
    try:
        found = pairs(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"client configuration {path} cannot be read ({type(error).__name__}): mount it") from error
    registry = {name.removeprefix(_REGISTRY): value for name, value in found.items() if name.startswith(_REGISTRY)}
    return ClientOptions(
        {name: value for name, value in found.items() if not name.startswith(_REGISTRY)},
        {name: int(value) if value.isdecimal() else value for name, value in registry.items()},
    )


def pairs(path: Path | None) -> Mapping[str, str]:
    """KEY=value lines; blank ones and comments are skipped. Raises ValueError, with the line's number alone: it may hold a secret."""
    found = {}
    for number, line in enumerate(path.read_text().splitlines() if path else (), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"line {number} of {path} is not KEY=value")
        found[name.strip()] = value.strip()
    return found
