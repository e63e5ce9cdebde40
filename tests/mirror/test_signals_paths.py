"""Every write path of Django's, with CAPTURE "signals": its changes, in their order, are what happened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from django.db import models, transaction
from django.test import override_settings

from mirror.capture import holes, signals
from mirror.models import Hole, Outbox
from tests import mysql_driver
from tests.end_to_end.databases import reading, served
from tests.fakes import Centre
from tests.mirror import writing
from tests.mirror.conftest import attached, sqlite
from tests.mirror.write_paths import orm
from tests.mirror.writing import PATHS, Path, World

CONF = {"MODELS": ["library.*"], "CAPTURE": "signals"}

#: What Django lets nobody do in autocommit: it refuses the first of several statements.
TOGETHER = {orm.changes_a_key_with_referrers, orm.changes_a_local_key, orm.locked}

#: What of the paths of Django's is not the ORM.
RAW = {orm.migrates: "RunSQL is raw SQL"}


@contextmanager
def databases(engine: str, directory) -> Iterator[list]:
    """A source and a centre, neither with triggers."""
    with ExitStack() as stack:
        names = ("signals", "signals_centre")
        if engine == "sqlite":
            pair = [sqlite(directory / f"{name}.sqlite3") for name in names]
        else:
            mysql_driver.install()
            suffix = f"{os.environ.get('PYTEST_XDIST_WORKER', 'main')}_{os.getpid()}"
            pair = [stack.enter_context(served(engine, f"livemirror_{name}_{suffix}")) for name in names]
        with writing.library_installed():
            for database, role in zip(pair, ("signals", None), strict=True):
                conf = {**CONF, "CAPTURE": role}
                with override_settings(MIRROR=conf), attached("default", database):
                    writing._make()
        yield pair


@pytest.fixture(scope="session")
def _pairs(tmp_path_factory, django_db_blocker):
    made, stack = {}, ExitStack()

    def pair(engine: str):
        if engine not in made:
            made[engine] = stack.enter_context(
                databases(engine, tmp_path_factory.mktemp(f"signals_{engine}"))
            )
        return made[engine]

    with django_db_blocker.unblock(), stack:
        yield pair


@pytest.fixture
def world(engine, _pairs, tmp_path, django_db_blocker):
    with django_db_blocker.unblock():
        source, _centre = _pairs(engine)
        with (
            writing.library_installed(),
            override_settings(MIRROR=CONF),
            writing.world(engine, source, tmp_path) as made,
        ):
            # Making room for the test was raw SQL.
            Hole.objects.all().delete()
            holes._tallies.clear()
            yield made


@pytest.fixture
def centre(engine, _pairs, tmp_path, world):
    with writing.emptied(engine, "centre", _pairs(engine)[1], tmp_path) as database:
        made = Centre("centre")
        made.database = database
        yield made


def on_each_engine(keep=lambda path: True) -> list:
    return [
        pytest.param(engine, path, id=f"{path.write.__name__}-{engine}", marks=_marks(engine, path))
        for path in PATHS
        for engine in path.engines
        if path.write.__module__ == orm.__name__ and keep(path)
    ]


def _marks(engine: str, path: Path) -> list:
    marks = [] if engine == "sqlite" else [getattr(pytest.mark, engine)]
    if path.needs and not hasattr(models, path.needs):
        marks.append(pytest.mark.skip(f"before Django had models.{path.needs}"))
    return marks


def tread(path: Path, world: World, *, autocommit: bool) -> None:
    world.step()
    if path.commits or autocommit:
        path.write(world)
    else:
        with transaction.atomic():
            path.write(world)
    world.step()


@pytest.mark.parametrize(("engine", "path"), on_each_engine(lambda path: path.write not in RAW))
def test_the_changes_of_a_path_are_what_happened(engine, path, world, centre):
    assert_told(path, *world, centre, autocommit=False)


@pytest.mark.parametrize(("engine", "path"), on_each_engine(lambda path: path.write not in {*RAW, *TOGETHER}))
def test_they_are_in_autocommit_too(engine, path, world, centre):
    assert_told(path, *world, centre, autocommit=True)


def assert_told(
    path: Path, world: World, source: writing.Recorded, centre: Centre, *, autocommit: bool
) -> None:
    with path.given(world):
        centre.follow(source)
        tread(path, world, autocommit=autocommit)
        writing.assert_told(world, source.changes())
        centre.follow(source)
        with reading(world.database) as here, reading(centre.database) as there:
            writing.assert_same(writing.state(there.rows), writing.state(here.rows), "at the mirror")
    # The library has cascades of the database where Django has them: of these no path here makes use.
    assert [hole for hole in signals.holes(writing.connection) if hole.kind != "cascade"] == []


class _Undo(Exception):
    pass


@pytest.mark.parametrize(("engine", "path"), on_each_engine(lambda path: not path.commits))
def test_a_path_that_is_rolled_back_leaves_nothing(engine, path, world):
    world, source = world
    with path.given(world):
        source.step()
        with suppress(_Undo), transaction.atomic():
            path.write(world)
            raise _Undo
        assert not Outbox.objects.exists()
        assert source.news() == []
