"""Paths through Django's ORM."""

from __future__ import annotations

import json
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID

from asgiref.sync import async_to_sync
from django.apps import apps
from django.core.management import call_command
from django.db import IntegrityError, connection, migrations, models, transaction
from django.db.migrations.state import ProjectState
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Concat

from tests.mirror.writing import World, path
from tests.project.library.models import (
    Author,
    Book,
    Edition,
    Genre,
    Keyword,
    Novel,
    Patron,
    Shelf,
    Slot,
    Tagging,
    Work,
)

ROWS, BULK, DELETES, M2M, KEYS, TRANSACTIONS = (
    "Rows",
    "Many rows",
    "Deletions",
    "Many-to-many",
    "Keys and unique values",
    "Transactions",
)


# Rows


@path("`save()` of a new row and of a changed one, `update_fields`", ROWS)
def saves(world: World) -> None:
    book = Book(title="Ulysses", copies=1)
    book.save()
    world.step()
    book.title = "Ulysses, again"
    book.save()
    world.step()
    book.copies = 7
    book.title = "not written"
    book.save(update_fields=["copies"])


@path("`save()` with an `F()` value", ROWS)
def saves_an_expression(world: World) -> None:
    book = Book.objects.get(title="Moby")
    book.copies = F("copies") + 10
    book.save()
    world.step()
    book.save()


@path("`create`, `get_or_create`, `update_or_create`", ROWS)
def creates(world: World) -> None:
    Book.objects.get_or_create(title="Moby", defaults={"copies": 9})
    Book.objects.get_or_create(title="Dracula", defaults={"copies": 9})
    world.step()
    for copies in (1, 2):
        Shelf.objects.get(name="a").books.update_or_create(title="Emma", defaults={"copies": copies})
        world.step()
    Patron.objects.create(name="Bob")


@path("a multi-table child: `create`, `save`, `delete`, `delete(keep_parents=True)`", ROWS)
def multi_table(world: World) -> None:
    novel = Novel.objects.create(title="Emma", pages=1)
    world.step()
    novel.title, novel.pages = "Emma II", 2
    novel.save()
    world.step()
    Novel.objects.filter(pages=2).update(pages=F("pages") * 2, title="III")
    world.step()
    novel.delete(keep_parents=True)
    world.step()
    Novel(work_ptr_id=novel.pkid, pages=7).save_base(raw=True)
    world.step()
    Novel.objects.get(title="Omoo").delete()


@path("`save()` and `delete()` of a row with a composite key", ROWS)
def composite(world: World) -> None:
    slot = Slot.objects.create(corridor="B", place=1, note="new")
    world.step()
    slot.note = "changed"
    slot.save()
    world.step()
    Slot.objects.filter(pk=("A", 2)).update(note="x")
    Slot.objects.get(pk=("A", 1)).delete()


@path("the async ORM: `acreate`, `asave`, `abulk_create`, `aupdate`, `aadd`, `adelete`", ROWS)
def asynchronous(world: World) -> None:
    async def write() -> None:
        book = await Book.objects.acreate(title="Ulysses")
        book.copies = 5
        await book.asave()
        await Book.objects.abulk_create([Book(title="x"), Book(title="y")])
        await Book.objects.filter(title="x").aupdate(copies=F("copies") + 3)
        work = await Work.objects.aget(title="Typee")
        await work.genres.aadd(await Genre.objects.aget(name="z"))
        await work.genres.aclear()
        await book.adelete()

    async_to_sync(write)()


# Many rows


@path("`bulk_create`", BULK)
def bulk_create(world: World) -> None:
    Book.objects.bulk_create([Book(title=f"b{number}") for number in range(30)], batch_size=7)
    world.step()
    Slot.objects.bulk_create([Slot(corridor="C", place=number) for number in range(5)])


@path("`bulk_create(ignore_conflicts=True)`", BULK)
def bulk_create_ignoring(world: World) -> None:
    books = [Book(title="Moby", copies=99), Book(title="Emma"), Book(id=2, title="clash")]
    Book.objects.bulk_create(books, ignore_conflicts=True)


