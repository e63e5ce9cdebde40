"""What the centre's database knows of one source: where it is, who may commit, how it fares.

Every call runs on the source's own thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import connections, transaction
from django.db.models import F

from mirror import loading, verifying
from mirror.conf import conf
from mirror.errors import Doubled, Forked, Superseded
from mirror.models import LoadingState, Oplog, Source, SourceState, Stream
from mirror.registry import mirrored_models
from mirror.wire import Subscribed


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to connect and what to ask for."""

    name: str
    url: str
    token: str
    mirror: str
    begin: str
    stream: str | None
    cursor: int
    position: int
    mark: str
    #: Whether rows are loaded, so that the log is followed from now on.
    loads: bool = False


class Books:
    def __init__(self, source_id: int) -> None:
        self.source_id = source_id
        self.using = conf().database
        self.fence = 0

    def _source(self) -> Any:
        return Source.objects.using(self.using).filter(pk=self.source_id)

    def take_over(self) -> None:
        """From now on only this process may commit. Raises Superseded for a source that was removed."""
        with transaction.atomic(using=self.using):
            if not self._source().update(fence=F("fence") + 1):
                raise Superseded("the source was removed")
            self.fence = self._source().get().fence

    def place(self) -> Place:
        """Raises Superseded when another process took over, or the source was removed."""
        source = self._source().filter(fence=self.fence).select_related("stream").first()
        if source is None:
            raise Superseded("another process follows this source now, or it was removed")
        return Place(
            name=source.name,
            url=source.url,
            token=source.token,
            mirror=str(source.mirror),
            begin=source.begin,
            stream=str(source.stream.uuid) if source.stream else None,
            cursor=source.cursor,
            position=source.position,
            mark=source.mark,
            loads=source.loading.filter(anew=True).exclude(state=LoadingState.DONE).exists(),
        )

    def start_over(self) -> None:
        """The log is no help: from the next connection on every row is loaded as it is. Raises Superseded.

        What is here stays readable meanwhile.
        """
        using = self.using
        with transaction.atomic(using=using):
            found = self._source().filter(fence=self.fence)
            # First a write: a deferred SQLite transaction that began with a read would fail, not wait.
            if not found.update(cursor=0, position=0, mark=""):
                raise Superseded("another process follows this source now, or it was removed")
            source = found.get()
            # What was here before anything of the source is not the source's.
            sweep = source.stream_id is not None or source.loading.exists()
            found.update(stream=None)
            loading.begin(source, mirrored_models(), anew=True, sweep=sweep)

    def cover(self, answer: Subscribed) -> None:
        """Have loaded what the log does not tell here."""
        source = self._source().filter(fence=self.fence).first()
        if source is not None:
            loading.cover(source, mirrored_models(), answer.untold)

    def schedule(self) -> None:
        """Have rows compared that were not for long."""
        source = self._source().filter(fence=self.fence).first()
        if source is not None:
            verifying.schedule(source, datetime.now(UTC))

    def bind(self, place: Place, answer: Subscribed) -> None:
        """Hold the source to its stream: remember it the first time. Raises Forked, Superseded."""
        if place.stream is not None:
            here = place.stream, place.cursor, place.position
            if (answer.stream, answer.cursor, answer.position) != here:
                raise Forked(
                    f"the source goes on with stream {answer.stream} at {answer.cursor} "
                    f"({answer.position}), this mirror is at {place.cursor} ({place.position}) "
                    f"of stream {place.stream}"
                )
            return
        with transaction.atomic(using=self.using):
            known = Stream.objects.using(self.using).filter(uuid=answer.stream).first()
            if known is not None:
                if known.local or hasattr(known, "source"):
                    raise Doubled(
                        f"stream {answer.stream} is kept here already; is this source registered twice?"
                    )
                # What was copied of it before stays to be read, but not what this history does not have.
                gone = Oplog.objects.using(self.using).filter(stream=known, ts__gt=answer.cursor)
                gone._raw_delete(self.using)
            stream, _ = Stream.objects.using(self.using).update_or_create(
                uuid=answer.stream,
                defaults={
                    "head": answer.cursor,
                    "position": answer.position,
                    "anchor": answer.cursor,
                    "anchor_mark": answer.mark,
                    "anchor_position": answer.position,
                },
            )
            bound = self._source().filter(fence=self.fence, stream=None)
            if not bound.update(
                stream=stream, cursor=answer.cursor, position=answer.position, mark=answer.mark
            ):
                raise Superseded("another process follows this source now")

    def report(self, state: SourceState, since: datetime, **values: Any) -> None:
        """Store how the source fares, unless another process does."""
        self._source().filter(fence=self.fence).update(state=state, state_since=since, **values)

    def heard(self, head: int, head_position: int, clock_offset: int) -> None:
        """The source is alive, and this is where it stands. ``clock_offset``: its clock minus ours, us."""
        self._source().filter(fence=self.fence).update(
            head=head, head_position=head_position, clock_offset=clock_offset, heard_at=datetime.now(UTC)
        )

    def close(self) -> None:
        connections[self.using].close()
