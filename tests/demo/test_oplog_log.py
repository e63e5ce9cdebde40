"""The article's shell lines, and the log lines they are promised to leave."""

from __future__ import annotations

import json
import re
import signal
from datetime import datetime
from pathlib import Path

import pytest

from tests.demo.conftest import LOCAL, Site, eventually

ARTICLE = """
import json
from django.core import serializers
from django.utils import timezone
from demo.polls.models import Question
q = Question(question_text="What's new?", pub_date=timezone.now())
q.save()
first = q.choice_set.create(choice_text='Not much', votes=0)
c = q.choice_set.create(choice_text='The sky', votes=0)
before = json.loads(serializers.serialize("json", [c]))
c.delete()
c.save()
said = [json.loads(serializers.serialize("json", [one])) for one in (q, first, c)]
print(json.dumps([said[0], said[1], before, before, said[2]]))
"""
LINE = re.compile(r"(\d+\.\d{6}) (SAVE|DELETE) (\[.*\])")


@pytest.fixture(scope="module")
def said_and_logged(site: Site) -> tuple[list[list[dict]], list[tuple[str, str, str]]]:
    """What Django's serializer says of the article's five steps, and what stands in oplog.log."""
    site.manage(LOCAL, "migrate", "--verbosity", "0")
    said = json.loads(site.manage(LOCAL, "shell", "--no-imports", "-c", ARTICLE))
    sequence(site, lines=5)
    return said, read_log(site.var / "logs" / "oplog.log")


def sequence(site: Site, lines: int) -> None:
    """Run the sequencer until the log has this many lines, and end it."""
    log = site.var / "logs" / "oplog.log"
    sequencer = site.start(LOCAL, "manage.py", "runsequencer")
    try:
        eventually(lambda: log.exists() and len(log.read_text().splitlines()) >= lines)
    finally:
        sequencer.send_signal(signal.SIGINT)
        output, _ = sequencer.communicate(timeout=20)
    assert (sequencer.returncode, output) == (0, "")


def read_log(path: Path) -> list[tuple[str, str, str]]:
    found = [LINE.fullmatch(line) for line in path.read_text().splitlines()]
    assert all(found)
    return [match.group(1, 2, 3) for match in found if match]


def test_five_steps_leave_five_lines_in_their_order(said_and_logged: tuple) -> None:
    _, logged = said_and_logged
    assert [(op, json.loads(text)[0]["model"]) for _, op, text in logged] == [
        ("SAVE", "polls.question"),
        ("SAVE", "polls.choice"),
        ("SAVE", "polls.choice"),
        ("DELETE", "polls.choice"),
        ("SAVE", "polls.choice"),
    ]


def test_the_times_are_the_present_and_strictly_increase(said_and_logged: tuple) -> None:
    _, logged = said_and_logged
    times = [float(ts) for ts, _, _ in logged]
    assert times == sorted(set(times))
    assert abs(times[0] - datetime.now().timestamp()) < 120


def test_each_line_holds_the_object_as_djangos_serializer_writes_it(said_and_logged: tuple) -> None:
    said, logged = said_and_logged
    for expected, (_, _, text) in zip(said, logged, strict=True):
        found = json.loads(text)
        for rows in (expected, found):
            moment = rows[0]["fields"].pop("pub_date", None)
            # Django's encoder cuts microseconds; the log keeps them.
            rows[0]["pub_date"] = moment and datetime.fromisoformat(moment).replace(microsecond=0)
        assert found == expected
        assert list(found[0])[:3] == ["model", "pk", "fields"]


def test_a_later_sequencer_goes_on_and_repeats_nothing(site: Site, said_and_logged: tuple) -> None:
    _, logged = said_and_logged
    ask = "from demo.polls.models import *; Question.objects.update(question_text='What else?')"
    site.manage(LOCAL, "shell", "--no-imports", "-c", ask)
    sequence(site, lines=6)
    *before, last = read_log(site.var / "logs" / "oplog.log")
    assert before == logged
    assert "What else?" in last[2]
