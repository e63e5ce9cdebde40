from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse

from mirror.changes import Op
from mirror.models import Oplog, Stream
from tests.streamer.records import NOW, follow, local_stream, record, staff

pytestmark = pytest.mark.django_db

CANARY = "<img src=x onerror=alert(1)>"


@pytest.fixture
def looking(client: Client) -> Client:
    client.force_login(staff())
    return client


def change_url(entry: Oplog) -> str:
    return reverse("mirror:change", args=[entry.stream.uuid, entry.ts])


def story(client: Client, entry: Oplog) -> dict[str, Any]:
    response = client.get(change_url(entry))
    assert response.status_code == 200
    told: dict[str, Any] = response.json()
    return told


def directives(response: HttpResponse) -> dict[str, list[str]]:
    policy = response["Content-Security-Policy"]
    return {part.split()[0]: part.split()[1:] for part in policy.split(";")}


# Who may look


def test_the_urls_are_those_of_the_design() -> None:
    names = ["dashboard", "status", "healthz"]
    paths = ["/mirror/", "/mirror/status.json", "/mirror/healthz"]
    assert [reverse(f"mirror:{name}") for name in names] == paths


def test_a_visitor_is_sent_to_log_in_and_back(client: Client) -> None:
    response = client.get("/mirror/?model=shop")
    assert response.status_code == 302
    assert response["Location"] == "/admin/login/?next=/mirror/%3Fmodel%3Dshop"


def test_a_user_who_is_no_staff_is_sent_to_log_in_as_somebody_else(client: Client) -> None:
    client.force_login(User.objects.create_user("eve"))
    assert client.get("/mirror/").status_code == 302


def test_staff_without_the_permission_are_refused(client: Client) -> None:
    client.force_login(staff(allowed=False))
    assert client.get("/mirror/").status_code == 403


def test_staff_with_the_permission_and_superusers_see_the_page(client: Client) -> None:
    for user in (staff(), User.objects.create_superuser("root")):
        client.force_login(user)
        assert client.get("/mirror/").status_code == 200


@pytest.mark.parametrize(
    "path", ["/mirror/status.json", f"/mirror/changes/{'0' * 8}-0000-0000-0000-{'0' * 12}/1/"]
)
@pytest.mark.parametrize(
    ("who", "status", "code"),
    [
        (None, 401, "unauthorized"),
        ("eve", 403, "forbidden"),
        ("staff", 403, "forbidden"),
        ("gone", 401, "unauthorized"),
    ],
)
def test_scripts_are_refused_with_a_code_and_not_with_a_page(
    client: Client, path: str, who: str | None, status: int, code: str
) -> None:
    if who:
        user = staff(allowed=False) if who == "staff" else User.objects.create_user(who)
        client.force_login(user)
        User.objects.filter(username="gone").update(is_active=False)
    response = client.get(path)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code


def test_nothing_can_be_posted(looking: Client) -> None:
    for path in ("/mirror/", "/mirror/status.json", "/mirror/healthz"):
        assert looking.post(path).status_code == 405


# The page


def test_the_page_allows_nothing_inline_and_nothing_foreign(looking: Client) -> None:
    response = looking.get("/mirror/")
    policy = directives(response)
    assert policy["default-src"] == ["'self'"]
    assert policy["connect-src"] == ["'self'"]
    assert policy["frame-ancestors"] == ["'none'"]
    assert "unsafe" not in response["Content-Security-Policy"]
    assert response["X-Content-Type-Options"] == "nosniff"
    page = response.content.decode()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", page)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page))


def test_every_answer_carries_the_headers(client: Client) -> None:
    for path in ("/mirror/", "/mirror/status.json", "/mirror/healthz"):
        response = client.get(path)
        assert "default-src" in directives(response)
        assert "no-store" in response["Cache-Control"]


def test_a_name_is_escaped_on_the_page(client: Client) -> None:
    user = staff()
    user.first_name = CANARY
    user.save()
    client.force_login(user)
    page = client.get("/mirror/").content.decode()
    assert CANARY not in page
    assert "&lt;img" in page


def test_the_page_offers_the_models_that_are_mirrored(looking: Client) -> None:
    assert '<option value="shop.brand">' in looking.get("/mirror/").content.decode()


# One change


def test_a_change_is_told_with_what_was_before(looking: Client) -> None:
    stream = local_stream()
    record(stream, {"name": "A", "stock": 1}, key="k")
    record(stream, {"name": "not this row"}, key="other")
    entry = record(stream, {"name": "B", "stock": 1}, key="k")
    last = record(stream, {"name": "C", "stock": 1}, key="k")
    told = story(looking, entry)
    assert told["fields"] == [
        {
            "name": "name",
            "before": {"type": "string", "text": "A", "cut": 0},
            "after": {"type": "string", "text": "B", "cut": 0},
        }
    ]
    assert (told["known"], told["kind"], told["unchanged"]) == (True, "changed", 1)
    assert (told["previous"], told["next"]) == (NOW + 1, last.ts)


def test_the_first_change_of_a_row_says_that_what_was_before_is_not_known(looking: Client) -> None:
    told = story(looking, record(local_stream(), {"name": "A"}))
    assert (told["known"], told["fields"][0]["before"], told["previous"]) == (False, None, None)
    assert "Nothing earlier" in told["note"]


def test_a_deletion_is_told_with_what_the_row_last_was(looking: Client) -> None:
    told = story(looking, record(local_stream(), {"name": "A"}, op=Op.DELETE))
    assert (told["known"], told["kind"]) == (True, "deleted")
    assert (told["fields"][0]["before"]["text"], told["fields"][0]["after"]) == ("A", None)


def test_the_same_key_in_another_stream_is_another_row(looking: Client) -> None:
    record(local_stream(), {"name": "here"}, key="1")
    stream = Stream.objects.create()
    entry = record(stream, {"name": "there"}, key="1")
    assert story(looking, entry)["previous"] is None


def test_a_change_that_is_not_in_the_oplog_is_not_found(looking: Client) -> None:
    entry = record(local_stream(), {})
    missing = change_url(entry).replace(str(entry.ts), "5")
    assert looking.get(missing).status_code == 404


def test_values_travel_as_data_that_no_browser_takes_for_a_page(looking: Client) -> None:
    entry = record(local_stream(), {"name": CANARY}, key=CANARY, model=CANARY)
    response = looking.get(change_url(entry))
    assert response["Content-Type"] == "application/json"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response.json()["fields"][0]["after"]["text"] == CANARY


# For machines


def test_the_status_is_what_mirrorstatus_prints(looking: Client) -> None:
    follow("paris")
    told = looking.get("/mirror/status.json").json()
    assert told["version"] == 1
    assert [source["name"] for source in told["sources"]] == ["paris"]
    assert "token" not in told["sources"][0]


@pytest.mark.django_db(databases=[])
def test_healthz_answers_without_the_database(client: Client) -> None:
    response = client.get("/mirror/healthz")
    assert (response.status_code, response.content) == (200, b"ok\n")
