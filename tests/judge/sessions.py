"""When a test of Django's is judged: hooks around its rows' coming and going."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable
from typing import Any

from django.core.checks.registry import registry
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import TestCase, TransactionTestCase

from mirror.capture import sync
from tests.judge.court import CENTRE, Court, Verdict, attached

ALIAS = "default"

_courts: list[Court] = []


def opened(setup_databases: Callable[..., Any], findings: dict[str, Any], **kwargs: Any) -> Any:
    """Set up the databases, and the court over the captured one where a test uses it."""
    # Everything is mirrored here on purpose, passwords too; and tests count what the checks say.
    checks = registry.registered_checks
    registry.registered_checks = {check for check in checks if not check.__module__.startswith("mirror.")}
    old = setup_databases(**kwargs)
    findings |= {"judged": 0, "changes": 0, "unjudged": {}, "folds": {}, "mirrors": {}, "uncaptured": []}
    if ALIAS in (kwargs.get("aliases") or ()):
        court = Court(ALIAS, copied(connections[ALIAS]))
        findings["uncaptured"] = court.uncaptured()
        _courts.append(court)
        _hook(court, findings)
    return old


def close() -> None:
    for court in _courts:
        _drop(court.centre)


def _hook(court: Court, findings: dict[str, Any]) -> None:
    """A TestCase is judged from before its class' data on, before its rows are rolled back; others around
    each test, before and after the tables are emptied."""
    set_up_class = TransactionTestCase.__dict__["setUpClass"].__func__
    fixture_setup = TransactionTestCase.__dict__["_fixture_setup"].__func__
    test_teardown, transaction_teardown = TestCase._fixture_teardown, TransactionTestCase._fixture_teardown

    def begin_class(cls: type[TransactionTestCase]) -> None:
        set_up_class(cls)
        if issubclass(cls, TestCase) and ALIAS in cls.databases:
            court.begin()

    def begin_test(cls: type[TransactionTestCase]) -> None:
        if ALIAS in cls.databases:
            court.begin()
        fixture_setup(cls)

    def end_test(self: TestCase) -> None:
        _note(self, court, findings, "")
        test_teardown(self)

    def end_transaction_test(self: TransactionTestCase) -> None:
        _note(self, court, findings, "")
        transaction_teardown(self)
        _note(self, court, findings, " when its tables were emptied")

    TransactionTestCase.setUpClass = classmethod(begin_class)  # type: ignore[assignment,method-assign]
    TransactionTestCase._fixture_setup = classmethod(begin_test)
    TestCase._fixture_teardown = end_test
    TransactionTestCase._fixture_teardown = end_transaction_test


def _note(test: TransactionTestCase, court: Court, findings: dict[str, Any], when: str) -> None:
    if ALIAS not in test.databases:
        return
    name = test.id() + when
    try:
        verdict = court.judge()
    except Exception:  # noqa: BLE001
        verdict = Verdict(changes=0, folded=[traceback.format_exc()])
    findings["changes"] += verdict.changes
    if verdict.unjudged:
        findings["unjudged"][name] = verdict.unjudged
        return
    findings["judged"] += 1
    if verdict.folded:
        findings["folds"][name] = verdict.folded[:20]
    if verdict.mirrored:
        findings["mirrors"][name] = verdict.mirrored[:20]


# The second database


def copied(connection: BaseDatabaseWrapper) -> BaseDatabaseWrapper:
    settings_dict = copy.deepcopy(connection.settings_dict)
    if connection.vendor == "sqlite":
        settings_dict["NAME"] = ":memory:"
        centre = type(connection)(settings_dict, alias=CENTRE)
        centre.ensure_connection()
        connection.ensure_connection()
        connection.connection.backup(centre.connection)
        return centre
    name = settings_dict["NAME"]
    settings_dict["NAME"] = f"{name}_centre"
    template = ""
    if connection.vendor == "postgresql":
        connection.close()
        template = f" TEMPLATE {connection.ops.quote_name(name)}"
    with connection._nodb_cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {connection.ops.quote_name(settings_dict['NAME'])}{template}")
    centre = type(connection)(settings_dict, alias=CENTRE)
    if not template:
        _copy_tables(connection, centre)
    return centre


def _copy_tables(connection: BaseDatabaseWrapper, centre: BaseDatabaseWrapper) -> None:
    """MySQL has no templates. Rows come with the first test."""
    quote = connection.ops.quote_name
    with connection.cursor() as here, centre.cursor() as there, centre.constraint_checks_disabled():
        for name in connection.introspection.table_names(here):
            here.execute(f"SHOW CREATE TABLE {quote(name)}")
            there.execute(here.fetchone()[1])
    with attached(centre):
        sync(centre)


def _drop(centre: BaseDatabaseWrapper) -> None:
    centre.close()
    if centre.vendor != "sqlite":
        with connections[ALIAS]._nodb_cursor() as cursor:
            cursor.execute(f"DROP DATABASE {centre.ops.quote_name(centre.settings_dict['NAME'])}")
