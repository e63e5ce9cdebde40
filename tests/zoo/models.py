"""A model for each family of fields and of keys."""

from __future__ import annotations

import uuid

from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.db import models
from django.db.models.functions import Now

from mirror.models import UUIDModel
from tests.zoo.fields import CentsField, HandField, ReversedEncoder, SecretField, UnwrappingDecoder


class Numbers(UUIDModel):
    small = models.SmallIntegerField(null=True)
    whole = models.IntegerField(null=True)
    big = models.BigIntegerField(null=True)
    positive_small = models.PositiveSmallIntegerField(null=True)
    positive = models.PositiveIntegerField(null=True)
    positive_big = models.PositiveBigIntegerField(null=True)
    money = models.DecimalField(max_digits=12, decimal_places=2, null=True)
    fine = models.DecimalField(max_digits=15, decimal_places=10, null=True)
    huge = models.DecimalField(max_digits=60, decimal_places=20, null=True)
    ratio = models.FloatField(null=True)
    sure = models.BooleanField(null=True)

    class Meta:
        app_label = "zoo"


class Texts(UUIDModel):
    title = models.CharField(max_length=50, null=True)
    body = models.TextField(null=True)
    slug = models.SlugField(null=True)
    mail = models.EmailField(null=True)
    link = models.URLField(null=True)
    file = models.FileField(null=True)
    image = models.ImageField(null=True)
    path = models.FilePathField(null=True)
    address = models.GenericIPAddressField(null=True)
    address4 = models.GenericIPAddressField(protocol="IPv4", null=True)
    blob = models.BinaryField(null=True)
    token = models.UUIDField(null=True)
    document = models.JSONField(null=True)

    class Meta:
        app_label = "zoo"


class Times(UUIDModel):
    day = models.DateField(null=True)
    hour = models.TimeField(null=True)
    moment = models.DateTimeField(null=True)
    span = models.DurationField(null=True)

    class Meta:
        app_label = "zoo"


class Custom(UUIDModel):
    secret = SecretField(null=True)
    hand = HandField(null=True)
    cents = CentsField(null=True)
    wrapped = models.JSONField(null=True, encoder=ReversedEncoder, decoder=UnwrappingDecoder)

    class Meta:
        app_label = "zoo"


class Computed(UUIDModel):
    side = models.IntegerField(default=0)
    area = models.GeneratedField(
        expression=models.F("side") * models.F("side"), output_field=models.IntegerField(), db_persist=True
    )
    label = models.CharField(max_length=20, db_default="given by the table")
    made_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "zoo"


# Keys


class TextKeyed(models.Model):
    code = models.CharField(max_length=40, primary_key=True)
    value = models.IntegerField(default=0)

    class Meta:
        app_label = "zoo"


class UuidKeyed(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    value = models.IntegerField(default=0)

    class Meta:
        app_label = "zoo"


class DayKeyed(models.Model):
    day = models.DateField(primary_key=True)
    value = models.IntegerField(default=0)

    class Meta:
        app_label = "zoo"


class MomentKeyed(models.Model):
    moment = models.DateTimeField(primary_key=True)
    value = models.IntegerField(default=0)

    class Meta:
        app_label = "zoo"


class SpanKeyed(models.Model):
    span = models.DurationField(primary_key=True)
    value = models.IntegerField(default=0)

    class Meta:
        app_label = "zoo"


class AmountKeyed(models.Model):
    amount = models.DecimalField(max_digits=10, decimal_places=2, primary_key=True)
    value = models.IntegerField(default=0)

    class Meta:
        app_label = "zoo"


class CompositeKeyed(models.Model):
    pk = models.CompositePrimaryKey("owner", "day", "number")
    owner = models.ForeignKey(TextKeyed, models.CASCADE)
    day = models.DateField()
    number = models.BigIntegerField()
    value = models.IntegerField(default=0)

    class Meta:
        app_label = "zoo"


# References


class Place(models.Model):
    name = models.CharField(max_length=20)
    near = models.ManyToManyField("self")

    class Meta:
        app_label = "zoo"


class Cafe(Place):
    seats = models.IntegerField(default=0)

    class Meta:
        app_label = "zoo"


class Animal(UUIDModel):
    name = models.CharField(max_length=20)
    parent = models.ForeignKey("self", models.SET_NULL, null=True)
    favourite = models.ForeignKey("zoo.Keeper", models.SET_NULL, null=True, related_name="+")
    keepers = models.ManyToManyField("zoo.Keeper", through="zoo.Shift", related_name="animals")
    friends = models.ManyToManyField("self")
    notes = GenericRelation("zoo.Note", content_type_field="kind")

    class Meta:
        app_label = "zoo"


class Bird(Animal):
    wings = models.IntegerField(default=2)

    class Meta:
        app_label = "zoo"


class Tame(Animal):
    class Meta:
        app_label = "zoo"
        proxy = True


class Keeper(UUIDModel):
    name = models.CharField(max_length=20)
    favourite = models.ForeignKey(Animal, models.SET_NULL, null=True, related_name="+")

    class Meta:
        app_label = "zoo"


class Shift(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    animal = models.ForeignKey(Animal, models.CASCADE)
    keeper = models.ForeignKey(Keeper, models.CASCADE)
    hours = models.DecimalField(max_digits=4, decimal_places=1, default=1)

    class Meta:
        app_label = "zoo"


class Note(UUIDModel):
    """About anything: a row is known by its content type and its key, the latter as each project likes it."""

    kind = models.ForeignKey("contenttypes.ContentType", models.CASCADE, related_name="+")
    object_id = models.PositiveBigIntegerField()
    about = GenericForeignKey("kind", "object_id")
    text = models.CharField(max_length=20, default="")

    class Meta:
        app_label = "zoo"


class Label(models.Model):
    kind = models.ForeignKey("contenttypes.ContentType", models.CASCADE, related_name="+", null=True)
    object_id = models.CharField(max_length=50, null=True)
    about = GenericForeignKey("kind", "object_id")
    text = models.CharField(max_length=20, default="")

    class Meta:
        app_label = "zoo"
