"""What stands in the database while a path is tried: an application's own triggers, views, procedures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from django.db import connection

from mirror import capture
from tests.mirror.writing import Given, World

_PLPGSQL = """
    CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN IF pg_trigger_depth() > {depth} THEN RETURN {kept}; END IF; {body} RETURN {kept}; END $$;
    CREATE {kind} {name} {event} ON {table} {timing} FOR EACH {level} EXECUTE FUNCTION {name}()
"""


def objects(statements: Mapping[str, tuple[str, ...]]) -> Given:
    """By engine: what makes each thing, followed by what removes it."""

    @contextmanager
    def given(world: World) -> Iterator[None]:
        parts = iter(statements.get(world.engine, ()))
        pairs = list(zip(parts, parts, strict=True))
        for make, _remove in pairs:
            world.execute(make)
        try:
            yield
        finally:
            for _make, remove in reversed(pairs):
                if remove:
                    world.execute(remove)

    return given


def trigger(
    event: str, table: str, body: str, *, level: str = "ROW", depth: int = 10, deferred: bool = False
) -> Given:
    """A trigger of the application's; ``depth`` is how deep PostgreSQL's may nest."""

    @contextmanager
    def given(world: World) -> Iterator[None]:
        name = f"theirs_{event.lower().replace(' ', '_')}_{table}"
        if world.engine == "postgresql":
            world.execute(
                _PLPGSQL.format(
                    name=name,
                    event=event,
                    table=table,
                    body=body,
                    depth=depth,
                    level=level,
                    kept="NULL" if event.startswith("AFTER") else "OLD" if "DELETE" in event else "NEW",
                    kind="CONSTRAINT TRIGGER" if deferred else "TRIGGER",
                    timing="DEFERRABLE INITIALLY DEFERRED" if deferred else "",
                )
            )
        else:
            world.execute(f"CREATE TRIGGER {name} {event} ON {table} FOR EACH ROW BEGIN {body} END")
        try:
            yield
        finally:
            kind = "FUNCTION" if world.engine == "postgresql" else "TRIGGER"
            world.execute(f"DROP {kind} {name}{' CASCADE' if kind == 'FUNCTION' else ''}")

    return given


def all_of(*givens: Given) -> Given:
    @contextmanager
    def given(world: World) -> Iterator[None]:
        with ExitStack() as stack:
            for one in givens:
                stack.enter_context(one(world))
            yield

    return given


def before_ours(given: Given) -> Given:
    """The same, made before the triggers that capture: engines differ in whose turn it is first."""

    @contextmanager
    def earlier(world: World) -> Iterator[None]:
        writer = capture.WRITERS[connection.vendor]
        for name in writer.installed(connection):
            world.execute(writer.drop(connection, name))
        with given(world):
            capture.sync(connection)
            yield

    return earlier
