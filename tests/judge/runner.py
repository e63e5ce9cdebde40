"""Django's test runner, which also notes how each test ended and, with capture, lets a court judge it."""

from __future__ import annotations

import os
import unittest
from typing import Any

from django.test.runner import DiscoverRunner

#: By test: how it ended.
ended: dict[str, str] = {}
#: What the court found, where there was one.
findings: dict[str, Any] = {}


class Result(unittest.TextTestResult):
    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().addSuccess(test)
        ended.setdefault(test.id(), "passed")

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addError(test, err)
        ended[test.id()] = "error"

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addFailure(test, err)
        ended[test.id()] = "failed"

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:  # noqa: N802
        super().addSubTest(test, subtest, err)
        if err is not None:
            ended[test.id()] = "failed"

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        super().addSkip(test, reason)
        ended[test.id()] = "skipped"

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addExpectedFailure(test, err)
        ended[test.id()] = "expected failure"

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().addUnexpectedSuccess(test)
        ended[test.id()] = "unexpected success"


class Runner(DiscoverRunner):
    def get_resultclass(self) -> type[unittest.TextTestResult]:
        return Result


class JudgedRunner(Runner):
    """For a run with ``mirror`` installed: it is imported here only."""

    def setup_databases(self, **kwargs: Any) -> Any:
        from tests.judge import sessions

        return sessions.opened(super().setup_databases, findings, **kwargs)

    def teardown_databases(self, old_config: Any, **kwargs: Any) -> None:
        from tests.judge import sessions

        sessions.close()
        super().teardown_databases(old_config, **kwargs)


#: By whether ``mirror`` captures.
runner_for = {"off": Runner, "on": JudgedRunner}[os.environ.get("JUDGE_CAPTURE", "off")]
