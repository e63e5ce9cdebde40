"""Where Django's test suite comes from: the newest source distribution of a series, and a Python for it."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

#: Beside what the suite's Django brings: what ``mirror`` needs, the drivers, and what some tests ask for.
_REQUIREMENTS = [
    "msgspec",
    "rich",
    "psycopg[binary]",
    "PyMySQL",
    "tblib",
    "tzdata",
    "PyYAML",
    "Pillow",
    "jinja2",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """An unpacked source distribution, and a Python that has this Django installed."""

    version: str
    tests: Path
    python: Path


def fetched(cache: Path, series: str, *, fresh: bool = False) -> Suite:
    """From the cache, else from the registry that pip is configured for. Raises CalledProcessError."""
    cache.mkdir(parents=True, exist_ok=True)
    archive = None if fresh else newest(cache, series)
    if archive is None:
        _pip(
            Path(sys.executable),
            *("download", "--no-deps", "--no-binary", ":all:", "--dest", str(cache), f"Django=={series}.*"),
        )
        archive = newest(cache, series)
        assert archive is not None, f"pip left no Django {series} in {cache}"
    version = _version(archive)
    home = cache / f"django-{version}"
    if not home.is_dir():
        with tarfile.open(archive) as packed:
            packed.extractall(cache, filter="data")
    return Suite(version=version, tests=home / "tests", python=_python(cache / f"venv-{version}", archive))


def labels_of(suite: Suite) -> list[str]:
    """Every package of the suite that has models, but those that need a geographic library."""
    return sorted(
        path.name
        for path in suite.tests.iterdir()
        if (path / "__init__.py").exists()
        and path.name not in {"gis_tests", "import_error_package", "test_runner_apps"}
        and ((path / "models.py").exists() or (path / "models").is_dir())
    )


def newest(cache: Path, series: str) -> Path | None:
    found = [path for path in cache.glob("[Dd]jango-*.tar.gz") if _version(path).startswith(f"{series}.")]
    return max(found, key=lambda path: tuple(map(int, _version(path).split("."))), default=None)


def _version(archive: Path) -> str:
    return archive.name.removesuffix(".tar.gz").partition("-")[2]


def _python(venv: Path, archive: Path) -> Path:
    python, stamp = venv / "bin" / "python", venv / "complete"
    if not stamp.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        _pip(python, "install", str(archive), *_REQUIREMENTS)
        stamp.touch()
    return python


def _pip(python: Path, *arguments: str) -> None:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    subprocess.run([python, "-m", "pip", "--quiet", *arguments], check=True, env=environment)
