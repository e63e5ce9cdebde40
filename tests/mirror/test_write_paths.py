"""Every write path on each engine: its changes, in their order, are what happened to the tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path as File

import pytest
from django.core.management import call_command
from django.db import models, transaction
from django.test import override_settings

from mirror import capture
from mirror.capture import supported
from mirror.models import Outbox
from mirror.sequencer import Sequencer
from tests import mysql_driver
from tests.end_to_end.databases import reading
from tests.fakes import Centre, Recorded
from tests.mirror import write_paths, writing
from tests.mirror.writing import PATHS, VENDOR, Path, World
from tests.project.library.models import Shelf

assert write_paths.__all__, "imported for what it lists"


@pytest.fixture(scope="session")
def _pairs(tmp_path_factory, django_db_blocker):
    """A source and a centre on an engine, made when they are first asked for."""
    made, stack = {}, writing.ExitStack()

    def pair(engine: str):
        if engine == "mariadb":
            mysql_driver.install()
        if engine not in made:
            made[engine] = stack.enter_context(
                writing.databases(engine, tmp_path_factory.mktemp(f"paths_{engine}"))
            )
        return made[engine]

    with django_db_blocker.unblock(), stack:
        yield pair


@pytest.fixture
def world(engine, _pairs, tmp_path, django_db_blocker) -> Iterator[tuple[World, writing.Recorded]]:
    if not supported(VENDOR[engine]):
        pytest.skip(f"no writer of triggers for {engine}")
    with django_db_blocker.unblock():
        source, _centre = _pairs(engine)
        with writing.library_installed(), writing.world(engine, source, tmp_path) as made:
            yield made


@pytest.fixture
def centre(engine, _pairs, tmp_path, world):
    """Makes a mirror of the library, anew each time."""

    @writing.contextmanager
    def make() -> Iterator[Centre]:
        with writing.emptied(engine, "centre", _pairs(engine)[1], tmp_path) as database:
            made = Centre("centre")
            made.database = database
            yield made

    return make


def on_each_engine(keep) -> list:
    return [
        pytest.param(engine, path, id=f"{path.write.__name__}-{engine}", marks=_marks(engine, path))
        for path in PATHS
        for engine in path.engines
        if keep(engine, path)
    ]


def marked(engine: str):
    return pytest.param(engine, marks=getattr(pytest.mark, engine))


def _marks(engine: str, path: Path) -> list:
    marks = [] if engine == "sqlite" else [getattr(pytest.mark, engine)]
    if path.needs and not hasattr(models, path.needs):
        marks.append(pytest.mark.skip(f"before Django had models.{path.needs}"))
    return marks


def tread(path: Path, world: World) -> None:
    """Walk the path, in one transaction if it does not make its own."""
    world.step()
    if path.commits:
        path.write(world)
    else:
        with transaction.atomic():
            path.write(world)
    world.step()


@pytest.mark.parametrize(("engine", "path"), on_each_engine(lambda engine, path: engine not in path.missed))
def test_the_changes_of_a_path_are_what_happened(engine, path, world, centre, monkeypatch):
    world, source = world
    with centre() as mirror, path.given(world):
        mirror.follow(source)
        tread(path, world)
        changes = source.changes()
        writing.assert_told(world, changes)
        mirror.follow(source)
        with verdict(engine in path.lost), reading(world.database) as here, reading(mirror.database) as there:
            writing.assert_same(writing.state(there.rows), writing.state(here.rows), "at the mirror")
    # The same again, each change by itself: no step may break what the source's constraints demand.
    monkeypatch.setattr("mirror.apply._FLUSH", 1)
    with centre() as mirror:
        mirror.follow(source)
        with verdict(engine in path.lost), reading(world.database) as here, reading(mirror.database) as there:
            writing.assert_same(writing.state(there.rows), writing.state(here.rows), "change by change")


def verdict(differs: bool) -> AbstractContextManager[object]:
    """What is said to differ has to: the day it does not, the table is wrong."""
    return pytest.raises(AssertionError) if differs else nullcontext()


class _Undo(Exception):
    pass


@pytest.mark.parametrize(("engine", "path"), on_each_engine(lambda engine, path: not path.commits))
def test_a_path_that_is_rolled_back_leaves_nothing(engine, path, world):
    world, source = world
    with path.given(world):
        source.step()
        with suppress(_Undo), transaction.atomic():
            path.write(world)
            raise _Undo
        assert not Outbox.objects.exists()
        assert source.news() == []


@pytest.mark.parametrize(("engine", "path"), on_each_engine(lambda engine, path: engine in path.missed))
def test_what_is_said_to_be_missed_is_missed(engine, path, world):
    world, source = world
    with path.given(world):
        tread(path, world)
        with verdict(True):
            writing.assert_told(world, source.changes())


def test_the_table_of_the_documentation_is_what_is_tested_here():
    documentation = (File(__file__).parents[2] / "docs" / "capture.md").read_text()
    _before, _start, rest = documentation.partition("<!-- paths -->\n")
    assert rest.partition("\n<!-- end -->")[0] == writing.table()


# Several databases


@pytest.mark.parametrize("engine", ["sqlite"])
def test_what_is_written_through_another_alias_is_not_captured(engine, world, centre):
    _world, source = world
    source.step()
    with centre():
        Shelf.objects.using("centre").create(name="elsewhere")
        with transaction.atomic(), transaction.atomic(using="centre"):
            Shelf.objects.create(name="here")
            Shelf.objects.using("centre").create(name="elsewhere too")
        assert not Outbox.objects.using("centre").exists()
    assert [change.fields["name"] for change in source.news()] == ["here"]


@pytest.mark.parametrize("engine", ["sqlite", *map(marked, ("postgresql", "mariadb"))])
def test_another_alias_is_captured_instead_where_the_settings_name_it(engine, world, centre, settings):
    world, source = world
    source.step()
    settings.MIRROR = {"MODELS": ["library.*"], "DATABASE": "other"}
    with writing.attached("other", world.database) as other:
        assert capture.sync(other) == []
        elsewhere = Recorded(Sequencer().using)
        assert elsewhere.using == "other"
        Shelf.objects.using("other").create(name="other")
        with transaction.atomic(using="other"):
            Shelf.objects.using("other").filter(name="other").update(name="another")
        assert [change.fields["name"] for change in elsewhere.news()] == ["other", "another"]


def test_migrate_makes_triggers_for_the_named_alias_only(tmp_path, django_db_blocker):
    with (
        writing.library_installed(),
        override_settings(MIRROR={"MODELS": ["library.*"], "DATABASE": "other"}),
        django_db_blocker.unblock(),
        writing.attached("default", writing.sqlite(tmp_path / "default.sqlite3")),
        writing.attached("other", writing.sqlite(tmp_path / "other.sqlite3")),
    ):
        for alias in ("default", "other"):
            call_command("migrate", database=alias, run_syncdb=True, verbosity=0)
            Shelf.objects.using(alias).create(name=alias)
        told = {alias: Outbox.objects.using(alias).count() for alias in ("default", "other")}
    assert told == {"default": 0, "other": 1}
