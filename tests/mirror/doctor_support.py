"""What the doctor is shown: an application of a few tables, on each engine, and whatever befalls it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone

from mirror import doctor
from mirror.doctor import Finding
from tests.mirror.depot import ENGINES, Depot, databases, depot

#: What is always so on these engines, if only there is a table.
CONSTANT = {"replace", "truncate"}

ITEM = """
class Item(models.Model):
    id = models.BigIntegerField(primary_key=True)
    value = models.IntegerField(null=True)
"""

CREATE_ITEM = """
migrations.CreateModel("Item", [
    ("id", models.BigIntegerField(primary_key=True)),
    ("value", models.IntegerField(null=True)),
]),
"""


def on(*engines: str) -> Any:
    """Try the test on these engines."""
    return pytest.mark.parametrize(
        "engine",
        [
            pytest.param(engine, marks=[] if engine == "sqlite" else getattr(pytest.mark, engine))
            for engine in engines
        ],
    )


on_every_engine = on(*ENGINES)


@pytest.fixture(scope="module")
def made(tmp_path_factory, django_db_blocker):
    """A function that gives a database of an engine, migrated when it is first asked for."""
    there: dict[str, Any] = {}
    directory = tmp_path_factory.mktemp("doctor")
    name = f"livemirror_doctor_{directory.parent.parent.name.replace('-', '_')}_{id(there)}"
    with ExitStack() as stack:

        def make(engine: str):
            if engine not in there:
                there[engine] = stack.enter_context(databases(engine, directory, name))
            return there[engine]

        with django_db_blocker.unblock():
            yield make


@pytest.fixture
def app(engine, made, tmp_path, django_db_blocker) -> Callable[..., Depot]:
    """Return a function that installs an application for the test, and migrates it."""
    with django_db_blocker.unblock(), ExitStack() as stack:
        database = made(engine)

        def install(models: str = ITEM, *migrations: str) -> Depot:
            source = stack.enter_context(depot(database, tmp_path, models, *migrations or [CREATE_ITEM]))
            source.migrate()
            return source

        yield install


def findings(now: datetime | None = None) -> list[Finding]:
    return doctor.examine(doctor.gather(now or timezone.now()))


def codes(now: datetime | None = None) -> set[str]:
    """What the doctor finds beside what is always so."""
    return {finding.code for finding in findings(now)} - CONSTANT


def finding(code: str) -> Finding:
    """The one finding of a kind."""
    (one,) = [one for one in findings() if one.code == code]
    return one


def run(*arguments: str) -> tuple[int, str]:
    """Exit code and standard output of ``mirrordoctor``, which has to say something."""
    out = StringIO()
    try:
        call_command("mirrordoctor", *arguments, stdout=out)
    except SystemExit as left:
        return int(left.code or 0), out.getvalue()
    return 0, out.getvalue()
