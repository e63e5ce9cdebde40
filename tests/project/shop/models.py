"""A small shop: every kind of key and reference that a mirror has to match."""

from __future__ import annotations

import uuid

from django.db import models

from mirror.models import UUIDModel


class Brand(UUIDModel):
    name = models.CharField(max_length=100, unique=True)


class Tag(UUIDModel):
    label = models.CharField(max_length=50)


class Product(UUIDModel):
    """Both ways to point at a UUIDModel: by ``id``, and by ``pkid``."""

    brand = models.ForeignKey(Brand, models.CASCADE, to_field="id", null=True, related_name="products")
    second_brand = models.ForeignKey(Brand, models.SET_NULL, null=True, related_name="+")
    parent = models.ForeignKey("self", models.CASCADE, null=True)
    name = models.CharField(max_length=100)
    stock = models.IntegerField(default=0)
    price = models.DecimalField(max_digits=10, decimal_places=2, default=0)
    weight = models.FloatField(null=True)
    on_sale = models.BooleanField(default=False)
    photo = models.BinaryField(null=True)
    details = models.JSONField(default=dict)
    listed_at = models.DateTimeField(null=True)
    shelf_life = models.DurationField(null=True)
    tags = models.ManyToManyField(Tag, blank=True)


class Bundle(Product):
    """A multi-table child: its row has no UUID of its own."""

    discount = models.IntegerField(default=0)


class Sink(UUIDModel):
    """A column of every kind that Product has not."""

    text = models.TextField(blank=True)
    big = models.BigIntegerField(null=True)
    exact = models.DecimalField(max_digits=15, decimal_places=5, null=True)
    ratio = models.FloatField(null=True)
    sure = models.BooleanField(null=True)
    day = models.DateField(null=True)
    hour = models.TimeField(null=True)
    moment = models.DateTimeField(null=True)
    span = models.DurationField(null=True)
    blob = models.BinaryField(null=True)
    document = models.JSONField(null=True)
    token = models.UUIDField(null=True)
    address = models.GenericIPAddressField(null=True)
    file = models.FileField(blank=True)
    kind = models.ForeignKey("contenttypes.ContentType", models.CASCADE, null=True)


class Counter(models.Model):
    """Matched by its integer primary key."""

    value = models.IntegerField(default=0)


class Reading(models.Model):
    """Points at a row by its integer primary key."""

    counter = models.ForeignKey(Counter, models.CASCADE)
    taken_at = models.DateTimeField(auto_now=True)


class Seat(models.Model):
    """Matched by two columns."""

    pk = models.CompositePrimaryKey("row", "number")
    row = models.CharField(max_length=10)
    number = models.IntegerField()
    guest = models.CharField(max_length=50, blank=True)


class Ticket(models.Model):
    """Matched by a UUID primary key."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    text = models.TextField(blank=True)
    secret = models.CharField(max_length=20, blank=True)