@path("`bulk_create(update_conflicts=True)`", BULK)
def bulk_create_updating(world: World) -> None:
    target: dict[str, Any] = {} if world.engine == "mariadb" else {"unique_fields": ["title"]}
    Book.objects.bulk_create(
        [Book(title="Emma", copies=5), Book(title="Moby", copies=50), Book(title="Iliad", copies=60)],
        update_conflicts=True,
        update_fields=["copies"],
        **target,
    )
    world.step()
    target = {} if world.engine == "mariadb" else {"unique_fields": ["id"]}
    Author.objects.bulk_create(
        [Author(id=UUID(int=12), name="Homeros"), Author(name="new")],
        update_conflicts=True,
        update_fields=["name"],
        **target,
    )


@path("`bulk_update`", BULK)
def bulk_update(world: World) -> None:
    books = list(Book.objects.order_by("title"))
    for book in books:
        book.title, book.copies = f"{book.title}!", F("copies") + 1
    Book.objects.bulk_update(books, ["title", "copies"], batch_size=3)


@path("`QuerySet.update` with `F()`, `Case`, functions and a subquery", BULK)
def updates(world: World) -> None:
    Book.objects.update(copies=F("copies") * 2)
    world.step()
    Book.objects.update(
        copies=Case(When(title="Moby", then=Value(0)), default=F("copies") + 1),
        title=Concat(F("title"), Value("."), output_field=models.CharField()),
    )
    world.step()
    Book.objects.filter(shelf__name="a").update(
        display=Shelf.objects.filter(name="d").values("id")[:1], sequel_of=None
    )
    world.step()
    Book.objects.filter(title="nothing").update(copies=1)


@path("`select_for_update` and what is written under it", TRANSACTIONS)
def locked(world: World) -> None:
    for book in Book.objects.select_for_update().order_by("id"):
        book.copies += 1
        book.save(update_fields=["copies"])
        world.step()


# Deletions


@path("`delete()` of a row, `QuerySet.delete`, `_raw_delete`", DELETES)
def deletes(world: World) -> None:
    Slot.objects.get(pk=("A", 1)).delete()
    world.step()
    Slot.objects.all().delete()
    world.step()
    Tagging.objects.all()._raw_delete(connection.alias)


@path("`on_delete`: `CASCADE`, `SET_NULL`, `SET_DEFAULT`, rows that refer to themselves", DELETES)
def cascades(world: World) -> None:
    Shelf.objects.get(name="b").delete()
    world.step()
    Shelf.objects.filter(name="c").delete()
    world.step()
    Book.objects.get(title="Iliad").delete()
    world.step()
    Author.objects.get(name="Melville").delete()


@path("a self-reference that is deleted with all that follow it", DELETES)
def deletes_a_chain(world: World) -> None:
    before = None
    for number in range(20):
        before = Book.objects.create(title=f"part {number}", sequel_of=before)
    Book.objects.filter(title="part 19").update(sequel_of=before)
    world.step()
    Book.objects.get(title="part 0").delete()


@path("rows that are inserted and deleted in one transaction", DELETES)
def comes_and_goes(world: World) -> None:
    author = Author.objects.create(name="nobody")
    work = Work.objects.create(title="nothing", author=author)
    work.genres.add(Genre.objects.create(name="none"))
    Novel.objects.create(title="never", author=author, pages=1)
    world.step()
    author.delete()
    Genre.objects.filter(name="none").delete()
    world.step()
    Shelf.objects.create(name="e").delete()


# Many-to-many


