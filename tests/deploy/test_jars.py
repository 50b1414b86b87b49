from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from deploy.local import jars
from deploy.local.errors import StackError
from deploy.local.jars import Locked, fetch, locked_files


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        entry = tarfile.TarInfo("lib/registry.jar")
        entry.size = 8
        tar.addfile(entry, io.BytesIO(b"registry"))
    return buffer.getvalue()


class Repository:
    """A Maven repository as a folder of contents, in the place of jgo's download."""

    def __init__(self, contents: dict[str, bytes]) -> None:
        self.contents = contents
        self.served: list[str] = []

    def __call__(self, file: Locked, folder: Path) -> Path:
        self.served.append(file.filename)
        path = folder / file.filename
        path.write_bytes(self.contents[file.filename])
        return path


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    packed = archive()
    lock = tmp_path / "jars.lock"
    lock.write_text(
        f"org.apache.kafka:kafka_2.13:4.3.1 {sha256(b'kafka')}\n"
        f"io.apicurio:apicurio-registry-app:3.3.3:all:tar.gz {sha256(packed)}\n"
    )
    monkeypatch.setattr(jars, "locked_files", lambda: locked_files(lock))
    repository = Repository({"kafka_2.13-4.3.1.jar": b"kafka", "apicurio-registry-app-3.3.3-all.tar.gz": packed})
    monkeypatch.setattr(jars, "_obtain", lambda file, folder, started: repository(file, folder))
    return repository


def silent(_: str, __: int) -> jars.Advance:
    return lambda count: None


def test_the_lock_names_files_and_hashes_and_no_places() -> None:
    files = locked_files()
    assert {"kafka_2.13-4.3.1.jar", "apicurio-registry-app-3.3.3-all.tar.gz"} <= {file.filename for file in files}
    assert "//" not in jars.LOCK.read_text()
    assert [Locked.parse(file.line) for file in files] == list(files)


@pytest.mark.parametrize("line", ["a:b 00", "a:b:c", "a:b:c:d " + "0" * 64, "a:b:c " + "0" * 63])
def test_a_line_that_is_not_a_lock_is_refused(line: str) -> None:
    with pytest.raises(StackError, match=r"jars\.lock"):
        Locked.parse(line)


def test_what_is_fetched_once_is_not_fetched_again(tmp_path: Path, repository: Repository) -> None:
    fetch(tmp_path / "cache", silent)
    assert len(repository.served) == 2
    assert all(path.exists() for path in jars.kafka_files(tmp_path / "cache"))
    assert (jars.registry_folder(tmp_path / "cache") / "lib" / "registry.jar").read_bytes() == b"registry"
    fetch(tmp_path / "cache", silent)
    assert len(repository.served) == 2


def test_a_download_with_another_content_is_refused(tmp_path: Path, repository: Repository) -> None:
    repository.contents["kafka_2.13-4.3.1.jar"] = b"kafka, but not quite"
    with pytest.raises(StackError, match=r"kafka_2\.13-4\.3\.1\.jar has sha256"):
        fetch(tmp_path / "cache", silent)
    assert not any(path.exists() for path in jars.kafka_files(tmp_path / "cache"))


def test_a_jar_corrupted_in_the_cache_is_refused_and_then_fetched_anew(tmp_path: Path, repository: Repository) -> None:
    fetch(tmp_path / "cache", silent)
    (kafka,) = jars.kafka_files(tmp_path / "cache")
    kafka.write_bytes(b"kafkA")
    with pytest.raises(StackError, match="put aside"):
        fetch(tmp_path / "cache", silent)
    fetch(tmp_path / "cache", silent)
    assert kafka.read_bytes() == b"kafka"


def test_a_file_of_the_unpacked_registry_that_changed_is_refused(tmp_path: Path, repository: Repository) -> None:
    fetch(tmp_path / "cache", silent)
    jar = jars.registry_folder(tmp_path / "cache") / "lib" / "registry.jar"
    jar.write_bytes(b"registrY")
    with pytest.raises(StackError, match=r"registry\.jar"):
        fetch(tmp_path / "cache", silent)
    fetch(tmp_path / "cache", silent)
    assert jar.read_bytes() == b"registry"


def test_what_a_killed_download_left_is_removed(tmp_path: Path, repository: Repository) -> None:
    left = tmp_path / "cache" / "download-killed"
    left.mkdir(parents=True)
    (left / "half.jar").write_bytes(b"ha")
    fetch(tmp_path / "cache", silent)
    assert not left.exists()
