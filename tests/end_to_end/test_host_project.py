"""A project that is not ours, made by ``startproject``, with the lines that the README gives and no more."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import Ground
from tests.end_to_end.databases import sqlite
from tests.end_to_end.processes import ROOT, Running, Site, wait_until

_MODELS = """
from django.contrib.auth.models import User
from django.db import models

class Shelf(models.Model):
    name = models.CharField(max_length=50, unique=True)

class Item(models.Model):
    shelf = models.ForeignKey(Shelf, models.CASCADE)
    name = models.CharField(max_length=100)
    count = models.IntegerField(default=0)
    price = models.DecimalField(max_digits=8, decimal_places=2, null=True)
    stored_at = models.DateTimeField(auto_now=True)
    labels = models.ManyToManyField("Label", blank=True)
    keeper = models.ForeignKey(User, models.SET_NULL, null=True, db_constraint=False)

class Label(models.Model):
    text = models.SlugField(primary_key=True)
"""

#: What the project's owner types: as the README has it, for both servers.
_ASGI = [
    "from channels.routing import ProtocolTypeRouter, URLRouter",
    "from streamer.routing import websocket_urlpatterns",
    'application = ProtocolTypeRouter({"http": application, "websocket": URLRouter(websocket_urlpatterns)})',
]
_URLS = ['path("mirror/", include("streamer.urls")),']
_SETTINGS = {
    "source": ['INSTALLED_APPS += ["mirror", "streamer"]', 'MIRROR = {"MODELS": ["inventory.*"]}'],
    "centre": [
        'INSTALLED_APPS += ["mirror", "streamer", "client"]',
        'MIRROR = {"MODELS": ["inventory.*"], "CAPTURE": None}',
    ],
}
_COMMANDS = {
    "source": ["python manage.py migrate", "python manage.py mirrortoken create"],
    "centre": ["python manage.py migrate", "python manage.py mirrorsource add", "python manage.py runmirror"],
}

_TABLES = ["inventory_shelf", "inventory_item", "inventory_label", "inventory_item_labels"]


class HostSite(Site):
    """A project in a directory of its own; ours is only installed."""

    settings = "yourproject.settings"
    application = "yourproject.asgi:application"

    def __init__(self, name: str, directory: Path) -> None:
        self.cwd = directory
        super().__init__(name, name, directory, sqlite(directory / "db.sqlite3"))
        self.typed = 0

    def manage(self, *arguments: str, expect: int | None = 0) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=self.cwd,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert expect is None or done.returncode == expect, f"{done.stdout}{done.stderr}"
        return done.stdout

    def mirror(self, *arguments: str) -> Running:
        return self.start("runmirror", "manage.py", "runmirror", *arguments)

    def type(self, file: str, lines: list[str], *, before: str = "") -> None:
        """Put lines at the end of a file, or before a line of it."""
        path = self.cwd / file
        text = path.read_text()
        place = text.index(before) if before else len(text)
        path.write_text(text[:place] + "".join(f"{line}\n" for line in lines) + text[place:])
        self.typed += len(lines)

    def tables(self) -> dict[str, Any]:
        return {table: self.rows(f"SELECT * FROM {table} ORDER BY 1") for table in _TABLES}


def make_project(directory: Path, role: str) -> HostSite:
    directory.mkdir()
    site = HostSite(role, directory)
    for command in (["startproject", "yourproject", "."], ["startapp", "inventory"]):
        subprocess.run([sys.executable, "-m", "django", *command], cwd=directory, check=True, timeout=60)
    (directory / "inventory" / "models.py").write_text(_MODELS)
    site.type("yourproject/settings.py", ['INSTALLED_APPS += ["inventory"]'])
    site.manage("makemigrations", "inventory")
    site.typed = 0
    return site


def follow_the_readme(site: HostSite) -> None:
    site.type("yourproject/settings.py", _SETTINGS[site.role])
    site.type("yourproject/asgi.py", _ASGI)
    urls = site.cwd / "yourproject/urls.py"
    urls.write_text(urls.read_text().replace("import path", "import include, path"))
    site.typed += 1
    site.type("yourproject/urls.py", [f"    {line}" for line in _URLS], before="]")


def readme() -> str:
    """The section, each line without its comment and with single spaces."""
    section = (ROOT / "README.md").read_text().partition("## Add it to your project")[2].partition("\n## ")[0]
    return re.sub(r" +", " ", section)


@pytest.mark.parametrize("role", ["source", "centre"])
def test_what_is_typed_here_is_what_the_readme_says(role: str):
    for line in [*_ASGI, *_URLS, *_SETTINGS[role], *_COMMANDS[role]]:
        assert line in readme()


@pytest.mark.timeout(240)
def test_a_fresh_project_mirrors_live_after_fifteen_lines(ground: Ground):
    source = make_project(ground.directory / "local", "source")
    centre = make_project(ground.directory / "central", "centre")
    for site in (source, centre):
        ground.add(site)
        follow_the_readme(site)
        site.migrate()
        site.manage("check")
    assert source.typed + centre.typed <= 15

    token = source.manage("mirrortoken", "create", "head-office").strip()
    source.serve()
    centre.manage("mirrorsource", "add", "shop-12", source.url, "--token", token)
    centre.serve()
    mirror = centre.mirror()

    # The writer is a process of its own, and it does not wait for anybody.
    source.manage(
        "shell",
        "-c",
        "from inventory.models import *\n"
        "from django.db.models import F\n"
        "shelves = Shelf.objects.bulk_create([Shelf(name=f'shelf {n}') for n in range(10)])\n"
        "label = Label.objects.create(text='new')\n"
        "for n in range(100):\n"
        "    item = Item.objects.create(shelf=shelves[n % 10], name=f'item {n}', price='1.50')\n"
        "    item.labels.add(label)\n"
        "Item.objects.filter(count=0).update(count=F('count') + 7)\n"
        "shelves[3].delete()\n",
    )
    expected = source.tables()
    assert len(expected["inventory_item"]) == 90
    wait_until(lambda: centre.tables() == expected, what="both have the same rows")
    assert "locked" not in source.started[0].log

    source.manage("shell", "-c", "from inventory.models import *; Item.objects.update(name='again')")
    wait_until(lambda: centre.tables() == source.tables(), what="the change has arrived")
    assert '"state": "live"' in centre.manage("mirrorstatus", "--json")
    assert mirror.stop() == 0
