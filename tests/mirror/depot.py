"""An application whose tables change: written into a directory of the test, with its migrations.

Its models are those of the end, as they are when somebody runs ``migrate``. ``Depot.old_code`` puts the
triggers there that the models of an earlier migration would have.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings as project
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.recorder import MigrationRecorder
from django.test import override_settings

from mirror import capture, oplogger
from mirror.models import Outbox, Stream, Untold
from mirror.registry import described
from tests import mysql_driver
from tests.end_to_end.databases import Database, served
from tests.fakes import Recorded
from tests.mirror.conftest import attached, sqlite

ENGINES = ("sqlite", "postgresql", "mariadb")

_HEAD = "from django.db import migrations, models\nimport uuid\nfrom django.db.models import functions\n"


class Depot(Recorded):
    """The default database as a source that has this application."""

    def migrate(self, name: str | None = None) -> None:
        call_command("migrate", "depot", *([name] if name else []), verbosity=0)

    def old_code(self, name: str) -> None:
        executor = MigrationExecutor(connection)
        state = executor.loader.project_state(("depot", name))
        models = described(state.apps)
        capture.sync(connection, {mirrored.table: mirrored for mirrored in models.values()})

    def triggers(self) -> set[str]:
        return set(capture.WRITERS[connection.vendor].installed(connection))

    def told(self) -> list[tuple[Any, ...]]:
        """Operation, model, key and fields of each change since the last time."""
        return [
            (change.op.value, change.model.removeprefix("depot."), change.pk, change.fields)
            for change in self.news()
        ]


def execute(sql: str, parameters: Any = None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql if connection.vendor != "mysql" else sql.replace('"', "`"), parameters)


def fetch(sql: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return list(cursor.fetchall())


def leave_behind() -> list[str]:
    """Whatever has our name in the database, asked of the database itself."""
    queries = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'livemirror%'",
        "postgresql": (
            "SELECT proname FROM pg_proc WHERE proname LIKE 'livemirror%' UNION ALL "
            "SELECT tgname FROM pg_trigger WHERE tgname LIKE 'livemirror%'"
        ),
        "mysql": (
            "SELECT trigger_name FROM information_schema.triggers "
            "WHERE trigger_schema = DATABASE() AND trigger_name LIKE 'livemirror%'"
        ),
    }
    return [name for (name,) in fetch(queries[connection.vendor])]


@contextmanager
def databases(engine: str, directory: Path, name: str) -> Iterator[Database]:
    """A database of the engine that has no tables of the application yet."""
    if engine == "mariadb":
        mysql_driver.install()
    with (
        nullcontext(sqlite(directory / f"{name}.sqlite3"))
        if engine == "sqlite"
        else served(engine, name) as database
    ):
        with attached("default", database), override_settings(MIRROR={"CAPTURE": None}):
            call_command("migrate", verbosity=0)
        yield database


@contextmanager
def depot(database: Database, directory: Path, models: str, *migrations: str) -> Iterator[Depot]:
    """``migrations`` are the operations of each, numbered from 0001."""
    write(directory / "depot", models, migrations)
    sys.path.insert(0, str(directory))
    installed = [*project.INSTALLED_APPS, "depot"]
    oplogger.forget()
    try:
        with (
            attached("default", database),
            override_settings(INSTALLED_APPS=installed, MIRROR={"MODELS": ["depot.*"]}),
        ):
            Stream.objects.create(local=True)
            try:
                yield Depot("default")
            finally:
                _clear()
    finally:
        sys.path.remove(str(directory))
        for module in [name for name in sys.modules if name.partition(".")[0] == "depot"]:
            del sys.modules[module]
        apps.all_models.pop("depot", None)
        apps.clear_cache()


def _clear() -> None:
    capture.after_migrate(connection)
    capture.remove(connection)
    with connection.constraint_checks_disabled():
        for table in connection.introspection.table_names():
            if table.lower().startswith("depot"):
                execute(f'DROP TABLE "{table}"{" CASCADE" if connection.vendor == "postgresql" else ""}')
    MigrationRecorder(connection).migration_qs.filter(app="depot").delete()
    # Or the next application that renames a model is told that the name is taken.
    ContentType.objects.filter(app_label="depot").delete()
    ContentType.objects.clear_cache()
    Outbox.objects.all().delete()
    Stream.objects.all().delete()
    Untold.objects.all().delete()


def write(package: Path, models: str, migrations: tuple[str, ...]) -> None:
    (package / "migrations").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "migrations" / "__init__.py").touch()
    (package / "models.py").write_text(_HEAD + textwrap.dedent(models))
    before: list[tuple[str, str]] = []
    for number, operations in enumerate(migrations, 1):
        name = f"{number:04}_step"
        body = f"class Migration(migrations.Migration):\n    dependencies = {before}\n    operations = ["
        text = f"{_HEAD}\n{body}\n{textwrap.indent(textwrap.dedent(operations), '        ')}\n    ]\n"
        (package / "migrations" / f"{name}.py").write_text(text)
        before = [("depot", name)]