@path("`add`, `remove`, `set`, `clear`, `create`, from either side", M2M)
def many_to_many(world: World) -> None:
    work, (x, y, z) = Work.objects.get(title="Typee"), Genre.objects.order_by("name")
    work.genres.add(z)
    world.step()
    work.genres.remove(x)
    world.step()
    work.genres.set([x, z])
    world.step()
    work.genres.set([y], clear=True)
    world.step()
    work.genres.clear()
    world.step()
    x.works.add(work, *Work.objects.all())
    world.step()
    x.works.set([work])
    world.step()
    x.works.remove(work)
    y.works.create(title="made")
    world.step()
    y.works.clear()


@path("a symmetrical many-to-many with itself", M2M)
def symmetrical(world: World) -> None:
    typee, omoo = Work.objects.get(title="Typee"), Work.objects.get(title="Omoo")
    typee.related.clear()
    world.step()
    omoo.related.add(typee, omoo)
    world.step()
    omoo.related.set([typee])
    typee.delete()


@path("rows of a through model, also by `add(through_defaults=…)`", M2M)
def through(world: World) -> None:
    book = Book.objects.get(title="Iliad")
    book.keywords.add(*Keyword.objects.all(), through_defaults={"weight": 4})
    world.step()
    Tagging.objects.filter(book=book).update(weight=F("weight") + 1)
    book.keywords.set(["war"], through_defaults={"weight": 2})
    world.step()
    Keyword.objects.get(word="war").delete()


# Keys and unique values


@path("a changed primary key", KEYS)
def changes_a_key(world: World) -> None:
    Slot.objects.filter(corridor="A", place=3).update(place=33)
    world.step()
    Slot.objects.filter(corridor="A").update(corridor="Z")
    world.step()
    Patron.objects.update(id=UUID(int=2))
    world.step()
    Shelf.objects.filter(name="d").update(id=44)


@path("a changed primary key whose referring rows follow in the same transaction", KEYS)
def changes_a_key_with_referrers(world: World) -> None:
    if world.engine == "mariadb":  # checks foreign keys at once
        world.execute("SET foreign_key_checks = 0")
    Shelf.objects.filter(name="a").update(id=77)
    Book.objects.filter(shelf=1).update(shelf=77)
    Book.objects.filter(display=1).update(display=77)
    Book.objects.filter(home=1).update(home=77)
    Keyword.objects.filter(word="sea").update(word="ocean")
    Tagging.objects.filter(keyword="sea").update(keyword="ocean")
    if world.engine == "mariadb":
        world.execute("SET foreign_key_checks = 1")


@path("a key that is used again, within a transaction", KEYS)
def uses_a_key_again(world: World) -> None:
    for note in ("one", "two"):
        Slot.objects.filter(corridor="A", place=1).delete()
        Slot.objects.create(corridor="A", place=1, note=note)
        world.step()
    Book.objects.filter(title="Moby").delete()
    Book.objects.create(id=1, title="Emma")
    world.step()
    melville = Author.objects.get(name="Melville")
    author = melville.pkid
    melville.delete()
    Author.objects.create(pkid=author, name="Austen")


@path("a unique value that changes hands within a transaction", KEYS)
def swaps_unique_values(world: World) -> None:
    first, second = Shelf.objects.filter(name__in="ab").order_by("name")
    Shelf.objects.filter(pk=first.pk).update(name="between")
    Shelf.objects.filter(pk=second.pk).update(name="a")
    Shelf.objects.filter(pk=first.pk).update(name="b")
    world.step()
    Book.objects.filter(title="Moby").delete()
    Book.objects.filter(title="Iliad").update(title="Moby")
    Book.objects.create(title="Iliad")
    world.step()
    homer, melville = Author.objects.get(name="Homer"), Author.objects.get(name="Melville")
    for author, name in [(homer, "x"), (melville, "Homer"), (homer, "Melville")]:
        author.name = name
        author.save()


@path("a changed `pkid` of a `UUIDModel`, with all that refers to it", KEYS)
def changes_a_local_key(world: World) -> None:
    if world.engine == "mariadb":
        world.execute("SET foreign_key_checks = 0")
    Author.objects.filter(name="Melville").update(pkid=501)
    Author.objects.filter(mentor=1).update(mentor=501)
    Work.objects.filter(author=1).update(author=501)
    if world.engine == "mariadb":
        world.execute("SET foreign_key_checks = 1")


