"""The polls site on either server, through its pages."""

from __future__ import annotations

import re
from http.cookiejar import CookieJar
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, OpenerDirector, build_opener

import pytest

from tests.demo.conftest import CENTRAL, LOCAL, Site

only_local = pytest.mark.parametrize("settings_module", [LOCAL], ids=["local"], indirect=True)
only_central = pytest.mark.parametrize("settings_module", [CENTRAL], ids=["central"], indirect=True)

MAINTAIN = ("mirrormaintenance", "a question that no source sent")
ASK = """
from demo.polls.questions import ask
question = ask("What's up?", ["The sky"])
print(question.id, question.choice_set.get().id)
"""


@pytest.fixture
def browser() -> OpenerDirector:
    return build_opener(HTTPCookieProcessor(CookieJar()))


def get(browser: OpenerDirector, url: str, data: dict[str, str] | None = None) -> tuple[int, str]:
    body = None if data is None else urlencode(data).encode()
    try:
        with browser.open(url, data=body, timeout=20) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def hidden_token(page: str) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    assert found
    return found[1]


def log_in(browser: OpenerDirector, url: str) -> None:
    _, page = get(browser, f"{url}/admin/login/")
    answers = {"csrfmiddlewaretoken": hidden_token(page), "username": "admin", "password": "admin"}
    status, page = get(browser, f"{url}/admin/login/?next=/admin/", answers)
    assert status == 200
    assert "Log out" in page


@pytest.mark.parametrize("page", ["/admin/login/", "/polls/"])
def test_bare_daphne_serves_pages_with_the_style_sheets_they_name(
    url: str, browser: OpenerDirector, page: str
) -> None:
    status, text = get(browser, url + page)
    assert status == 200
    sheets = re.findall(r'<link rel="stylesheet" href="([^"]+)"', text)
    assert sheets
    for sheet in sheets:
        with browser.open(url + sheet) as response:
            assert response.headers["Content-Type"].startswith("text/css")
            assert response.read()


@only_local
def test_a_vote_counts_and_shows_in_the_results(url: str, site: Site, browser: OpenerDirector) -> None:
    question, choice = site.manage(LOCAL, "shell", "--no-imports", "-c", ASK).split()
    _, form = get(browser, f"{url}/polls/{question}/")
    answers = {"csrfmiddlewaretoken": hidden_token(form), "choice": choice}
    for votes in ("1 vote<", "2 votes<"):
        status, results = get(browser, f"{url}/polls/{question}/vote/", answers)
        assert status == 200
        assert votes in results


@only_local
@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"choice": "not a UUID"},
        {"choice": "00000000-0000-0000-0000-000000000000"},  # of no choice
    ],
)
def test_a_vote_without_a_choice_is_asked_again(
    url: str, site: Site, browser: OpenerDirector, choice: dict[str, str]
) -> None:
    question, _ = site.manage(LOCAL, "shell", "--no-imports", "-c", ASK).split()
    _, form = get(browser, f"{url}/polls/{question}/")
    answers = {"csrfmiddlewaretoken": hidden_token(form), **choice}
    status, again = get(browser, f"{url}/polls/{question}/vote/", answers)
    assert status == 200
    assert "You didn&#x27;t select a choice." in again


@only_central
def test_the_central_server_refuses_a_vote_in_a_friendly_way(
    url: str, site: Site, browser: OpenerDirector
) -> None:
    question, choice = site.manage(CENTRAL, *MAINTAIN, "shell", "--no-imports", "-c", ASK).split()
    _, form = get(browser, f"{url}/polls/{question}/")
    answers = {"csrfmiddlewaretoken": hidden_token(form), "choice": choice}
    status, refusal = get(browser, f"{url}/polls/{question}/vote/", answers)
    assert status == 403
    assert "This server only shows." in refusal
    assert "0 votes" in get(browser, f"{url}/polls/{question}/results/")[1]


@only_local
def test_the_local_admin_edits_a_question_with_its_choices(url: str, browser: OpenerDirector) -> None:
    log_in(browser, url)
    _, form = get(browser, f"{url}/admin/polls/question/add/")
    answers = {
        "csrfmiddlewaretoken": hidden_token(form),
        "question_text": "Asked in the admin",
        "pub_date_0": "2026-01-01",
        "pub_date_1": "12:00:00",
        "choice_set-TOTAL_FORMS": "1",
        "choice_set-INITIAL_FORMS": "0",
        "choice_set-0-choice_text": "Answered there",
        "choice_set-0-votes": "3",
    }
    status, page = get(browser, f"{url}/admin/polls/question/add/", answers)
    assert status == 200
    assert "was added successfully" in page


@only_central
def test_the_central_admin_shows_and_changes_nothing(url: str, site: Site, browser: OpenerDirector) -> None:
    site.manage(CENTRAL, *MAINTAIN, "shell", "--no-imports", "-c", ASK)
    log_in(browser, url)
    status, page = get(browser, f"{url}/admin/polls/question/")
    assert status == 200
    assert "What&#x27;s up?" in page
    address = re.search(r'href="(/admin/polls/question/\d+/change/[^"]*)"', page)
    assert address
    status, page = get(browser, url + address[1])
    assert status == 200
    assert "The sky" in page
    assert 'name="_save"' not in page
    assert get(browser, f"{url}/admin/polls/question/add/")[0] == 403


def test_logging_in_on_one_server_does_not_log_out_of_the_other(site: Site) -> None:
    names = {
        site.manage(
            settings,
            "shell",
            "--no-imports",
            "-c",
            "from django.conf import settings as s; print(s.SESSION_COOKIE_NAME, s.CSRF_COOKIE_NAME)",
        )
        for settings in (LOCAL, CENTRAL)
    }
    assert len({name for pair in names for name in pair.split()}) == 4
