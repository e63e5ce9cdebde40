"""How processes that share the sources are kept alive, and when they end."""

from __future__ import annotations

import asyncio
import os
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.workers import MISSED, Share, Workers

TERMINATED = -15


class FakeProcess:
    """Ends when it is told to; what ``terminate`` makes of it is its exit code."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self.sentinel, self._end = os.pipe()
        self.exitcode: int | None = None
        self.told_to_end_with = 0

    def end(self, code: int) -> None:
        if self.exitcode is None:
            self.exitcode = code
            os.close(self._end)

    def join(self) -> None:
        os.close(self.sentinel)

    def terminate(self) -> None:
        self.end(self.told_to_end_with)


class Kept:
    """Workers with fakes for processes."""

    def __init__(self, count: int, *, until_level: bool = False) -> None:
        self.started: list[FakeProcess] = []
        self._news: asyncio.Queue[FakeProcess] = asyncio.Queue()
        self.paused: list[float] = []
        shares = [Share(number, of=count) for number in range(count)]
        self.workers = Workers(shares, self._start, until_level=until_level, pause=self._pause)
        self.task = asyncio.ensure_future(self.workers.run())

    def _start(self, share: Share) -> FakeProcess:
        process = FakeProcess(share)
        self._news.put_nowait(process)
        return process

    async def _pause(self, seconds: float) -> None:
        self.paused.append(seconds)

    async def until_started(self, count: int) -> None:
        while len(self.started) < count:
            self.started.append(await self._news.get())


@given(st.integers(min_value=1, max_value=9), st.lists(st.integers(min_value=1)))
def test_every_source_falls_to_exactly_one_share(count, source_ids):
    shares = [Share(number, of=count) for number in range(count)]
    for source_id in source_ids:
        assert sum(share.includes(source_id) for share in shares) == 1


async def test_they_end_when_asked_to():
    kept = Kept(3)
    await kept.until_started(3)
    kept.workers.stop()
    assert await kept.task is True
    assert [process.share.number for process in kept.started] == [0, 1, 2]


@pytest.mark.parametrize("code", [0, 1, -9])
async def test_one_that_dies_begins_again_with_its_share(code):
    kept = Kept(2)
    await kept.until_started(2)
    kept.started[1].end(code)
    await kept.until_started(3)
    assert kept.started[2].share == kept.started[1].share
    assert kept.paused == [1.0]
    kept.workers.stop()
    assert await kept.task is True


async def test_when_another_process_took_over_one_share_the_others_end_too():
    kept = Kept(2)
    await kept.until_started(2)
    kept.started[0].end(MISSED)
    assert await kept.task is False
    assert [process.exitcode for process in kept.started] == [MISSED, 0]


@pytest.mark.parametrize("codes", list(product([0, MISSED, TERMINATED], repeat=2)))
async def test_they_are_level_when_each_of_them_is(codes):
    kept = Kept(2, until_level=True)
    await kept.until_started(2)
    for process in kept.started:
        process.told_to_end_with = TERMINATED
    if TERMINATED in codes:
        kept.workers.stop()
    for process, code in zip(kept.started, codes, strict=True):
        process.end(code)
    assert await kept.task is (codes == (0, 0))
    assert len(kept.started) == 2
