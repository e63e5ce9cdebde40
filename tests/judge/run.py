"""One run of a few packages of Django's suite, in the suite's own Python, from its ``tests`` folder.

Arguments: where the outcome goes as JSON, and the labels. The environment says on which engine, and whether
``mirror`` is installed and captures (JUDGE_ENGINE, JUDGE_CAPTURE); without, all is as Django runs it.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path


def main(out: Path, labels: list[str]) -> None:
    tempfile.tempdir = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="django_")
    atexit.register(shutil.rmtree, tempfile.tempdir)
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.judge.settings"
    import runtests
    from django.conf import settings

    settings.TEST_RUNNER = "tests.judge.runner.runner_for"
    if os.environ["JUDGE_CAPTURE"] == "on":
        runtests.ALWAYS_INSTALLED_APPS.append("mirror")
    runtests.django_tests(
        verbosity=1,
        interactive=False,
        failfast=False,
        keepdb=False,
        reverse=False,
        test_labels=labels,
        debug_sql=False,
        parallel=1,
        tags=[],
        exclude_tags=["selenium"],
        test_name_patterns=None,
        start_at="",
        start_after="",
        pdb=False,
        buffer=True,
        timing=False,
        shuffle=False,
    )
    from tests.judge import runner

    out.write_text(json.dumps({"tests": runner.ended, **runner.findings}, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
