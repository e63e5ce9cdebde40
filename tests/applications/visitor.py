"""A person at a browser without scripts: opens a page, fills a form in, sends it.

A form is sent with everything that stands in it, as a browser does, so that what is tested is the
application's own page and view.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin

import requests
from bs4 import BeautifulSoup, Tag

#: Name, content and type of a file to upload.
File = tuple[str, bytes, str]


class Visitor:
    def __init__(self, address: str) -> None:
        self._address = address
        self._session = requests.Session()

    def open(self, path: str) -> Page:
        return self._page(self._session.get(urljoin(self._address, path), timeout=60))

    def send(
        self, path: str, fields: list[tuple[str, str]], files: dict[str, File], referer: str = ""
    ) -> Page:
        url = urljoin(self._address, path)
        # Without a file a form is still multipart where the page says so; views take both.
        answer = self._session.post(
            url, data=fields, files=files or None, headers={"Referer": referer or url}, timeout=60
        )
        return self._page(answer)

    def call(self, path: str, **fields: str) -> Page:
        """What a page's script would send by itself."""
        token = self._session.cookies.get("csrftoken", "")
        return self.send(path, [("csrfmiddlewaretoken", token), *fields.items()], {})

    def _page(self, answer: requests.Response) -> Page:
        page = Page(self, answer)
        assert answer.status_code == 200, f"{answer.status_code} at {answer.url}: {page.words}"
        return page


class Page:
    def __init__(self, visitor: Visitor, answer: requests.Response) -> None:
        self._visitor = visitor
        self.url = answer.url
        self._soup = BeautifulSoup(answer.text, "html.parser")

    @property
    def words(self) -> str:
        """What the page says, in short."""
        return self._soup.get_text(" ", strip=True)[:1000]

    def submit(
        self, *, having: str = "", press: str = "", files: dict[str, File] | None = None, **fields: Any
    ) -> Page:
        """Fill in and send the form with the field ``having``, or with all of those that are given.

        A list fills a field that takes several values; None leaves a field out. ``press`` is a button to
        press: its name, and after "=" its value where that differs.
        """
        form = self._form([having] if having else [*fields, *(files or {})])
        standing = [(name, value) for name, value in _standing(form) if name not in fields]
        given = [
            (name, str(item))
            for name, value in fields.items()
            if value is not None
            for item in (value if isinstance(value, list) else [value])
        ]
        if press:
            name, _, value = press.partition("=")
            given.append((name, value or name))
        action = str(form.get("action") or self.url)
        page = self._visitor.send(urljoin(self.url, action), standing + given, files or {}, self.url)
        errors = [found.parent.get_text(" ", strip=True)[:300] for found in page._soup.select(_ERRORS)]
        assert not any(errors), f"{page.url} does not take it: {errors}"
        return page

    def _form(self, names: list[str]) -> Tag:
        for form in self._soup.find_all("form"):
            if str(form.get("method", "get")).lower() == "post" and all(
                form.find(attrs={"name": name}) for name in names
            ):
                return form
        raise AssertionError(f"no form with {names} at {self.url}: {self.words}")


#: Where applications say that a form is not right.
_ERRORS = ".errorlist, .error-message, .form-error, .alert-danger, .messages .error"


def _standing(form: Tag) -> list[tuple[str, str]]:
    """The names and values that a browser would send of a form that nobody touched."""
    found: list[tuple[str, str]] = []
    for field in form.find_all(["input", "select", "textarea"]):
        name = field.get("name")
        # A browser keeps what stands in a template for the page's scripts.
        if not name or field.has_attr("disabled") or field.find_parent("template"):
            continue
        if field.name == "textarea":
            found.append((name, field.get_text().removeprefix("\n")))
        elif field.name == "select":
            found.extend((name, value) for value in _chosen(field))
        elif field.get("type") in {"checkbox", "radio"}:
            if field.has_attr("checked"):
                found.append((name, field.get("value", "on")))
        elif field.get("type") not in {"submit", "button", "reset", "image", "file"}:
            found.append((name, field.get("value", "")))
    return found


def _chosen(select: Tag) -> list[str]:
    options = select.find_all("option")
    chosen = [option for option in options if option.has_attr("selected")]
    if not chosen and options and not select.has_attr("multiple"):
        chosen = options[:1]
    return [str(option.get("value", option.get_text())) for option in chosen]
