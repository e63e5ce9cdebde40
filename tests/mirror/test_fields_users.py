from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_user_model_of_the_project_and_what_refers_to_it(tmp_path):
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.zoo_users.follow", str(tmp_path)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "followed\n"), done.stderr
