"""Who may know whom: import-linter keeps the contracts in pyproject.toml, run by ``make lint`` and here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mirror
from mirror import permits

ROOT = Path(__file__).resolve().parents[2]
PURE = ["mirror.errors", "mirror.changes", "mirror.retention", "mirror.wire", "mirror.session"]
IMPURE = {
    "django",
    "channels",
    "websockets",
    "asgiref",
    "asyncio",
    "socket",
    "selectors",
    "threading",
    "sqlite3",
}


@pytest.mark.parametrize("module", PURE)
def test_a_pure_module_loads_no_framework_and_no_io(module):
    # What msgspec brings along by itself is not ours to forbid.
    script = (
        f"import sys, msgspec; known = set(sys.modules); import {module}; print(*set(sys.modules) - known)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name.partition(".")[0] for name in ran.stdout.split()}
    assert "mirror" in loaded
    assert not loaded & IMPURE


def test_importing_the_record_imports_nothing_else():
    script = "import sys, mirror; print(*(name for name in sys.modules if name.startswith('mirror')))"
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert ran.stdout.split() == ["mirror"]


def test_the_record_gives_what_it_promises_and_nothing_else():
    assert mirror.maintenance is permits.maintenance
    with pytest.raises(AttributeError, match="has no attribute 'maintenanse'"):
        mirror.maintenanse  # noqa: B018


def test_the_import_contracts_are_kept():
    pytest.importorskip("importlinter", reason="import-linter is not installed")
    # In a process of its own: it sets up logging for all.
    script = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout
