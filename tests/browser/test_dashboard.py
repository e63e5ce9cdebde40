from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import pytest
from playwright.sync_api import Browser, Locator, Page, StorageState, expect

from tests.browser.conftest import Board, connected, listen, log_in, make_board

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

#: Writes brands at a steady pace, several to a transaction, until told to stop.
FLOOD = """
import time
from django.db import transaction
began, done = time.monotonic(), 0
while (passed := time.monotonic() - began) < {seconds}:
    with transaction.atomic():
        while done < passed * {rate}:
            shop.Tag.objects.create(label=f"flood {{done}}")
            done += 1
    time.sleep(0.02)
result = done
"""


def row(page: Page, text: str) -> Locator:
    return page.locator("tr.change", has_text=text).first


def rows(page: Page) -> Locator:
    return page.locator("tr.change")


# From another process to the page


def test_a_change_made_by_another_process_appears_and_opens_to_before_and_after(
    board: Board, page: Page
) -> None:
    board.run("shop.Product.objects.create(name='Lamp', stock=3)")
    board.run("p = shop.Product.objects.get(name='Lamp'); p.stock = 4; p.save()")
    changed = row(page, "stock 3 → 4")
    expect(changed.locator(".badge")).to_have_text(re.compile(r"~\s*SAVE"))
    expect(changed.locator(".source")).to_have_text("this server")
    expect(changed.locator(".model")).to_have_text("shop.product")
    changed.get_by_role("button").click()
    fields = page.locator("tr.detail .fields tbody tr")
    expect(fields).to_have_count(1)
    expect(fields.locator("th, td")).to_have_text(["stock", "3", "4"])
    page.get_by_role("button", name="Earlier change of this row").click()
    expect(page.locator("tr.detail .note")).to_contain_text("Nothing earlier about this row")
    expect(page.locator("tr.detail td.before").first).to_have_text("not known")


def test_a_change_is_on_the_page_soon_after_its_commit(board: Board, page: Page) -> None:
    times = []
    for number in range(5):
        began = time.monotonic()
        board.run(f"shop.Tag.objects.create(label='soon {number}')")
        row(page, f"soon {number}").wait_for()
        times.append(time.monotonic() - began)
    assert median(times) < 2.0, times


def test_a_deletion_shows_what_is_gone(board: Board, page: Page) -> None:
    board.run("shop.Tag.objects.create(label='short-lived').delete()")
    expect(row(page, "short-lived").locator(".badge")).to_have_text(re.compile(r"\s*DELETE"))


def test_the_newest_changes_are_there_when_the_page_opens(board: Board, page: Page) -> None:
    board.run("[shop.Tag.objects.create(label=f'early {n}') for n in range(60)]")
    row(page, "early 59").wait_for()
    page.reload()
    expect(rows(page)).to_have_count(50)
    expect(rows(page).first).to_contain_text("early 59")


def test_what_rows_say_is_shown_as_text_wherever_it_appears(board: Board, page: Page) -> None:
    canary = "<img src=/x onerror=document.title='taken'>"
    board.run(
        f'b = shop.Brand.objects.create(name="{canary}");'
        f"b.name = 'then ' + b.name; b.save();"
        f'shop.Product.objects.create(name=\'x\', details={{"{canary}": "{canary}"}})'
    )
    changed = row(page, f"→ “then {canary[:20]}")
    changed.get_by_role("button").click()
    expect(page.locator("tr.detail td.after")).to_have_text(f"then {canary}")
    assert page.locator("main img").count() == 0
    assert page.title() == f"127.0.0.1:{board.port}: mirror"


# Pause


def test_pause_holds_the_page_still_and_counts_what_comes(board: Board, page: Page) -> None:
    page.get_by_role("button", name="Pause").click()
    before = rows(page).count()
    board.run("[shop.Tag.objects.create(label=f'held {n}') for n in range(137)]")
    button = page.get_by_role("button", name="137 new — resume")
    button.wait_for()
    assert rows(page).count() == before
    assert row(page, "held").count() == 0
    button.click()
    row(page, "held 136").wait_for()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()