@path(
    "a changed `id` of a `UUIDModel` that others refer to by `pkid`",
    KEYS,
)
def changes_a_uuid(world: World) -> None:
    Work.objects.filter(author=1).update(author=1)
    Author.objects.filter(mentor=1).update(mentor=1)
    Author.objects.filter(name="Melville").update(id=UUID(int=911))
    world.step()
    Genre.objects.filter(name="x").update(id=UUID(int=901))
    world.step()
    Work.objects.filter(title="Omoo").update(id=UUID(int=922), title="Omoo II")
    world.step()
    Work.objects.filter(title="Typee").update(id=UUID(int=921))


# Transactions


class _Undo(Exception):
    pass


@contextmanager
def _undone():
    with suppress(_Undo), transaction.atomic():
        yield
        raise _Undo


@path("savepoints, some of them rolled back", TRANSACTIONS)
def savepoints(world: World) -> None:
    Shelf.objects.create(name="kept")
    with _undone():
        Shelf.objects.create(name="lost")
        Shelf.objects.filter(name="kept").update(name="lost too")
        world.step()
        with transaction.atomic():
            Book.objects.all().delete()
            world.step()
    world.step()
    with transaction.atomic():
        Shelf.objects.filter(name="kept").update(name="kept!")
        with _undone():
            Book.objects.update(copies=0)
        with suppress(IntegrityError), transaction.atomic():
            Shelf.objects.bulk_create([Shelf(name="new"), Shelf(name="a")])
        world.step()
    Book.objects.update(copies=5)


@path("a transaction that is rolled back, by an error or by the connection's end", TRANSACTIONS, commits=True)
def rolls_back(world: World) -> None:
    with _undone():
        Book.objects.update(copies=99)
        Shelf.objects.create(name="never")
        Author.objects.filter(name="Homer").delete()
        world.step()
    with suppress(IntegrityError):
        Shelf.objects.bulk_create([Shelf(name="new"), Shelf(name="a")])
    transaction.set_autocommit(False)
    Shelf.objects.create(name="never either")
    connection.close()
    world.step()


@path("`loaddata`", "Other ways of Django's")
def loads(world: World) -> None:
    rows = [
        {"model": "library.book", "pk": 1, "fields": {"title": "Moby II", "copies": 3, "home": 9}},
        {"model": "library.shelf", "pk": 9, "fields": {"name": "later"}},
        {"model": "library.author", "pk": 1, "fields": {"id": str(UUID(int=11)), "name": "H. M."}},
        {
            "model": "library.work",
            "pk": 8,
            "fields": {
                "id": str(UUID(int=28)),
                "title": "w",
                "author": 1,
                "genres": [1, 3],
                "related": [8, 1],
            },
        },
        {"model": "library.novel", "pk": 8, "fields": {"pages": 12}},
        {"model": "library.slot", "pk": ["A", 1], "fields": {"corridor": "A", "place": 1, "note": "loaded"}},
    ]
    fixture = world.directory / "loaded.json"
    fixture.write_text(json.dumps(rows))
    call_command("loaddata", str(fixture), verbosity=0)


@path("`RunPython` and `RunSQL` of a migration", "Other ways of Django's", commits=True)
def migrates(world: World) -> None:
    def write(registry: Any, _editor: Any) -> None:
        registry.get_model("library", "Book").objects.filter(Q(title="Moby")).update(copies=12)
        registry.get_model("library", "Shelf").objects.create(name="by a migration")

    state = ProjectState.from_apps(apps)
    with connection.schema_editor() as editor:
        for operation in (
            migrations.RunPython(write),
            migrations.RunSQL("DELETE FROM library_slot WHERE place = 1"),
        ):
            operation.database_forwards("library", editor, state, state)
    Edition.objects.update(year=F("year") + 1)
