"""What only PostgreSQL has columns for."""

from __future__ import annotations

from django.contrib.postgres import fields
from django.contrib.postgres.search import SearchVectorField
from django.db import models

from mirror.models import UUIDModel


class CaselessField(models.TextField):
    def db_type(self, connection):
        return "citext"


class Lists(UUIDModel):
    numbers = fields.ArrayField(models.IntegerField(null=True), null=True)
    texts = fields.ArrayField(models.TextField(null=True), null=True)
    grid = fields.ArrayField(fields.ArrayField(models.FloatField(null=True)), null=True)
    moments = fields.ArrayField(models.DateTimeField(), null=True)
    amounts = fields.ArrayField(models.DecimalField(max_digits=20, decimal_places=5), null=True)
    blobs = fields.ArrayField(models.BinaryField(), null=True)
    tokens = fields.ArrayField(models.UUIDField(), null=True)
    spans = fields.ArrayField(models.DurationField(), null=True)
    flags = fields.ArrayField(models.BooleanField(), size=3, null=True)

    class Meta:
        app_label = "zoo_postgresql"


class Ranges(UUIDModel):
    numbers = fields.IntegerRangeField(null=True)
    big_numbers = fields.BigIntegerRangeField(null=True)
    amounts = fields.DecimalRangeField(null=True)
    moments = fields.DateTimeRangeField(null=True)
    days = fields.DateRangeField(null=True)

    class Meta:
        app_label = "zoo_postgresql"


class Oddities(UUIDModel):
    pairs = fields.HStoreField(null=True)
    vector = SearchVectorField(null=True)
    caseless = CaselessField(null=True)
    folded = models.CharField(max_length=30, null=True, db_collation="C")

    class Meta:
        app_label = "zoo_postgresql"
