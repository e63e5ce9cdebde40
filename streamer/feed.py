"""The feed: what the dashboards of this process show next, found by one reader for all of them.

``step`` looks once: which streams advanced, the newest changes of those, how each source fares. It is
told the time, holds nothing but what it has seen, and is called by ``audience`` while somebody looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from django.db.models import Count, F

from mirror.changes import to_datetime
from mirror.conf import conf
from mirror.models import Oplog, Outbox, Stream
from mirror.status import SourceStatus, Status, collect
from mirror.verifying import Summary, summaries
from streamer.browser import ROOM, Batch, Filter
from streamer.cards import LOCAL_NAME, Card, Follower, local_card, micros, source_card
from streamer.lines import Found, Stretch, count, find, floor, read, share
from streamer.pace import BUCKET, BUCKETS, Pace
from streamer.presence import Presence, connected

__all__ = ["Feed", "Step"]

#: How many of the newest changes a new filter is tried on, over all streams.
_SEARCHED = 20_000
#: How many of them the first sparklines are made of.
_SEEDED = 100_000
#: Microseconds between two looks at what came of comparing rows: with many sources there is much of it.
_COMPARED_EVERY = 2_000_000
#: How far the changes that a connected mirror lacks are counted.
_COUNTED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """``news`` are the changes since the last step, ``starts`` the newest ones: both by filter."""

    cards: Mapping[str, bytes]
    news: Mapping[Filter, Batch]
    starts: Mapping[Filter, Batch]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """How far a stream has been shown."""

    head: int
    position: int
    pace: Pace


class Feed:
    """Reads the mirror's tables of one database. Not for two threads at a time."""

    def __init__(self, using: str | None = None) -> None:
        self.using = using or conf().database
        self._deadline = int(conf().deadline * 1_000_000)
        self._looked = False
        #: By the stream's UUID.
        self._seen: dict[str, _Seen] = {}
        #: When each source was last heard and level.
        self._level_at: dict[str, int] = {}
        #: What came of comparing rows, by the source's primary key, and when that was read.
        self._verified: Mapping[Any, Summary] = {}
        self._verified_at: int | None = None

    def step(self, now: int, *, following: Iterable[Filter] = (), starting: Iterable[Filter] = ()) -> Step:
        """Look once. Raises django.db.Error and has then seen nothing: the next step makes up for it."""
        status = collect(to_datetime(now), self._compared(now))
        streams = {str(stream.uuid): stream for stream in Stream.objects.using(self.using).order_by("-head")}
        seen = self._seen if self._looked else self._first_look(streams, now)
        names = {source.stream: source.name for source in status.sources}
        stretches = _stretches(streams, names, seen)
        everything = _stretches(streams, names, {})
        news = {wanted: self._news(wanted, stretches) for wanted in following}
        starts = {wanted: self._newest(wanted, everything) for wanted in starting}
        waited = self._waited(status, now)
        mirrors = self._mirrors()
        self._remember(seen, streams, status, now)
        return Step(cards=self._cards(status, waited, mirrors, now), news=news, starts=starts)

    # Changes

    def _news(self, wanted: Filter, stretches: Sequence[Stretch]) -> Batch:
        """The newest changes that pass, and how many more passed."""
        stretches = _chosen(wanted, stretches)
        if _passes_all(wanted):
            # Room is shared, so that a busy stream does not hide a quiet one.
            rooms = share({stretch.uuid: stretch.changes for stretch in stretches}, ROOM)
            found = [
                one
                for stretch in stretches
                if rooms[stretch.uuid]
                for one in find([stretch], wanted, self.using, limit=rooms[stretch.uuid])
            ]
            total = sum(stretch.changes for stretch in stretches)
        else:
            found = find(stretches, wanted, self.using, limit=ROOM)
            total = count(stretches, wanted, self.using) if len(found) == ROOM else len(found)
        return Batch(lines=read(found, stretches, self.using), skipped=max(0, total - len(found)))

    def _newest(self, wanted: Filter, stretches: Sequence[Stretch]) -> Batch:
        """The newest changes of all streams that pass. ``stretches`` come with the newest head first."""
        stretches = _chosen(wanted, stretches)
        if _passes_all(wanted):
            found: list[Found] = []
            for stretch in stretches:
                after = found[0][0] if len(found) == ROOM else 0
                if stretch.upto <= after:
                    break
                found += find([replace(stretch, after=after)], wanted, self.using, limit=ROOM)
                found = sorted(found)[-ROOM:]
        else:
            found = find(
                [self._searched(one, len(stretches)) for one in stretches], wanted, self.using, limit=ROOM
            )
        return Batch(lines=read(found, stretches, self.using))

    def _searched(self, stretch: Stretch, streams: int) -> Stretch:
        changes = max(1, _SEARCHED // streams)
        if stretch.changes <= changes:
            return stretch
        return replace(stretch, after=floor(stretch.stream_id, changes, self.using))

    # Sources

    def _compared(self, now: int) -> Mapping[Any, Summary]:
        if self._verified_at is None or abs(now - self._verified_at) >= _COMPARED_EVERY:
            self._verified, self._verified_at = summaries(self.using), now
        return self._verified

    def _cards(
        self, status: Status, waited: int, mirrors: Mapping[str, Sequence[Follower]], now: int
    ) -> dict[str, bytes]:
        cards: list[Card] = []
        if status.stream is not None:
            cards.append(
                local_card(
                    status.stream,
                    pace=self._seen[status.stream.stream].pace,
                    waited=waited,
                    stalled=waited > self._deadline,
                    mirrors=mirrors.get(status.stream.stream, ()),
                    now=now,
                )
            )
        for source in status.sources:
            uuid = source.stream or ""
            cards.append(
                source_card(
                    source,
                    pace=self._seen[uuid].pace if uuid in self._seen else None,
                    level_at=self._level_at.get(source.name),
                    mirrors=mirrors.get(uuid, ()),
                    now=now,
                )
            )
        return {card.name: msgspec.json.encode(card) for card in cards}

    def _waited(self, status: Status, now: int) -> int:
        """How long the oldest change in the outbox has been there."""
        if status.stream is None or not status.stream.waiting:
            return 0
        outbox = Outbox.objects.using(self.using).order_by("id")
        oldest = outbox.values_list("captured_at", flat=True).first()
        return max(0, now - oldest) if oldest is not None else 0

    def _mirrors(self) -> dict[str, list[Follower]]:
        """Who is connected to this process, by the stream that is followed."""
        mirrors: dict[str, list[Follower]] = {}
        for presence in connected():
            follower = Follower(
                name=presence.token,
                since=int(presence.since * 1_000_000),
                cursor=presence.cursor,
                changes_behind=self._lacked_by(presence),
            )
            mirrors.setdefault(presence.stream, []).append(follower)
        return mirrors

    def _lacked_by(self, presence: Presence) -> int:
        changes = Oplog.objects.using(self.using).filter(stream__uuid=presence.stream)
        return changes.filter(ts__gt=presence.cursor)[:_COUNTED].count()

    # What was seen

    def _first_look(self, streams: Mapping[str, Stream], now: int) -> dict[str, _Seen]:
        """Everything that is here counts as seen; how fast it came is counted from its timestamps."""
        first = (now // BUCKET - BUCKETS) * BUCKET
        active = sum(stream.head >= first for stream in streams.values())
        return {
            uuid: _Seen(
                head=stream.head,
                position=stream.position,
                pace=self._pace(stream, first, _SEEDED // active)
                if stream.head >= first
                else Pace(stream.position, known_from=first, counted={}),
            )
            for uuid, stream in streams.items()
        }

    def _pace(self, stream: Stream, first: int, changes: int) -> Pace:
        cut = floor(stream.pk, changes, self.using)
        rows = (
            Oplog.objects.using(self.using)
            .filter(stream=stream, ts__gt=max(first - 1, cut))
            .values_list(F("ts") - F("ts") % BUCKET)
            .annotate(changes=Count("id"))
        )
        return Pace(
            stream.position,
            known_from=first if cut < first else cut + BUCKET,
            counted={moment // BUCKET: changes for moment, changes in rows},
        )

    def _remember(
        self, seen: Mapping[str, _Seen], streams: Mapping[str, Stream], status: Status, now: int
    ) -> None:
        fresh: dict[str, _Seen] = {}
        for uuid, stream in streams.items():
            pace = seen[uuid].pace if uuid in seen else Pace(0, known_from=0, counted={})
            pace.observe(stream.position, now)
            fresh[uuid] = _Seen(head=stream.head, position=stream.position, pace=pace)
        self._seen, self._looked = fresh, True
        self._level_at = {source.name: at for source in status.sources if (at := self._level(source))}

    def _level(self, source: SourceStatus) -> int | None:
        if source.seconds_behind == 0:
            return micros(source.heard_at)
        return self._level_at.get(source.name)


def _stretches(
    streams: Mapping[str, Stream], names: Mapping[str | None, str], seen: Mapping[str, _Seen]
) -> list[Stretch]:
    """What each stream that advanced has after what was seen of it, newest head first."""
    stretches = []
    for uuid, stream in streams.items():
        head, position = (seen[uuid].head, seen[uuid].position) if uuid in seen else (0, 0)
        if stream.head > head:
            stretches.append(
                Stretch(
                    stream_id=stream.pk,
                    uuid=uuid,
                    # A stream whose source was removed goes by the beginning of its UUID.
                    name=LOCAL_NAME if stream.local else names.get(uuid, uuid[:8]),
                    after=head,
                    upto=stream.head,
                    changes=max(0, stream.position - position),
                )
            )
    return stretches


def _chosen(wanted: Filter, stretches: Iterable[Stretch]) -> list[Stretch]:
    return [stretch for stretch in stretches if wanted.source in ("", stretch.name)]


def _passes_all(wanted: Filter) -> bool:
    return not (wanted.model or wanted.op or wanted.text)