def test_an_open_change_stays_where_it_is_until_it_is_closed(board: Board, page: Page) -> None:
    board.run("shop.Tag.objects.create(label='to be read')")
    read = row(page, "to be read")
    read.get_by_role("button").click()
    board.run("shop.Tag.objects.create(label='meanwhile')")
    page.get_by_role("button", name="1 new — resume").wait_for()
    read.get_by_role("button").click()
    row(page, "meanwhile").wait_for()
    expect(page.locator("tr.detail")).to_have_count(0)


# Filters


def test_filters_work_on_old_and_new_changes_and_are_in_the_address(board: Board, page: Page) -> None:
    board.run("shop.Tag.objects.create(label='red one'); shop.Brand.objects.create(name='red house')")
    row(page, "red house").wait_for()
    page.get_by_label("Model").fill("shop.tag")
    page.get_by_label("Text").fill("red")
    expect(rows(page)).to_have_text([re.compile("red one")])
    # The address follows when the typing has paused.
    expect(page).to_have_url(re.compile(r"\?model=shop\.tag&text=red$"))
    board.run("shop.Tag.objects.create(label='blue'); shop.Tag.objects.create(label='dark red')")
    expect(rows(page)).to_have_text([re.compile("dark red"), re.compile("red one")])
    page.reload()
    expect(rows(page)).to_have_text([re.compile("dark red"), re.compile("red one")])
    expect(page.get_by_label("Text")).to_have_value("red")
    page.get_by_label("Operation").select_option("DELETE")
    expect(page.get_by_text("None of the newest changes passes this filter")).to_be_visible()
    page.get_by_role("button", name="Clear").click()
    row(page, "blue").wait_for()
    expect(page).to_have_url(board.page)


def test_a_source_can_be_chosen(board: Board, page: Page) -> None:
    board.run("shop.Tag.objects.create(label='from here')")
    page.get_by_role("combobox", name="Source").select_option("this server")
    row(page, "from here").wait_for()
    expect(page).to_have_url(re.compile(r"source=this\+server"))


# Keys, widths, colours


def test_the_keyboard_is_enough(board: Board, page: Page) -> None:
    board.run("shop.Tag.objects.create(label='by keyboard')")
    row(page, "by keyboard").wait_for()
    page.keyboard.press("p")
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    page.keyboard.press("p")
    page.keyboard.press("/")
    expect(page.get_by_label("Text")).to_be_focused()
    page.keyboard.type("by keyboard")
    expect(rows(page)).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.get_by_label("Text")).not_to_be_focused()
    expect(page.get_by_label("Text")).to_have_value("by keyboard")
    rows(page).get_by_role("button").focus()
    page.keyboard.press("Enter")
    expect(page.locator("tr.detail .fields tbody tr")).to_have_count(2)
    page.keyboard.press("Enter")
    expect(page.locator("tr.detail")).to_have_count(0)


def test_a_phone_gets_one_column_and_never_scrolls_sideways(board: Board, page: Page) -> None:
    board.run("shop.Tag.objects.create(label='wide ' * 9 + 'x' * 300)")
    page.set_viewport_size({"width": 360, "height": 740})
    row(page, "wide").get_by_role("button").click()
    page.locator("tr.detail .fields").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    model, summary = (row(page, "wide").locator(part).bounding_box() for part in (".model", ".what"))
    assert model is not None
    assert summary is not None
    assert summary["y"] >= model["y"] + model["height"] - 1


def test_dark_follows_the_system_and_the_switch(page: Page) -> None:
    def colours() -> list[str]:
        script = "e => [getComputedStyle(e).backgroundColor, getComputedStyle(e).color]"
        shown: list[str] = page.locator("body").evaluate(script)
        return shown

    page.emulate_media(color_scheme="light")
    light = colours()
    page.emulate_media(color_scheme="dark")
    assert colours() != light
    page.locator(".theme-toggle").click()  # auto, which is dark here, to light
    assert colours() == light


