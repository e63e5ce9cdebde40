"""From a bare Python to a virtual environment with the demo in it. Standard library only."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from demo.trouble import Trouble

__all__ = ["ROOT", "check_installed", "enter_venv"]

ROOT = Path(__file__).resolve().parent.parent
#: What decides whether an installation is still the right one.
INPUTS = ("pyproject.toml", "constraints.txt")
NEEDED = ("django", "channels", "daphne", "servestatic", "websockets", "mirror")


def enter_venv(arguments: Sequence[str]) -> None:
    """Go on in ``.venv``, made and filled first if need be. Does not return. Raises Trouble."""
    venv = ROOT / ".venv"
    prepare_venv(venv, ROOT)
    os.chdir(ROOT)
    python = os.fspath(_python(venv))
    os.execv(python, [python, "-m", "demo", "--here", *arguments])


def check_installed() -> None:
    """Raises Trouble when this interpreter lacks something."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise Trouble(f"{', '.join(missing)} not installed for {sys.executable}; leave out --here")


def prepare_venv(venv: Path, root: Path) -> None:
    """Leave a virtual environment that has what ``root`` asks for; quick when it has it. Raises Trouble."""
    stamp = venv / "demo-stamp"
    wanted = fingerprint(root)
    if _works(venv) and stamp.is_file() and stamp.read_text() == wanted:
        return
    check_venv_module()
    _say(f"making {venv.name} and installing into it; the first time takes a minute or two")
    if not _works(venv):
        _run([sys.executable, "-m", "venv", "--clear", os.fspath(venv)], "making the virtual environment")
    install = ["install", "--quiet", "--disable-pip-version-check", "--constraint", "constraints.txt"]
    _run([os.fspath(_python(venv)), "-m", "pip", *install, "--editable", ".[demo]"], "installing", root)
    stamp.write_text(wanted)


def check_venv_module() -> None:
    """Debian splits these off into a package of their own. Raises Trouble."""
    if any(importlib.util.find_spec(name) is None for name in ("venv", "ensurepip")):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise Trouble(
            f"this Python cannot make virtual environments; run: sudo apt install python{version}-venv"
        )


def fingerprint(root: Path) -> str:
    digest = hashlib.sha256()
    for name in INPUTS:
        digest.update((root / name).read_bytes())
    return digest.hexdigest()


def _python(venv: Path) -> Path:
    return venv / "bin" / "python"


def _works(venv: Path) -> bool:
    """False also for one that was cut short, or whose Python has since been removed."""
    if not _python(venv).exists():
        return False
    probe = [os.fspath(_python(venv)), "-m", "pip", "--version"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def _run(command: Sequence[str], doing: str, cwd: Path | None = None) -> None:
    if subprocess.run(command, cwd=cwd, check=False).returncode != 0:
        raise Trouble(f"{doing} failed; the reason is above. Mend it and start again")


def _say(text: str) -> None:
    print(f"demo: {text}", flush=True)
