"""Options of the Kafka and schema registry clients, from a file of ``key=value`` lines, so that secrets can be mounted.

The keys are librdkafka's (``security.protocol=SASL_SSL``, ``sasl.mechanism``, ``sasl.username``, ``ssl.ca.location``). Keys that
begin with ``schema.registry.`` are for Confluent's registry client (``schema.registry.basic.auth.user.info=name:secret``).
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
    """Read the options of the file, or none without a file. Raises ValueError for an unreadable file or a malformed line."""
    try:
        options = read_pairs(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"client configuration {path} cannot be read ({type(error).__name__}): mount it") from error
    registry = {name.removeprefix(_REGISTRY): value for name, value in options.items() if name.startswith(_REGISTRY)}
    return ClientOptions(
        {name: value for name, value in options.items() if not name.startswith(_REGISTRY)},
        {name: int(value) if value.isdecimal() else value for name, value in registry.items()},
    )


def read_pairs(path: Path | None) -> Mapping[str, str]:
    """Read KEY=value lines, without blank lines and comments.

    Raises ValueError for another line. The message has the line's number and not its text, which may contain a secret.
    """
    pairs = {}
    for number, line in enumerate(path.read_text().splitlines() if path else (), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"line {number} of {path} is not KEY=value")
        pairs[name.strip()] = value.strip()
    return pairs
