"""Kafka and the schema registry from Maven, each file checked against `jars.lock` before it is used.

The lock names files and never hosts. The repositories are jgo's configuration, which is the place for a company's mirror.

    python -m deploy.local.jars fetch     download what is missing
    python -m deploy.local.jars lock      write the lock anew from the versions below
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from jgo.config import GlobalSettings
from jgo.maven import Artifact, MavenContext, PythonResolver

from deploy.local.errors import StackError
from deploy.local.stack import cache_folder

LOCK = Path(__file__).with_name("jars.lock")

KAFKA = "org.apache.kafka:kafka_2.13:4.3.1"
# Kafka logs nothing without a binding. This binding needs no configuration file and writes to stderr.
LOGGING = "org.slf4j:slf4j-simple:1.7.36"
REGISTRY = ("io.apicurio", "apicurio-registry-app", "3.3.3", "all", "tar.gz")

DOWNLOADS = 4  # at a time
TIMEOUT_SECONDS = 60  # without a byte

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Locked:
    """One file of a Maven repository and the only content that is accepted for it."""

    group: str
    artifact: str
    version: str
    sha256: str
    classifier: str = ""
    extension: str = "jar"

    @property
    def filename(self) -> str:
        classifier = f"-{self.classifier}" if self.classifier else ""
        return f"{self.artifact}-{self.version}{classifier}.{self.extension}"

    @property
    def line(self) -> str:
        tail = f":{self.classifier}:{self.extension}" if self.classifier else ""
        return f"{self.group}:{self.artifact}:{self.version}{tail} {self.sha256}"

    @classmethod
    def parse(cls, line: str) -> Locked:
        coordinate, _, sha256 = line.strip().partition(" ")
        parts = coordinate.split(":")
        if len(parts) not in (3, 5) or len(sha256) != 64:
            raise StackError(
                f"{LOCK.name}: cannot read {line.strip()!r}; expected group:artifact:version[:classifier:ext] sha256"
            )
        return cls(parts[0], parts[1], parts[2], sha256, *parts[3:])


def locked_files(lock: Path = LOCK) -> tuple[Locked, ...]:
    return tuple(Locked.parse(line) for line in lock.read_text().splitlines() if line.strip() and line[0] != "#")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path, sha256: str, aside: Path | None = None) -> None:
    """Raise StackError, and rename the file (or the folder `aside`), unless the file has the expected content."""
    found = sha256_of(path) if path.exists() else "(it is missing)"
    if found != sha256:
        aside = aside or path
        refused = aside.with_name(aside.name + ".refused")
        shutil.rmtree(refused, ignore_errors=True)
        aside.rename(refused)
        raise StackError(
            f"{path.name} has sha256 {found}, expected {sha256}; it was put aside as {refused}. "
            f"Run again to download it once more. If the hash is the same, do not trust the repository that it came from."
        )


def kafka_files(cache: Path) -> list[Path]:
    kafka, _ = _split(locked_files())
    return [cache / "jars" / file.filename for file in kafka]


def registry_folder(cache: Path) -> Path:
    _, registry = _split(locked_files())
    return cache / f"{registry.artifact}-{registry.version}-{registry.sha256[:12]}"


def fetch(cache: Path, started: Callable[[str, int], Advance]) -> None:
    """Download Kafka's jars and the registry where they are missing, unpack the registry, and check all files.

    Stacks that start at the same time share one download. A file appears under its name only when it is complete and checked.
    """
    jars = cache / "jars"
    jars.mkdir(parents=True, exist_ok=True)
    kafka, registry = _split(locked_files())
    unpacked = registry_folder(cache)
    with FileLock(cache / "jars.lock"), _temporary(cache) as folder, ThreadPoolExecutor(DOWNLOADS) as pool:
        archive = None if unpacked.exists() else pool.submit(_download, registry, folder, started)
        missing = [file for file in kafka if not (jars / file.filename).exists()]
        for path in pool.map(lambda file: _download(file, folder, started), missing):
            path.rename(jars / path.name)
        if archive:
            _unpack(archive.result(), unpacked, folder)
        list(pool.map(lambda file: verify(jars / file.filename, file.sha256), kafka))
        for path, sha256 in _contents(unpacked):
            verify(path, sha256, aside=unpacked)


def fetch_jars(lock: Path, jars: Path, started: Callable[[str, int], Advance]) -> list[Path]:
    """Download the files of another lock into the folder where they are missing, check all files, and return them."""
    jars.mkdir(parents=True, exist_ok=True)
    files = locked_files(lock)
    with FileLock(f"{jars}.lock"), _temporary(jars) as folder, ThreadPoolExecutor(DOWNLOADS) as pool:
        missing = [file for file in files if not (jars / file.filename).exists()]
        for path in pool.map(lambda file: _download(file, folder, started), missing):
            path.rename(jars / path.name)
        list(pool.map(lambda file: verify(jars / file.filename, file.sha256), files))
    return [jars / file.filename for file in files]


def lock_jars(lock: Path, coordinates: Sequence[str]) -> None:
    """Resolve the coordinates, and write their files and hashes to another lock."""
    with tempfile.TemporaryDirectory() as folder:
        context = _maven(Path(folder))
        inputs, transitive = context.resolver.resolve([context.create_dependency(each) for each in coordinates])
        lines = sorted(_line(dependency.artifact) for dependency in (*inputs, *transitive))
    lock.write_text("\n".join(lines) + "\n")


def _split(files: tuple[Locked, ...]) -> tuple[list[Locked], Locked]:
    registry = next(file for file in files if file.artifact == REGISTRY[1])
    return [file for file in files if file is not registry], registry


@contextlib.contextmanager
def _temporary(cache: Path) -> Iterator[Path]:
    for leftover in cache.glob(
        "download-*"
    ):  # of a start that was killed; this process holds the lock, so no other one uses it
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="download-", dir=cache) as folder:
        yield Path(folder)


def _download(file: Locked, folder: Path, started: Callable[[str, int], Advance]) -> Path:
    path = _obtain(file, folder, started)
    verify(path, file.sha256)
    return path


def _obtain(file: Locked, folder: Path, started: Callable[[str, int], Advance]) -> Path:
    @contextlib.contextmanager
    def progress(filename: str, size: int) -> Iterator[Advance]:
        yield started(filename, size)

    context = _maven(folder, PythonResolver(progress_callback=progress))
    component = context.project(file.group, file.artifact).at_version(file.version)
    return _resolve(component.artifact(file.classifier, file.extension))


def _resolve(artifact: Artifact) -> Path:
    try:
        return Path(artifact.resolve())
    except Exception as error:  # jgo raises its own errors and those of requests
        raise StackError(f"could not download {artifact}: {error}; check the network and jgo's repositories") from error


def _maven(folder: Path, resolver: PythonResolver | None = None) -> MavenContext:
    configured = dict(GlobalSettings.load().repositories)
    return MavenContext(resolver, repo_cache=folder, remote_repos=configured or None, timeout=TIMEOUT_SECONDS)


def _unpack(archive: Path, target: Path, folder: Path) -> None:
    root = folder / "unpacked"
    with tarfile.open(archive) as tar:
        tar.extractall(root, filter="data")
    lines = sorted(f"{sha256_of(path)} {path.relative_to(root)}" for path in root.rglob("*.jar"))
    (root / "sha256").write_text("\n".join(lines) + "\n")
    root.rename(target)


def _contents(unpacked: Path) -> list[tuple[Path, str]]:
    lines = (line.split(" ", 1) for line in (unpacked / "sha256").read_text().splitlines())
    return [(unpacked / name, sha256) for sha256, name in lines]


def lock() -> None:
    """Resolve the versions above and write their files and hashes to the lock."""
    with tempfile.TemporaryDirectory() as folder:
        context = _maven(Path(folder))
        inputs, transitive = context.resolver.resolve(
            [context.create_dependency(KAFKA), context.create_dependency(LOGGING)]
        )
        artifacts = [dependency.artifact for dependency in (*inputs, *transitive)]
        group, name, version, classifier, extension = REGISTRY
        artifacts.append(context.project(group, name).at_version(version).artifact(classifier, extension))
        lines = sorted(_line(artifact) for artifact in artifacts)
    LOCK.write_text("\n".join(lines) + "\n")


def _line(artifact: Artifact) -> str:
    sha256 = sha256_of(_resolve(artifact))
    classified = (artifact.classifier, artifact.packaging) if artifact.classifier else ()
    return Locked(artifact.groupId, artifact.artifactId, artifact.version, sha256, *classified).line


if __name__ == "__main__":
    if sys.argv[1:] == ["lock"]:
        lock()
    elif sys.argv[1:] == ["fetch"]:
        fetch(cache_folder(), lambda *_: lambda _: None)
    else:
        sys.exit("python -m deploy.local.jars fetch | lock")
