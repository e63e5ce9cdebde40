"""What a write path is tried with: a library on each engine, and what its changes must amount to.

A path is a function that writes. Between its steps it calls ``World.step``, which keeps what the tables
hold at that moment and writes a mark in the same transaction: the changes up to the mark, folded in their
order, must be exactly that. What the tables hold is always read by the database's own driver.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any
from uuid import UUID

from django.conf import settings as project
from django.core.management import call_command
from django.core.management.color import no_style
from django.db import connection, models, transaction
from django.test import override_settings

from mirror import capture, oplogger
from mirror.changes import Change, Op
from mirror.models import Stream
from mirror.registry import MirroredModel, mirrored_models
from tests.end_to_end.databases import Database, reading, served
from tests.fakes import Recorded
from tests.mirror.conftest import attached, sqlite
from tests.project.library import models as library

ENGINES = ("sqlite", "postgresql", "mariadb")
VENDOR = {"sqlite": "sqlite", "postgresql": "postgresql", "mariadb": "mysql"}

#: By model and key: the fields of each row.
State = dict[str, dict[tuple[Any, ...], dict[str, Any]]]


@contextmanager
def library_installed() -> Iterator[None]:
    apps = [*project.INSTALLED_APPS, "tests.project.library"]
    with override_settings(INSTALLED_APPS=apps, MIRROR={"MODELS": ["library.*"]}):
        yield


# Paths


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    #: As the table of docs/capture.md says it.
    name: str
    group: str
    write: Callable[[World], None]
    #: By engine: why its changes are not, or not all, made. Where there is no reason, they are.
    missed: Mapping[str, str]
    #: By engine: its changes are made, but a mirror on the same engine has other rows, and why.
    lost: Mapping[str, str] = field(default_factory=dict)
    engines: tuple[str, ...] = ENGINES
    #: What stands in the database while the path is tried.
    given: Callable[[World], AbstractContextManager[None]] = lambda world: nullcontext()
    #: True where the path makes its own transactions.
    commits: bool = False
    #: What Django must have for it, as an attribute of django.db.models.
    needs: str = ""


PATHS: list[Path] = []


Write = Callable[["World"], None]
Given = Callable[["World"], AbstractContextManager[None]]


def path(
    name: str, group: str, missed: Mapping[str, str] | None = None, **more: Any
) -> Callable[[Write], Write]:
    """List a function that writes as a path."""

    def listed(write: Write) -> Write:
        PATHS.append(Path(name=name, group=group, write=write, missed=missed or {}, **more))
        return write

    return listed


def table() -> str:
    """The paths and what becomes of them, as docs/capture.md shows it."""
    lines: list[str] = []
    group = ""
    for one in {
        path.name: path for path in sorted(PATHS, key=lambda path: _GROUPS.index(path.group))
    }.values():
        if one.group != group:
            group = one.group
            lines += [
                "",
                f"### {group}",
                "",
                "| path | SQLite | PostgreSQL | MariaDB |",
                "| --- | --- | --- | --- |",
            ]
        lines.append(f"| {one.name} | {' | '.join(_outcome(one, engine) for engine in ENGINES)} |")
    return "\n".join(lines).strip()


_GROUPS = (
    "Rows",
    "Many rows",
    "Deletions",
    "Many-to-many",
    "Keys and unique values",
    "Transactions",
    "Other ways of Django's",
    "SQL",
    "Other programs",
    "Statements of one engine",
    "Cascades of the database",
    "Triggers of the application",
)


def _outcome(path: Path, engine: str) -> str:
    if engine not in path.engines:
        return "n/a"
    if engine in path.missed:
        return f"**no**: {path.missed[engine]}"
    return f"yes, but {path.lost[engine]}" if engine in path.lost else "yes"


@dataclass(slots=True)
class World:
    """The source while a path writes to it."""

    engine: str
    database: Database
    directory: File
    seen: dict[int, State] = field(default_factory=dict)

    def step(self) -> None:
        """Say that everything so far came before everything that follows."""
        mark = library.Mark.objects.create().pk
        self.seen[mark] = state(self._rows)

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        connection.ensure_connection()
        cursor = connection.connection.cursor()
        cursor.execute(sql)
        rows = [tuple(row) for row in cursor.fetchall()]
        cursor.close()
        return rows

    def execute(self, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []


# What tables hold, and what changes amount to


def state(rows: Callable[[str], Iterable[tuple[Any, ...]]]) -> State:
    """Every mirrored table, in the words of a change, with nothing of the code that captures."""
    uuids: dict[tuple[str, Any], str] = {}
    raw: dict[str, list[dict[str, Any]]] = {}
    for label, mirrored in _library():
        columns = ", ".join(f.column for f in mirrored.model._meta.local_concrete_fields)
        names = [f.column for f in mirrored.model._meta.local_concrete_fields]
        raw[label] = [
            dict(zip(names, row, strict=True)) for row in rows(f"SELECT {columns} FROM {mirrored.table}")
        ]
        for row in raw[label]:
            if "pkid" in row:
                uuids[label, row["pkid"]] = _plain(mirrored.fields[1].field, row["id"])
    return {
        label: {_key(mirrored, row): row for row in (_said(mirrored, row, uuids) for row in raw[label])}
        for label, mirrored in _library()
    }


def _library() -> list[tuple[str, MirroredModel]]:
    return [
        (label, mirrored)
        for label, mirrored in mirrored_models().items()
        if label.startswith("library.") and mirrored.model is not library.Mark
    ]


def _said(mirrored: MirroredModel, row: dict[str, Any], uuids: dict[tuple[str, Any], str]) -> dict[str, Any]:
    said = {}
    for one in mirrored.fields:
        value = row[one.column]
        if one.reference is not None and value is not None:
            value = uuids[one.reference.label, value]
        if one is not mirrored.pk or one in mirrored.key:
            said[one.name] = _plain(one.field, value)
    return said


def _plain(field: models.Field[Any, Any], value: Any) -> Any:
    target: Any = field
    while target.is_relation:
        target = target.target_field
    return str(UUID(str(value))) if isinstance(target, models.UUIDField) and value is not None else value


def _key(mirrored: MirroredModel, row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[one.name] for one in mirrored.key)


def told(mirrored: MirroredModel, change: Change) -> dict[str, Any]:
    """The row that a change speaks of."""
    if mirrored.pk is None:
        return {**dict(zip((one.name for one in mirrored.key), change.pk, strict=True)), **change.fields}
    if mirrored.pk in mirrored.key and mirrored.pk.name not in change.fields:
        return {mirrored.pk.name: change.pk, **change.fields}
    return dict(change.fields)


def fold(changes: Iterable[Change]) -> Iterator[tuple[Change, State]]:
    """After each change, in order, what all so far amount to; always the same object."""
    rows: State = {label: {} for label, _ in _library()}
    left: dict[tuple[str, Any], Any] = {}
    for change in changes:
        mirrored = mirrored_models()[change.model]
        if change.model in rows:
            row = told(mirrored, change)
            key = _key(mirrored, row)
            rows[change.model].pop(key, None)
            if change.op is Op.DELETE:
                left[change.model, str(change.pk)] = key[0]
            else:
                rows[change.model][key] = row
                _follow(rows, change.model, left.pop((change.model, str(change.pk)), key[0]), key[0])
        yield change, rows


def _follow(rows: State, label: str, old: Any, new: Any) -> None:
    """What refers to a local key refers to whichever row has it."""
    if old == new:
        return
    for referring, mirrored in _library():
        names = {one.name for one in mirrored.fields if one.reference and one.reference.label == label}
        if names:
            moved = [
                {name: new if name in names and value == old else value for name, value in row.items()}
                for row in rows[referring].values()
            ]
            rows[referring] = {_key(mirrored, row): row for row in moved}


def assert_told(world: World, changes: list[Change]) -> None:
    """At every mark the changes so far are the tables as they were there, and in the end as they are."""
    with reading(world.database) as database:
        after = state(database.rows)
    marks = []
    rows: State = {}
    for change, rows in fold(changes):
        if change.model == "library.mark":
            marks.append(change.pk)
            assert_same(rows, world.seen[change.pk], f"at mark {change.pk}")
    assert_same(rows, after, "in the end")
    with reading(world.database) as database:
        assert marks == sorted(row[0] for row in database.rows("SELECT id FROM library_mark"))


def assert_same(here: State, there: State, where: str) -> None:
    for label in there:
        ours, theirs = here.get(label, {}), there[label]
        assert ours == theirs, f"{label} {where}"


# Databases


@contextmanager
def databases(engine: str, directory: File) -> Iterator[tuple[Database, Database]]:
    """A source with its triggers and a centre without, each made once and emptied by ``emptied``."""
    with ExitStack() as stack:
        if engine == "sqlite":
            pair = [sqlite(directory / f"{name}.sqlite3") for name in ("source", "centre")]
        else:
            suffix = f"{os.environ.get('PYTEST_XDIST_WORKER', 'main')}_{os.getpid()}"
            pair = [
                stack.enter_context(served(engine, f"livemirror_{name}_{suffix}"))
                for name in ("paths", "paths_centre")
            ]
        with library_installed():
            for database, role in zip(pair, ("triggers", None), strict=True):
                conf = {"MODELS": ["library.*"], "CAPTURE": role}
                with override_settings(MIRROR=conf), attached("default", database):
                    _make()
        yield pair[0], pair[1]


def _make() -> None:
    call_command("migrate", run_syncdb=True, verbosity=0)
    with connection.cursor() as cursor:
        for sql in _cascading():
            cursor.execute(sql)
        if connection.vendor == "sqlite":
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    capture.sync(connection)


#: What Django 6.1 makes for DB_CASCADE, DB_SET_NULL and DB_SET_DEFAULT.
_TABLES = {
    "branch": {"parent_id": "branch (id) ON DELETE CASCADE"},
    "leaf": {"branch_id": "branch (id) ON DELETE CASCADE ON UPDATE CASCADE"},
    "nest": {"branch_id": "branch (id) ON DELETE SET NULL", "leaf_id": "leaf (id) ON DELETE CASCADE"},
    "birdhouse": {"branch_id": "branch (id) ON DELETE SET DEFAULT"},
}


def _cascading() -> Iterator[str]:
    put_off = "" if connection.vendor == "mysql" else " DEFERRABLE INITIALLY DEFERRED"
    for table, keys in _TABLES.items():
        columns = "".join(
            f", {column} bigint DEFAULT {1 if 'DEFAULT' in keys[column] else 'NULL'}" for column in keys
        )
        # InnoDB has no SET DEFAULT.
        constraints = "".join(
            f", FOREIGN KEY ({column}) REFERENCES library_{target}{put_off}"
            for column, target in keys.items()
            if connection.vendor != "mysql" or "DEFAULT" not in target
        )
        yield f"CREATE TABLE library_{table} (id bigint NOT NULL PRIMARY KEY, name varchar(50) NOT NULL{columns}{constraints})"  # noqa: E501


_CHECKS = {
    "postgresql": ("SET session_replication_role = replica", "SET session_replication_role = origin"),
    "mariadb": ("SET foreign_key_checks = 0", "SET foreign_key_checks = 1"),
}


@contextmanager
def emptied(engine: str, alias: str, database: Database, directory: File) -> Iterator[Database]:
    """The database behind an alias, without rows."""
    if engine == "sqlite":
        name = shutil.copy(database["NAME"], directory / f"{alias}.sqlite3")
        with attached(alias, database | {"NAME": str(name)}) as own:
            yield own.settings_dict
        return
    with attached(alias, database) as own:
        kept = {"django_migrations", "django_content_type", "auth_permission"}
        tables = sorted(set(own.introspection.table_names()) - kept)
        tables.sort(key="mirror_outbox".__eq__)  # last: where emptying the others is captured
        ignore, heed = _CHECKS[engine]
        with transaction.atomic(using=alias), own.cursor() as cursor:
            cursor.execute(ignore)
            for table in tables:
                # Not TRUNCATE: a server makes a file anew for each.
                cursor.execute(f"DELETE FROM {table}")
            cursor.execute(heed)
        yield database


@contextmanager
def world(engine: str, database: Database, directory: File) -> Iterator[tuple[World, Recorded]]:
    """The default database as a source that has recorded its stock, and nothing else."""
    oplogger.forget()
    with emptied(engine, "default", database, directory) as own:
        Stream.objects.filter(local=True).delete()
        Stream.objects.create(local=True)
        stock()
        yield World(engine, own, directory), Recorded("default")


def stock() -> None:
    """What every path finds."""
    library.Shelf.objects.bulk_create([library.Shelf(id=n, name=name) for n, name in enumerate("abcd", 1)])
    library.Keyword.objects.bulk_create([library.Keyword(word=word) for word in ("sea", "war")])
    for number, (title, shelf) in enumerate([("Moby", 1), ("Iliad", 1), ("Aeneid", 2), ("Odyssey", 3)], 1):
        library.Book.objects.create(
            id=number, title=title, copies=number, shelf_id=shelf, display_id=shelf, home_id=shelf
        )
    library.Book.objects.filter(title__in=["Aeneid", "Odyssey"]).update(sequel_of=2)
    library.Tagging.objects.create(id=1, book_id=1, keyword_id="sea")
    library.Slot.objects.bulk_create([library.Slot(corridor="A", place=n, note=str(n)) for n in (1, 2, 3)])
    library.Rank.objects.bulk_create([library.Rank(id=n, name=str(n), place=n) for n in (1, 2, 3)])
    library.Patron.objects.create(id=UUID(int=1), name="Ada")
    genres = [library.Genre(pkid=n, id=UUID(int=n), name=name) for n, name in enumerate("xyz", 1)]
    library.Genre.objects.bulk_create(genres)
    melville = library.Author.objects.create(pkid=1, id=UUID(int=11), name="Melville")
    homer = library.Author.objects.create(pkid=2, id=UUID(int=12), name="Homer", mentor=melville)
    work = library.Work.objects.create(pkid=1, id=UUID(int=21), title="Typee", author=melville, editor=homer)
    novel = library.Novel.objects.create(
        pkid=2, id=UUID(int=22), title="Omoo", author=melville, editor=homer, pages=300
    )
    library.Edition.objects.create(id=1, novel=novel)
    work.genres.set(genres[:2])
    work.related.add(novel)
    if hasattr(models, "DB_CASCADE"):
        _furnish()
    for number, parent in [(1, None), (2, 1), (3, 2)]:
        library.Branch.objects.create(id=number, name=str(number), parent_id=parent)
        library.Leaf.objects.create(id=number, name=str(number), branch_id=number)
        library.Nest.objects.create(id=number, name=str(number), branch_id=number, leaf_id=number)
        library.Birdhouse.objects.create(id=number, name=str(number), branch_id=number)
    _restart_sequences()


def _furnish() -> None:
    rooms: Any = library  # which has them where Django has such foreign keys
    hall = rooms.Room.objects.create(pkid=1, id=UUID(int=31), name="hall")
    study = rooms.Room.objects.create(pkid=2, id=UUID(int=32), name="study", within=hall)
    cushion = rooms.Cushion.objects.create(pkid=1, id=UUID(int=41), room=study)
    chair = rooms.Chair.objects.create(pkid=1, id=UUID(int=51), room=study, cushion=cushion)
    rooms.Chair.objects.create(pkid=2, id=UUID(int=52), room=hall, cushion=cushion)
    rooms.Lamp.objects.create(id=1, room=hall)
    rooms.Lamp.objects.create(id=2, room=study, chair=chair)


def _restart_sequences() -> None:
    with connection.cursor() as cursor:
        made = [mirrored.model for _label, mirrored in _library() if mirrored.model._meta.managed]
        for sql in connection.ops.sequence_reset_sql(no_style(), made):
            cursor.execute(sql)