def test_who_wants_no_motion_gets_none(board: Board, page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    board.run("shop.Tag.objects.create(label='calm')")
    calm = row(page, "calm")
    calm.wait_for()
    assert calm.evaluate("e => e.getAnimations().length") == 0


def test_the_list_is_no_live_region_but_its_summary_is(page: Page) -> None:
    assert page.locator("#feed").get_attribute("aria-live") == "off"
    expect(page.get_by_role("status")).to_contain_text("connected", timeout=15_000)


# A thousand changes a second


#: Where Chromium puts the tasks of its threads.
TASKS = "disabled-by-default-devtools.timeline"
CLICK = """
(button) => new Promise((resolve) => {
  const began = performance.now();
  const drawn = () => requestAnimationFrame(() => resolve(performance.now() - began));
  button.addEventListener("click", drawn, { once: true });
  setTimeout(() => button.click(), 0);
})
"""


@contextmanager
def counted_updates(page: Page) -> Iterator[list[float]]:
    """When each update arrived, as the browser's network saw it."""
    arrivals: list[float] = []
    client = page.context.new_cdp_session(page)
    client.on("Network.webSocketFrameReceived", lambda frame: arrivals.append(frame["timestamp"]))
    client.send("Network.enable")
    yield arrivals
    client.detach()


def longest_task(trace: bytes) -> float:
    """Milliseconds that the page's thread was computing at a stretch, however busy the machine is."""
    events = json.loads(trace)["traceEvents"]
    pages = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    tasks = [
        event["tdur"]
        for event in events
        if event["name"] == "RunTask" and "tdur" in event and (event["pid"], event["tid"]) in pages
    ]
    return float(max(tasks)) / 1000


def test_at_a_thousand_changes_a_second_the_page_answers(
    board: Board, chromium: Browser, page: Page, record_property: Callable[[str, object], None]
) -> None:
    seconds = 8
    flood = board.start(
        "flood",
        "-c",
        "import django; django.setup(); from tests.project.shop import models as shop\n"
        + FLOOD.format(seconds=seconds, rate=1000)
        + "print(result)",
    )
    page.locator("tr.gap").first.wait_for()
    button = page.locator("#pause")
    chromium.start_tracing(page=page, categories=["toplevel", "devtools.timeline", TASKS])
    with counted_updates(page) as arrivals:
        waits = []
        for _ in range(10):
            page.wait_for_timeout(300)
            waits.append(button.evaluate(CLICK))
            button.evaluate(CLICK)
    longest = longest_task(chromium.stop_tracing())
    flood.wait()
    figures = {
        "changes written per second": int(flood.log) / seconds,
        "updates pushed per second": (len(arrivals) - 1) / (arrivals[-1] - arrivals[0]),
        "longest task, ms": longest,
        "median click, ms": median(waits),
        "rows on the page": page.locator("#feed > tbody > tr").count(),
    }
    record_property("figures", figures)
    assert figures["changes written per second"] >= 900
    assert figures["updates pushed per second"] <= 4.2
    assert figures["longest task, ms"] < 200
    assert figures["median click, ms"] < 200
    assert figures["rows on the page"] <= 500


# The line and the session


def test_a_server_that_comes_back_is_found_again_without_a_reload(
    board: Board, page: Page, complaints: list[str]
) -> None:
    next(running for running in reversed(board.started) if "daphne" in running.name).kill()
    expect(page.locator("#connection")).to_contain_text("no connection")
    board.serve()
    connected(page)
    board.run("shop.Tag.objects.create(label='after the outage')")
    row(page, "after the outage").wait_for()
    # Refused, or reset where the server died in the middle of a handshake.
    assert all("net::ERR_CONNECTION_RE" in complaint for complaint in complaints), complaints
    complaints.clear()


def test_a_session_that_ends_is_said_and_not_retried(
    board: Board, chromium: Browser, page: Page, complaints: list[str]
) -> None:
    own = log_in(chromium, board)
    with chromium.new_context(storage_state=own) as context:
        other = context.new_page()
        listen(other, complaints)
        other.goto(board.page)
        connected(other)
        key = next(cookie["value"] for cookie in own["cookies"] if cookie["name"] == "sessionid")
        board.run(
            "from django.contrib.sessions.models import Session;"
            f"Session.objects.filter(session_key='{key}').delete()"
        )
        expect(other.locator("#connection")).to_have_text("logged out", timeout=20_000)
        expect(other.get_by_role("alert")).to_contain_text("Reload the page to log in again")
    assert page.locator("#connection[data-state=open]").count() == 1


# Sources


def test_two_hundred_sources_are_summed_up_with_those_in_trouble_first(board: Board, page: Page) -> None:
    board.run(
        "from django.utils import timezone; from mirror.models import Source, Stream\n"
        "for n in range(200):\n"
        "    Source.objects.create(name=f'branch-{n}', url='ws://x', token='t', heard_at=timezone.now(),\n"
        "        stream=Stream.objects.create(), state='halted' if n == 150 else 'live',\n"
        "        error_code='unknown_model' if n == 150 else '')\n"
    )
    cards = page.locator(".card:visible")
    expect(cards).to_have_count(12)
    expect(page.locator("#sources-summary")).to_contain_text("1 halted")
    expect(cards.nth(1).locator(".name")).to_have_text("branch-150")
    expect(cards.nth(1).locator(".problem")).to_contain_text("unknown_model")
    page.get_by_role("button", name="Show all 201").click()
    expect(cards).to_have_count(201)
    board.run("from mirror.models import Source; Source.objects.all().delete()")
    expect(cards).to_have_count(1)


def test_a_card_says_what_came_of_comparing_rows(board: Board, page: Page) -> None:
    board.run(
        "from django.utils import timezone; from mirror.models import Source, Stream, Verification\n"
        "from mirror.registry import mirrored_models\n"
        "paris = Source.objects.create(name='paris', url='ws://x', token='t', heard_at=timezone.now(),\n"
        "    stream=Stream.objects.create(), state='live')\n"
        "for model in mirrored_models():\n"
        "    Verification.objects.create(source=paris, model=model, state='done', ended_at=timezone.now())\n"
    )
    compared = page.locator(".card", has_text="paris").locator(".verified")
    expect(compared).to_have_text(
        re.compile(r"Rows compared with the source: identical as of \d\d:\d\d:\d\d")
    )
    board.run("from mirror.models import Verification; Verification.objects.update(missing=1)")
    expect(compared).to_have_text(re.compile(r"\d+ rows differ$"))
    expect(compared.locator("use")).to_have_attribute("href", "#icon-differences")
    assert page.locator(".card", has_text="this server").locator(".verified").is_hidden()
    board.run("from mirror.models import Source; Source.objects.all().delete()")
    expect(compared).to_have_count(0)


def test_a_newcomer_is_told_what_to_do(chromium: Browser, tmp_path: Path, complaints: list[str]) -> None:
    centre = make_board(tmp_path, "centre")
    try:
        with chromium.new_context(storage_state=log_in(chromium, centre)) as context:
            page = context.new_page()
            listen(page, complaints)
            page.goto(centre.page)
            expect(page.get_by_text("No changes yet.")).to_be_visible()
            expect(page.locator("#no-sources")).to_contain_text("mirrorsource add")
    finally:
        centre.end()
    assert complaints == []


def test_a_change_at_the_source_appears_on_the_centre_s_page(
    board: Board, chromium: Browser, session: StorageState, tmp_path: Path, complaints: list[str]
) -> None:
    centre = make_board(tmp_path, "centre")
    try:
        centre.follow("paris", board.url, board.token("for-the-page"))
        centre.mirror()
        with chromium.new_context(storage_state=log_in(chromium, centre)) as context:
            page = context.new_page()
            listen(page, complaints)
            page.goto(centre.page)
            card = page.locator(".card", has_text="paris")
            expect(card.locator(".state")).to_have_text("live")
            board.run("shop.Brand.objects.create(name='seen from afar')")
            expect(row(page, "seen from afar").locator(".source")).to_have_text("paris")
            expect(card.locator(".changes-behind")).to_have_text("0 changes")
            expect(card.locator(".seconds-behind")).to_have_text("0 s")
    finally:
        centre.end()
    assert complaints == []
