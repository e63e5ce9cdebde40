"""Comparisons that somebody asked for, watched from outside until there is a verdict, and shown meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import IO, cast

from django.core.management.base import OutputWrapper
from django.db.models import QuerySet
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from mirror import verifying
from mirror.conf import conf
from mirror.management.report import difference_words, mend
from mirror.management.table import one_line, plain_table, when
from mirror.models import Difference, Source, SourceState
from mirror.verifying import Result, Summary

__all__ = ["Comparison", "Finished", "Verdict", "listing", "watch"]

#: Seconds between two looks.
_POLL = 0.3

#: How many differences of one model are told while they are found; ``listing`` has all that are stored.
_TOLD = 20

_COLUMNS = (
    "source",
    "model",
    "result",
    "rows",
    "missing",
    "different",
    "extra",
    "repaired",
    "compared",
    "cursor",
)


class Verdict(IntEnum):
    """Also the exit code."""

    IDENTICAL = 0
    DIFFERENT = 1
    NOT_COMPARED = 2


@dataclass(frozen=True, slots=True)
class Finished:
    """A model that was compared, and the first of its rows that differ."""

    source: str
    result: Result
    differences: tuple[Difference, ...]


class Comparison:
    """A comparison with one source, asked for when this is made. ``look`` finds out how far it is.

    With ``repair``, what differed is compared once more when it is loaded, and that decides.
    """

    def __init__(self, source: Source, models: Sequence[str], *, repair: bool, now: datetime) -> None:
        self.name = source.name
        self.verdict: Verdict | None = None
        #: Why it could not be compared.
        self.why = ""
        #: Whether what differed was loaded again, and compared once more.
        self.repaired = False
        self._source, self._models, self._since = source, tuple(models), now
        self._repair, self._awaited = repair, set(models)
        self._results: dict[str, Result] = {}
        verifying.request(source, models, repair=repair)

    @property
    def summary(self) -> Summary:
        return verifying.summary(tuple(self._results.values()), self._models)

    def look(self, now: datetime) -> list[Finished]:
        """Return what was finished since the last look. Waits for nothing."""
        using = conf().database
        source = Source.objects.using(using).filter(pk=self._source.pk).first()
        if source is None:
            return self._give_up("it was removed")
        stored = {one.model: one for one in verifying.results(using, source).get(source.pk, ())}
        if self._awaited - stored.keys():
            return self._give_up("somebody took back what was asked for")
        self._results |= {model: stored[model] for model in self._awaited}
        finished = [one for one in self._results.values() if one.model in self._awaited and one.done]
        told = [Finished(self.name, one, tuple(_stored([source], [one.model])[:_TOLD])) for one in finished]
        self._awaited -= {one.model for one in finished}
        if not self._awaited:
            self._go_on(source)
        if self.verdict is None and (trouble := _trouble(source, self._since, now)):
            self._give_up(trouble)
        return told

    def leave(self) -> None:
        """Whoever waited for a verdict does so no more; what was asked for goes on."""
        if self.verdict is None:
            self._give_up("nobody waited for it. `manage.py mirrorverify --list` shows what comes of it")

    def _go_on(self, source: Source) -> None:
        """Compare what was repaired, once it is loaded; then there is a verdict."""
        differing = [one.model for one in self._results.values() if one.differences]
        if not self._repair or not differing:
            self._judge()
        elif not verifying.loads(source):
            verifying.request(source, differing, repair=False)
            self._repair, self.repaired, self._awaited = False, True, set(differing)

    def _judge(self) -> None:
        found = self._results.values()
        if refused := {one.refused for one in found if one.refused}:
            self._give_up(f"the source does not tell all of its rows ({', '.join(sorted(refused))})")
        else:
            differ = any(one.differences for one in found)
            self.verdict = Verdict.DIFFERENT if differ else Verdict.IDENTICAL

    def _give_up(self, why: str) -> list[Finished]:
        self.verdict, self.why = Verdict.NOT_COMPARED, why
        return []


def _trouble(source: Source, since: datetime, now: datetime) -> str:
    """Why nothing comes of waiting any longer; "" while something may."""
    state = SourceState(source.state)
    problem = ": ".join(filter(None, (source.error_code, source.error_text)))
    told = one_line(f"{state.label}: {problem}" if problem else str(state.label))
    if state in {SourceState.HALTED, SourceState.REFUSED}:
        return f"it is {told}"
    heard = max(since, source.heard_at or since)
    if now - heard <= timedelta(seconds=conf().deadline):
        return ""
    return f"nothing is heard of it ({told}). It begins once `manage.py runmirror {source.name}` follows it"


def _stored(sources: Iterable[Source], models: Iterable[str]) -> QuerySet[Difference]:
    stored = Difference.objects.using(conf().database).filter(
        source__in=list(sources), model__in=list(models)
    )
    return stored.select_related("source").order_by("source__name", "model", "id")


# Shown


def watch(
    comparisons: Sequence[Comparison],
    stdout: OutputWrapper,
    stderr: OutputWrapper,
    *,
    sleep: Callable[[float], None],
    now: Callable[[], datetime],
) -> Verdict:
    """Tell each model that is finished, until there is a verdict about every source; return the worst.

    On a terminal bars show how far they are.
    """
    stdout.ending = ""  # rich ends its lines itself
    console = Console(file=cast("IO[str]", stdout), highlight=False, soft_wrap=True)
    with suppress(KeyboardInterrupt), _bars(console) as bars:
        tasks = {one.name: bars.add_task(one.name, total=None) for one in comparisons}
        while waiting := [one for one in comparisons if one.verdict is None]:
            for one in waiting:
                for finished in one.look(now()):
                    for line in _finished_lines(finished):
                        console.print(Text(line))
                _draw(bars, tasks[one.name], one)
            if any(one.verdict is None for one in waiting):
                sleep(_POLL)
    for one in comparisons:
        one.leave()
        (stderr if one.why else stdout).write(_closing_line(one) + "\n")
    return max((one.verdict for one in comparisons if one.verdict is not None), default=Verdict.IDENTICAL)


def _bars(console: Console) -> Progress:
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
    drawn = console.is_terminal
    return Progress(*columns, console=console, auto_refresh=False, transient=True, disable=not drawn)


def _draw(bars: Progress, task: TaskID, one: Comparison) -> None:
    found = one.summary
    what = "" if found.model is None else f"{found.model}, {found.to_come} more to come"
    bars.update(
        task,
        description=f"{one.name}: {what or 'loading what differed'}",
        completed=found.rows,
        total=found.total,
        visible=one.verdict is None,
        refresh=True,
    )


def _finished_lines(finished: Finished) -> Iterator[str]:
    one = finished.result
    about = f"{finished.source}: {one.model}"
    if one.refused:
        yield f"{about}: not compared ({one_line(one.refused)})"
    if one.differences or not one.refused:
        yield f"{about}, {one.rows} rows: {difference_words(one) if one.differences else 'identical'}"
    for difference in finished.differences:
        fields = f" ({one_line(difference.fields)})" if difference.fields else ""
        repaired = ", repaired" if difference.repaired else ""
        yield f"  {one.model} {one_line(difference.key)}: {difference.kind}{fields}{repaired}"
    if more := one.differences - len(finished.differences):
        yield f"  and {more} more"


def _closing_line(one: Comparison) -> str:
    """The verdict about a source."""
    found = one.summary
    if one.verdict is Verdict.NOT_COMPARED:
        return f"{one.name}: could not be compared: {one.why}."
    if one.verdict is Verdict.IDENTICAL:
        return f"{one.name}: identical as of {when(found.as_of)} at {found.cursor}"
    if one.repaired:
        return f"{one.name}: {difference_words(found)}, although it was loaded again; see docs/verify.md"
    return f"{one.name}: {difference_words(found)}; {mend(one.name)}"


# What there is


def listing(sources: Sequence[Source], models: Sequence[str]) -> tuple[str, Verdict]:
    """What came of the last comparison of each model, and the differences that are stored, all of them."""
    found = verifying.results(conf().database)
    results = [
        (source.name, one) for source in sources for one in found.get(source.pk, ()) if one.model in models
    ]
    if not results:
        return "Nothing was compared yet: `manage.py mirrorverify` does it.", Verdict.IDENTICAL
    parts = [plain_table(_COLUMNS, [_result_row(source, one) for source, one in results])]
    if rows := [_difference_row(one) for one in _stored(sources, models)]:
        parts.append(plain_table(("source", "model", "key", "kind", "fields", "found", "repaired"), rows))
    if more := sum(one.differences for _source, one in results) - len(rows):
        parts.append(f"and {more} more")
    unrepaired = any(one.unrepaired for _source, one in results)
    return "\n\n".join(parts), Verdict.DIFFERENT if unrepaired else Verdict.IDENTICAL


def _result_row(source: str, one: Result) -> tuple[str, ...]:
    counts = (one.missing, one.different, one.extra, one.repaired)
    # Not the source's time, but ours: the cursor is the source's.
    return (
        source,
        one.model,
        _word(one),
        str(one.rows),
        *map(str, counts),
        when(one.ended_at),
        str(one.cursor),
    )


def _word(one: Result) -> str:
    if not one.done:
        return one.state
    if one.refused:
        return one.refused
    if one.differences:
        return "differs" if one.unrepaired else "repaired"
    return "identical"


def _difference_row(one: Difference) -> tuple[str, ...]:
    repaired = "yes" if one.repaired else "no"
    return one.source.name, one.model, one.key, one.kind, one.fields, when(one.found_at), repaired
