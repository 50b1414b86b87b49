"""python -m schemas generate | docs | check | release | register"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from schemas import compatibility, contracts, documentation, generation
from schemas.clients import client_options, read_pairs
from schemas.topics import DOCUMENT_PARTITIONS, TOPICS, topics

ROOT = Path(__file__).parent.parent
EVENTS = Path(__file__).parent / "events.py"
DOCS = ROOT / "docs" / "topics.md"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m schemas", description="The contracts of the topics.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("generate", help="write schemas/events.py from the schemas")
    commands.add_parser("docs", help="write docs/topics.md from the table and the schemas")
    check = commands.add_parser("check", help="fail if a schema is incompatible, undocumented or out of date")
    release = commands.add_parser("release", help="record changed schemas as their next released version")
    for command in (check, release):
        command.add_argument("--avro", type=Path, default=contracts.FOLDER, help="folder of the schemas")
    register = commands.add_parser("register", help="create topics and register schemas; can be repeated at any time")
    register.add_argument("--bootstrap", help="brokers as host:port, comma-separated")
    register.add_argument("--registry", help="URL of the schema registry")
    register.add_argument("--env-file", type=Path, help="KEY=value lines with KAFKA_BOOTSTRAP and SCHEMA_REGISTRY_URL")
    register.add_argument(
        "--partitions", type=int, help=f"partitions of topics keyed by document (default {DOCUMENT_PARTITIONS})"
    )
    register.add_argument(
        "--replication", type=int, default=-1, help="replicas of new topics (default: the brokers' setting)"
    )
    register.add_argument(
        "--client-config",
        type=Path,
        help="key=value lines for librdkafka; keys schema.registry.* are for the registry's client",
    )
    options = parser.parse_args(arguments)
    match options.command:
        case "generate":
            EVENTS.write_text(_events())
        case "docs":
            DOCS.parent.mkdir(exist_ok=True)
            DOCS.write_text(_docs())
        case "check":
            return _report(list(_problems(options.avro)))
        case "release":
            return _release(options.avro)
        case "register":
            return _register(options, parser)
    return 0


def _problems(folder: Path) -> Iterator[str]:
    for topic in sorted(set(contracts.topics(folder)) ^ set(TOPICS)):
        yield f"{topic} must have both a row in schemas/topics.py and a schema in {folder}"
    for topic in contracts.topics(folder):
        schema, released = contracts.current(topic, folder), contracts.released(topic, folder)
        undocumented = [field["name"] for field in schema["fields"] if not field.get("doc")]
        yield from (f"{topic}: field {name!r} has no doc" for name in undocumented)
        incompatible = compatibility.problems(topic, schema, released)
        yield from incompatible
        if not incompatible and (not released or list(released.values())[-1] != schema):
            yield f"{topic}: changed since its last release: run `python -m schemas release` and commit the new files"
    if folder == contracts.FOLDER:
        yield from _out_of_date()


def _out_of_date() -> Iterator[str]:
    try:
        generated = _events()
    except ValueError as error:
        yield str(error)
    else:
        if EVENTS.read_text() != generated:
            yield "schemas/events.py is out of date: run `python -m schemas generate`"
    if not DOCS.exists() or DOCS.read_text() != _docs():
        yield "docs/topics.md is out of date: run `python -m schemas docs`"


def _release(folder: Path) -> int:
    incompatible = [
        problem
        for topic in contracts.topics(folder)
        for problem in compatibility.problems(
            topic, contracts.current(topic, folder), contracts.released(topic, folder)
        )
    ]
    if incompatible:
        return _report(incompatible)
    for topic in contracts.topics(folder):
        if number := contracts.release(topic, folder):
            print(f"{topic}: release {number}")
    return 0


def _register(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from confluent_kafka.admin import AdminClient

    from schemas.codec import RegistryUnavailable
    from schemas.registration import CannotRegister, register_schemas, register_topics
    from schemas.registry import ConfluentRegistry, IncompatibleSchema

    try:
        env, client = read_pairs(options.env_file), client_options(options.client_config)
    except (OSError, ValueError) as error:
        return _report([str(error)])
    bootstrap = options.bootstrap or env.get("KAFKA_BOOTSTRAP")
    url = options.registry or env.get("SCHEMA_REGISTRY_URL")
    if not bootstrap or not url:
        parser.error(
            "register needs --bootstrap and --registry, or --env-file with KAFKA_BOOTSTRAP and SCHEMA_REGISTRY_URL"
        )
    table = topics(options.partitions or int(env.get("KAFKA_PARTITIONS", DOCUMENT_PARTITIONS))).values()
    try:
        register_topics(
            AdminClient({"log_level": 2, **client.kafka, "bootstrap.servers": bootstrap}),
            table,
            print,
            replication=options.replication,
        )
        register_schemas(ConfluentRegistry(url, client.registry), table, print)
    except (CannotRegister, RegistryUnavailable, IncompatibleSchema) as error:
        return _report([str(error)])
    return 0


def _events() -> str:
    return generation.generate(contracts.current(topic) for topic in contracts.topics())


def _docs() -> str:
    return documentation.document(TOPICS.values(), {topic: contracts.current(topic) for topic in TOPICS})


def _report(problems: list[str]) -> int:
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
