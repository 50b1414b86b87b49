"""One local stack: its folder, its ports, its secrets, and the `env` file with the settings for clients."""

from __future__ import annotations

import os
import random
import secrets
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import StackError
from rag.files import write_whole

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"

# Below the kernel's range for outgoing connections (32768 and up), so that no client occupies one by accident.
PORTS = {
    "gateway": 18000,
    "gateway_metrics": 18001,
    "consumers": 18010,
    "stream": 18011,
    "issuer": 18020,
    "dagster": 18030,
    "assets": 18031,
    "snowflake_assets": 18032,
    "s3": 18050,
    "warehouse": 18060,
    "registry": 18081,
    "registry_management": 18082,
    "postgres": 15432,
    "redis": 16379,
    "qdrant": 16333,
    "kafka": 19092,
    "kafka_controller": 19093,
}
FREE_PORTS = range(20_000, 32_000)

DOCUMENTS = "tidemark-documents"
INTERNAL = "tidemark-internal"
AUDIENCE = "tidemark"
CLIENT = "demo"

SECRETS = (
    "OIDC_CLIENT_SECRET",
    "POSTGRES_PASSWORD",
    "REDIS_PASSWORD",
    "QDRANT_API_KEY",
    "QDRANT_READ_ONLY_API_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "SNOWFLAKE_PASSWORD",
    "IDENTITY_SECRET",
    "SIGNING_KEY",
)
SECRET_BYTES = 24
KEY_BYTES = {"SIGNING_KEY": 32}  # an Ed25519 key has no other length


@dataclass(frozen=True, slots=True)
class Stack:
    """The decisions before the first process starts. `folder` and `cache` are absolute."""

    folder: Path
    cache: Path
    ports: Mapping[str, int]
    secrets: Mapping[str, str]

    @property
    def env_file(self) -> Path:
        return self.folder / "env"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def url(self, port: str) -> str:
        return f"http://{HOST}:{self.ports[port]}"

    def postgres_url(self, database: str) -> str:
        return f"postgresql://tidemark:{self.secrets['POSTGRES_PASSWORD']}@{HOST}:{self.ports['postgres']}/{database}"


def open_stack(folder: Path, *, free_ports: bool = False, environ: Mapping[str, str] = os.environ) -> Stack:
    """Return the stack of this folder for an `up`. Secrets and ports are those of the last start, or are decided now and kept."""
    folder = folder.expanduser().resolve()
    _refuse_unquotable(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)  # of an older stack, whose files may be open to all
    stack = Stack(folder, cache_folder(environ), _decide_ports(folder, free_ports, environ), _secrets(folder / "env"))
    write_whole(folder / "ports", render({name: str(port) for name, port in stack.ports.items()}).encode())
    write_whole(stack.env_file, render(environment(stack)).encode())
    return stack


def read_stack(folder: Path, *, environ: Mapping[str, str] = os.environ) -> Stack | None:
    """Return the stack of this folder as its last `up` left it, or None if there was none."""
    folder = folder.expanduser().resolve()
    if not (folder / "env").exists():
        return None
    return Stack(folder, cache_folder(environ), {**PORTS, **_read_ports(folder / "ports")}, _secrets(folder / "env"))


