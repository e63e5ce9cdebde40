"""The table of fields names what there is: no field of Django's is forgotten, none is made up."""

from __future__ import annotations

import re
from pathlib import Path

from django.contrib.postgres import fields as postgresql_fields
from django.contrib.postgres import search
from django.db import models

from mirror.errors import CODES
from mirror.rows import kinds, stored

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "fields.md").read_text()

#: Bases of others, and types that only expressions have.
NO_COLUMNS = {"Field", "ForeignObject", "RangeField", "ContinuousRangeField"} | {
    "SearchQueryField",
    "_Float4Field",
}


def fields_of(*modules) -> set[str]:
    return {
        name
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type)
        and (issubclass(value, models.Field) or value is models.ManyToManyField)
        and getattr(value, "system_check_removed_details", None) is None
    } - NO_COLUMNS


def documented() -> set[str]:
    rows = [line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| `")]
    names = re.compile(r"`(\w+Field|CompositePrimaryKey|ForeignKey|OrderWrt)`")
    return {name for row in rows for name in names.findall(row)}


def test_every_field_of_django_has_its_row_and_no_row_is_of_another():
    known = fields_of(models, postgresql_fields, search)
    gone = {"CommaSeparatedIntegerField", "IPAddressField", "NullBooleanField"}
    assert documented() - gone == known


def test_every_kind_that_is_converted_is_in_the_table():
    assert set(kinds._KINDS) <= documented()


def test_the_codes_and_marks_are_those_that_travel():
    for code in re.findall(r"^\| `([a-z_]+)` \|", TEXT, re.MULTILINE):
        assert code in CODES
    assert {"wrong_value", "constraint_failed", "missing_parent", "unknown_model"} <= CODES.keys()
    marks = set(re.findall(r'\{"(\$\w+)"', TEXT)) | set(re.findall(r'"(\$\w+)":', TEXT))
    assert marks == {*stored._VENDORS, stored.MISSING, stored.READ, stored.ROW, "$json"}
