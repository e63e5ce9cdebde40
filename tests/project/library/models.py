"""A library: every kind of key, every reaction to a deletion, values that must be unique."""

from __future__ import annotations

import uuid

from django.db import models

from mirror.models import UUIDModel


class Mark(models.Model):
    """Written between the steps of a path, so that each step has its place among the changes."""

    class Meta:
        app_label = "library"


# Integer keys


class Shelf(models.Model):
    name = models.CharField(max_length=50, unique=True)

    class Meta:
        app_label = "library"


class Book(models.Model):
    title = models.CharField(max_length=50, unique=True)
    copies = models.IntegerField(default=0)
    shelf = models.ForeignKey(Shelf, models.CASCADE, null=True, related_name="books")
    display = models.ForeignKey(Shelf, models.SET_NULL, null=True, related_name="+")
    home = models.ForeignKey(Shelf, models.SET_DEFAULT, default=1, related_name="+")
    sequel_of = models.ForeignKey("self", models.CASCADE, null=True)
    keywords = models.ManyToManyField("Keyword", through="Tagging")

    class Meta:
        app_label = "library"


class Keyword(models.Model):
    word = models.CharField(max_length=50, primary_key=True)

    class Meta:
        app_label = "library"


class Tagging(models.Model):
    """An explicit through row."""

    book = models.ForeignKey(Book, models.CASCADE)
    keyword = models.ForeignKey(Keyword, models.CASCADE)
    weight = models.IntegerField(default=1)

    class Meta:
        app_label = "library"
        constraints = [models.UniqueConstraint(fields=["book", "keyword"], name="library_tagging_once")]


class Slot(models.Model):
    """Matched by two columns."""

    pk = models.CompositePrimaryKey("corridor", "place")
    corridor = models.CharField(max_length=10)
    place = models.IntegerField()
    note = models.CharField(max_length=50, blank=True)

    class Meta:
        app_label = "library"


class Rank(models.Model):
    """Places may be swapped within a statement, where the database can put the check off."""

    name = models.CharField(max_length=50)
    place = models.IntegerField()

    class Meta:
        app_label = "library"
        constraints = [
            models.UniqueConstraint(
                fields=["place"], name="library_rank_place", deferrable=models.Deferrable.DEFERRED
            )
        ]


class Patron(models.Model):
    """Matched by a UUID primary key."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=50)

    class Meta:
        app_label = "library"


# Keys of each server's own


class Genre(UUIDModel):
    name = models.CharField(max_length=50)

    class Meta:
        app_label = "library"


class Author(UUIDModel):
    name = models.CharField(max_length=50, unique=True)
    mentor = models.ForeignKey("self", models.SET_NULL, null=True)

    class Meta:
        app_label = "library"


class Work(UUIDModel):
    title = models.CharField(max_length=50)
    author = models.ForeignKey(Author, models.CASCADE, null=True, related_name="works")
    editor = models.ForeignKey(Author, models.CASCADE, to_field="id", null=True, related_name="+")
    genres = models.ManyToManyField(Genre, related_name="works")
    related = models.ManyToManyField("self")

    class Meta:
        app_label = "library"


class Novel(Work):
    """A multi-table child."""

    pages = models.IntegerField(default=0)

    class Meta:
        app_label = "library"


class Edition(models.Model):
    """Points at a multi-table child."""

    novel = models.ForeignKey(Novel, models.CASCADE)
    year = models.IntegerField(default=2000)

    class Meta:
        app_label = "library"


# Cascades by the database. ``managed = False``: their tables are made as Django 6.1 would, see ``writing``.


class Branch(models.Model):
    parent = models.ForeignKey("self", models.DO_NOTHING, null=True)
    name = models.CharField(max_length=50)

    class Meta:
        app_label = "library"
        managed = False


class Leaf(models.Model):
    branch = models.ForeignKey(Branch, models.DO_NOTHING, null=True)
    name = models.CharField(max_length=50)

    class Meta:
        app_label = "library"
        managed = False


class Nest(models.Model):
    branch = models.ForeignKey(Branch, models.DO_NOTHING, null=True)
    leaf = models.ForeignKey(Leaf, models.DO_NOTHING, null=True)
    name = models.CharField(max_length=50)

    class Meta:
        app_label = "library"
        managed = False


class Birdhouse(models.Model):
    branch = models.ForeignKey(Branch, models.DO_NOTHING, default=1)
    name = models.CharField(max_length=50)

    class Meta:
        app_label = "library"
        managed = False


if hasattr(models, "DB_CASCADE"):

    class Room(UUIDModel):
        name = models.CharField(max_length=50)
        within = models.ForeignKey("self", models.DB_CASCADE, null=True)

        class Meta:
            app_label = "library"

    class Chair(UUIDModel):
        room = models.ForeignKey(Room, models.DB_CASCADE)
        cushion = models.ForeignKey("Cushion", models.DB_SET_NULL, null=True)

        class Meta:
            app_label = "library"

    class Cushion(UUIDModel):
        room = models.ForeignKey(Room, models.DB_CASCADE, null=True)

        class Meta:
            app_label = "library"

    class Lamp(models.Model):
        room = models.ForeignKey(Room, models.DB_SET_NULL, null=True)
        chair = models.ForeignKey(Chair, models.DB_CASCADE, null=True)

        class Meta:
            app_label = "library"