def environment(stack: Stack) -> dict[str, str]:
    """Return the settings of a client of the stack, by the names of the project's settings."""
    secret = stack.secrets
    return {
        "TIDEMARK_ENVIRONMENT": "development",
        "GATEWAY_URL": stack.url("gateway"),
        "GATEWAY_PORT": str(stack.ports["gateway"]),
        "GATEWAY_METRICS_URL": f"{stack.url('gateway_metrics')}/metrics",
        "GATEWAY_METRICS_PORT": str(stack.ports["gateway_metrics"]),
        "METRICS_PORT": str(stack.ports["consumers"]),
        "STREAM_METRICS_PORT": str(stack.ports["stream"]),
        "DAGSTER_URL": stack.url("dagster"),
        "OIDC_ISSUER": stack.url("issuer"),
        "OIDC_AUDIENCE": AUDIENCE,
        "OIDC_CLIENT_ID": CLIENT,
        "OIDC_CLIENT_SECRET": secret["OIDC_CLIENT_SECRET"],
        "KAFKA_BOOTSTRAP": f"{HOST}:{stack.ports['kafka']}",
        "SCHEMA_REGISTRY_URL": f"{stack.url('registry')}/apis/ccompat/v7",
        "DATABASE_URL": stack.postgres_url("tidemark"),
        "POSTGRES_PASSWORD": secret["POSTGRES_PASSWORD"],
        "REDIS_URL": f"redis://:{secret['REDIS_PASSWORD']}@{HOST}:{stack.ports['redis']}/0",
        "REDIS_PASSWORD": secret["REDIS_PASSWORD"],
        "QDRANT_URL": stack.url("qdrant"),
        "QDRANT_API_KEY": secret["QDRANT_API_KEY"],
        "QDRANT_READ_ONLY_API_KEY": secret["QDRANT_READ_ONLY_API_KEY"],
        "S3_ENDPOINT_URL": stack.url("s3"),
        "S3_BUCKET": DOCUMENTS,
        "S3_QUEUE_URL": f"{stack.url('s3')}/123456789012/{DOCUMENTS}",
        "INTERNAL_BUCKET": INTERNAL,
        "AWS_ACCESS_KEY_ID": secret["AWS_ACCESS_KEY_ID"],
        "AWS_SECRET_ACCESS_KEY": secret["AWS_SECRET_ACCESS_KEY"],
        "AWS_REGION": "eu-central-1",
        "SNOWFLAKE_HOST": HOST,
        "SNOWFLAKE_PORT": str(stack.ports["warehouse"]),
        "SNOWFLAKE_PROTOCOL": "http",
        "SNOWFLAKE_ACCOUNT": "local",
        "SNOWFLAKE_USER": "tidemark",
        "SNOWFLAKE_PASSWORD": secret["SNOWFLAKE_PASSWORD"],
        "SNOWFLAKE_DATABASE": "TIDEMARK",
        "SNOWFLAKE_SCHEMA": "PUBLIC",
        "RATE_LIMIT": "6000",  # a minute, because one client plays all callers here
        "SNOWFLAKE_TABLES": "CUSTOMERS:ID:UPDATED_AT:NAME,TICKETS:ID:UPDATED_AT:SUBJECT",
        "INBOX_DIR": str(stack.folder / "inbox"),
        "ARTIFACTS_URL": (stack.folder / "artifacts").as_uri(),
        "MODELS_DIR": str(stack.cache / "models"),
        "DAGSTER_HOME": str(stack.folder / "dagster"),
        # Dagster works with psycopg2 only, and SQLAlchemy takes psycopg 3 by default.
        "DAGSTER_DATABASE_URL": stack.postgres_url("dagster").replace("postgresql:", "postgresql+psycopg2:"),
        "IDENTITY_SECRET": secret["IDENTITY_SECRET"],
        "SIGNING_KEY": secret["SIGNING_KEY"],
    }


def render(values: Mapping[str, str]) -> str:
    """Return plain KEY=value lines, for `set -a; . .stack/env` and for programs that read dotenv files. Raises StackError."""
    for key, value in values.items():
        if any(character in value for character in "\n\"'$`\\ #"):
            raise StackError(
                f"{key}={value!r} cannot be written to the env file; choose a --dir and a cache without such characters"
            )
    return "".join(f"{key}={value}\n" for key, value in values.items())


def parse(text: str) -> dict[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if line and not line.startswith("#"))
    return {key: value for key, _, value in pairs}


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do: TIME_WAIT is not taken
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def setting_of(port: str) -> str:
    return f"TIDEMARK_PORT_{port.upper()}"


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of downloads and built models, which all stacks of a user share."""
    return Path(environ.get("TIDEMARK_CACHE", ROOT / ".cache")).expanduser().absolute()


def _read_ports(path: Path) -> dict[str, int]:
    remembered = parse(path.read_text()) if path.exists() else {}
    return {name: int(port) for name, port in remembered.items() if name in PORTS}


def _decide_ports(folder: Path, free: bool, environ: Mapping[str, str]) -> dict[str, int]:
    """Return the port of each name: its setting, else a free one if those are wanted, else that of the last start, else the default.

    A free port stays the free port of its name in this folder.
    """
    ports = {**PORTS, **_read_ports(folder / "ports")}
    if free:
        remembered = _read_ports(folder / "free-ports")
        chosen = _choose_free(remembered.values())
        remembered |= {name: next(chosen) for name in PORTS if name not in remembered}
        write_whole(folder / "free-ports", render({name: str(port) for name, port in remembered.items()}).encode())
        ports |= remembered
    for name in PORTS:
        if given := environ.get(setting_of(name)):
            ports[name] = _port_number(setting_of(name), given)
    if len(set(ports.values())) < len(ports):
        twice = sorted(name for name, port in ports.items() if list(ports.values()).count(port) > 1)
        raise StackError(f"{', '.join(twice)} were given the same port; set {setting_of(twice[0])} to another one")
    return ports


def _port_number(setting: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65_536:
        raise StackError(f"{setting}={text!r} is not a port; give a number from 1 to 65535")
    return int(text)


def _choose_free(taken: Iterable[int]) -> Iterator[int]:
    used = set(taken) | set(PORTS.values())
    candidates = list(FREE_PORTS)
    random.SystemRandom().shuffle(candidates)
    return (port for port in candidates if port not in used and is_free(port))


def _secrets(env_file: Path) -> dict[str, str]:
    remembered = parse(env_file.read_text()) if env_file.exists() else {}
    fresh = {name: secrets.token_urlsafe(KEY_BYTES.get(name, SECRET_BYTES)) for name in SECRETS}
    return {name: remembered.get(name) or fresh[name] for name in SECRETS}


def _refuse_unquotable(folder: Path) -> None:
    if any(character in str(folder) for character in "\n\"'$`\\ #;%"):
        raise StackError(
            f"--dir {folder}: blanks, quotes and $ ` \\ # ; % do not pass through every tool; choose another folder"
        )
