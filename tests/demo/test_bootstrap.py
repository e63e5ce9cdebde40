"""Making the virtual environment, with a real venv and pip and a project that needs no network."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from demo.bootstrap import prepare_venv
from demo.trouble import Trouble
from tests.demo.conftest import ROOT

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "stand-in"
version = "1"
[project.optional-dependencies]
demo = []
"""
BACKEND = """
import os, zipfile

FILES = {
    "stand_in.pth": os.getcwd(),
    "METADATA": "Metadata-Version: 2.1\\nName: stand-in\\nVersion: 1\\nProvides-Extra: demo\\n",
    "WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    "RECORD": "",
}

def build_editable(directory, config_settings=None, metadata_directory=None):
    name = "stand_in-1-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        for file, text in FILES.items():
            wheel.writestr(file if file.endswith(".pth") else f"stand_in-1.dist-info/{file}", text)
    return name
"""
WITHOUT_ENSUREPIP = """
import sys
sys.modules["ensurepip"] = None
from demo.bootstrap import check_venv_module
check_venv_module()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "backend.py").write_text(BACKEND)
    (tmp_path / "constraints.txt").write_text("")
    return tmp_path


def test_the_environment_is_made_once_and_mended_when_something_changed(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    venv = project / ".venv"
    prepare_venv(venv, project)
    assert "making .venv" in capsys.readouterr().out
    subprocess.run([venv / "bin" / "python", "-c", "import backend"], check=True)

    prepare_venv(venv, project)
    assert capsys.readouterr().out == ""

    (project / "constraints.txt").write_text("something==1\n")
    prepare_venv(venv, project)
    assert "installing" in capsys.readouterr().out

    # The interpreter it was made with is gone.
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to(project / "gone")
    prepare_venv(venv, project)
    subprocess.run([venv / "bin" / "python", "-c", "import backend"], check=True)


def test_an_installation_that_fails_is_tried_again_at_the_next_start(project: Path) -> None:
    (project / "backend.py").write_text("raise RuntimeError('broken')")
    venv = project / ".venv"
    for _ in range(2):
        with pytest.raises(Trouble, match="installing failed"):
            prepare_venv(venv, project)
    (project / "backend.py").write_text(BACKEND)
    prepare_venv(venv, project)
    subprocess.run([venv / "bin" / "python", "-c", "import backend"], check=True)


def test_a_python_without_ensurepip_names_the_package_to_install(tmp_path: Path) -> None:
    # As Debian ships it: the module is split off into a package of its own.
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ENSUREPIP],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"run: sudo apt install python{version}-venv" in done.stderr


def test_here_without_the_packages_says_which_are_missing(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    done = subprocess.run(
        [
            tmp_path / "bare" / "bin" / "python",
            "-m",
            "demo",
            "--here",
            "--local-port",
            "9",
            "--central-port",
            "7",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 1
    assert "django, channels" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("version", ["2.7", "3.6", "3.10"])
def test_an_old_python_is_told_in_one_line_which_one_is_needed(version: str) -> None:
    done = subprocess.run(
        [old_python(version), "-m", "demo"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"demo: this needs Python 3.11 or newer, and this is {version}; try: make demo PYTHON=python3.11\n"
    )


def old_python(version: str) -> str:
    if pyenv := shutil.which("pyenv"):
        found = subprocess.run([pyenv, "prefix", version], capture_output=True, text=True, check=False)
        if found.returncode == 0:
            return f"{found.stdout.strip()}/bin/python"
    pytest.skip(f"no Python {version} here")
