"""``python -m tests.zoo_users.follow DIRECTORY``: users and what refers to them, from one file to another.

In a process of its own: AUTH_USER_MODEL is decided once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.zoo_users.settings"


def main(directory: Path) -> None:
    import django

    django.setup()
    from django.contrib.auth.models import Group, Permission, User
    from django.db.models import F

    from mirror.registry import mirrored_models
    from tests.mirror.conftest import sqlite
    from tests.zoo import pairs
    from tests.zoo_users.models import Diary, Person

    databases = {role: sqlite(directory / f"{role}.sqlite3") for role in ("source", "centre")}
    for role, alias in (("source", "default"), ("centre", "centre")):
        with pairs.attached(alias, databases[role]):
            pairs._migrate(alias)
    with pairs.paired(databases["source"], databases["centre"], ("sqlite", "sqlite")) as pair:
        Person.objects.using("centre").create(name="the centre's own")
        Permission.objects.using("centre").update(id=F("id") + 5000)
        ada, bob = (Person.objects.create(name=name, password="secret") for name in ("ada", "bob"))
        group = Group.objects.create(name="writers")
        group.permissions.set(Permission.objects.filter(codename__endswith="diary"))
        ada.groups.add(group)
        Diary.objects.create(owner=ada, text="d").readers.add(bob)
        pair.follow()
        theirs = Person.objects.using("centre").get(name="ada")
        assert "auth.user" not in mirrored_models()
        assert User._meta.swapped
        assert (theirs.id, theirs.password) == (ada.id, "")
        assert theirs.pkid != ada.pkid
        assert (theirs.diary.text, theirs.diary.readers.get().name) == ("d", "bob")
        (there,) = theirs.groups.all()
        codenames = {permission.codename for permission in there.permissions.all()}
        assert codenames == {"add_diary", "change_diary", "delete_diary", "view_diary"}
        Person.objects.get(name="ada").delete()
        pair.follow()
        assert not Diary.objects.using("centre").exists()
    sys.stdout.write("followed\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
