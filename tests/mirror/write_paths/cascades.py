"""Paths through foreign keys by which the database itself changes rows."""

from __future__ import annotations

from typing import Any

from django.db.models import F

from tests.mirror.writing import World, path
from tests.project.library import models
from tests.project.library.models import Branch, Leaf, Nest

#: Some of its models are there only where Django has what they need.
library: Any = models

GROUP = "Cascades of the database"
SILENT = {"mariadb": "foreign keys of InnoDB call no trigger (`mirrordoctor`: cascade)"}
ALSO_THERE = "a mirror's database deletes the rows that refer to the old key, and theirs"


@path("`ON DELETE CASCADE`, also of rows that refer to themselves", GROUP, SILENT)
def deletes(world: World) -> None:
    world.execute("DELETE FROM library_birdhouse")
    Branch.objects.create(id=10, name="10")
    Leaf.objects.create(id=10, name="10", branch_id=10)
    Branch.objects.filter(id=10)._raw_delete("default")
    world.step()
    world.execute("UPDATE library_branch SET parent_id = 1 WHERE id = 3")
    world.execute("DELETE FROM library_branch WHERE id = 2")
    world.step()
    world.execute("UPDATE library_branch SET parent_id = 1 WHERE id = 1")
    world.execute("DELETE FROM library_branch WHERE id = 1")


@path("`ON DELETE SET NULL`", GROUP, SILENT)
def sets_null(world: World) -> None:
    world.execute("UPDATE library_leaf SET branch_id = NULL")
    world.execute("DELETE FROM library_branch WHERE id = 3")


@path("`ON DELETE SET DEFAULT`", GROUP, engines=("sqlite", "postgresql"))
def sets_default(world: World) -> None:
    world.execute("DELETE FROM library_nest")
    world.execute("DELETE FROM library_leaf")
    world.step()
    world.execute("DELETE FROM library_branch WHERE id IN (2, 3)")


@path("`ON UPDATE CASCADE`", GROUP, SILENT)
def moves(world: World) -> None:
    world.execute("DELETE FROM library_nest WHERE branch_id = 3")
    world.execute("DELETE FROM library_birdhouse WHERE branch_id = 3")
    world.execute("UPDATE library_branch SET id = 33 WHERE id = 3")
    world.step()
    world.execute("UPDATE library_branch SET name = 'x' WHERE id = 33")


@path("a cascade whose rows were changed, or are changed after it, in the same transaction", GROUP, SILENT)
def among_others(world: World) -> None:
    Leaf.objects.update(name=F("id"))
    Nest.objects.filter(id=2).update(leaf=1)
    world.execute("DELETE FROM library_branch WHERE id = 2")
    world.step()
    Branch.objects.create(id=2, name="again")
    Leaf.objects.create(id=2, name="again", branch_id=2)
    Nest.objects.update(name="after")


@path("`DB_CASCADE` and `DB_SET_NULL` of Django 6.1", GROUP, SILENT, needs="DB_CASCADE")
def of_django(world: World) -> None:
    library.Cushion.objects.all().delete()
    world.step()
    library.Room.objects.get(name="study").delete()
    world.step()
    room = library.Room.objects.create(name="cellar")
    inner = library.Room.objects.create(name="inner cellar", within=room)
    library.Chair.objects.create(room=inner)
    library.Lamp.objects.create(room=inner, chair=library.Chair.objects.create(room=room))
    world.step()
    room.delete()
    library.Room.objects.all().delete()


@path(
    "a changed `id` of a `UUIDModel` that others refer to by `DB_CASCADE`",
    GROUP,
    lost=dict.fromkeys(("sqlite", "postgresql"), ALSO_THERE),
    needs="DB_CASCADE",
)
def moves_a_parent(world: World) -> None:
    library.Room.objects.filter(name="study").update(id="00000000-0000-0000-0000-000000000777")
