from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronghold_p2p.transport.deadlines import STRIKES_AT_ONCE, TICK, Deadlines, Expirable


class FakeTimer:
    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """The clock and the timers of an event loop; ``early`` is its resolution: it may call a timer that much early."""

    def __init__(self, early: float = 0.0) -> None:
        self.now = 1000.0
        self.early = early
        self.turns = 0
        """How often a timer has struck."""
        self._timers: list[FakeTimer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> FakeTimer:
        self._timers.append(FakeTimer(when, callback))
        return self._timers[-1]

    @property
    def timers(self) -> list[FakeTimer]:
        """Those that are set."""
        return [timer for timer in self._timers if not timer.cancelled]

    def advance(self, seconds: float) -> None:
        """Lets time pass, from timer to timer."""
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer.when - self.early <= end]:
            timer = min(due, key=lambda timer: timer.when)
            self._timers.remove(timer)
            self.now = max(self.now, timer.when - self.early)
            self.turns += 1
            timer.callback()
        self.now = end


class Item:
    """Notes when it expired, and then does what it is told."""

    def __init__(self, loop: FakeLoop, then: Callable[[], object] | None = None) -> None:
        self.loop = loop
        self.then = then
        self.expired: list[float] = []

    def expire(self) -> None:
        self.expired.append(self.loop.now)
        if self.then is not None:
            self.then()


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def deadlines(loop: FakeLoop) -> Deadlines:
    return deadlines_on(loop)


def deadlines_on(loop: FakeLoop) -> Deadlines:
    return Deadlines(cast(asyncio.AbstractEventLoop, loop))


def test_a_deadline_strikes_once_and_not_early(loop: FakeLoop, deadlines: Deadlines) -> None:
    item = Item(loop)
    deadlines.add(1000.5, item)
    loop.advance(0.4999)
    assert item.expired == []
    loop.advance(TICK)
    assert item.expired == [pytest.approx(1000.5)]
    loop.advance(100)
    assert len(item.expired) == 1
    assert loop.timers == []


def test_many_that_are_due_strike_in_several_turns(loop: FakeLoop, deadlines: Deadlines) -> None:
    items = [Item(loop) for _ in range(2 * STRIKES_AT_ONCE + 1)]
    for item in items:
        deadlines.add(1000.5, item)
    loop.advance(1)
    assert all(len(item.expired) == 1 for item in items)
    assert loop.turns == 3
    assert loop.timers == []


@given(delays=st.lists(st.floats(0, 100), max_size=20), early=st.sampled_from([0.0, 1e-9, 5e-4]))
def test_each_strikes_in_order_on_the_first_tick_after_it(delays: list[float], early: float) -> None:
    loop = FakeLoop(early)
    deadlines = deadlines_on(loop)
    items = [(1000 + delay, Item(loop)) for delay in delays]
    for when, item in items:
        deadlines.add(when, item)
        assert len(loop.timers) == 1
    loop.advance(101)
    for when, item in items:
        [struck] = item.expired
        assert when - early - 1e-6 <= struck <= when + TICK + 1e-6
    assert loop.turns <= len({item.expired[0] for _, item in items}), "no timer strikes for nothing"
    assert loop.timers == []


def test_many_at_one_tick_share_one_timer(loop: FakeLoop, deadlines: Deadlines) -> None:
    items = [Item(loop) for _ in range(1000)]
    for number, item in enumerate(items):
        deadlines.add(1001 + number * TICK / 2000, item)
    assert len(loop.timers) == 1
    loop.advance(2)
    assert all(len(item.expired) == 1 for item in items)
    assert loop.turns <= 2 + len(items) // STRIKES_AT_ONCE


def test_of_one_tick_the_last_strikes_first(loop: FakeLoop, deadlines: Deadlines) -> None:
    struck: list[int] = []
    for number in range(100):
        deadlines.add(1000.5, Item(loop, partial(struck.append, number)))
    loop.advance(1)
    assert struck == list(reversed(range(100)))


def test_an_earlier_deadline_moves_the_timer(loop: FakeLoop, deadlines: Deadlines) -> None:
    for delay in (5, 3, 4, 1, 2):
        deadlines.add(1000 + delay, Item(loop))
        assert len(loop.timers) == 1
    assert loop.timers[0].when == pytest.approx(1001)


def test_what_has_passed_strikes_in_the_next_turn(loop: FakeLoop, deadlines: Deadlines) -> None:
    item = Item(loop)
    deadlines.add(loop.now - 5, item)
    assert item.expired == [], "never within the call"
    loop.advance(0)
    assert item.expired == [1000]


def test_a_busy_loop_catches_up_in_one_turn(loop: FakeLoop, deadlines: Deadlines) -> None:
    items = [Item(loop) for _ in range(100)]
    for number, item in enumerate(items, start=1):
        deadlines.add(1000 + number * TICK, item)
    loop.now += 10
    loop.advance(0)
    assert all(item.expired == [1010] for item in items)
    assert loop.turns == 1


def test_it_starts_again_when_all_have_struck(loop: FakeLoop, deadlines: Deadlines) -> None:
    for _ in range(3):
        item = Item(loop)
        deadlines.add(loop.now + 1, item)
        loop.advance(2)
        assert len(item.expired) == 1
        assert loop.timers == []


class TestRemoval:
    def test_it_does_not_strike(self, loop: FakeLoop, deadlines: Deadlines) -> None:
        removed, kept = Item(loop), Item(loop)
        tick = deadlines.add(1001, removed)
        assert deadlines.add(1001, kept) == tick
        deadlines.remove(tick, removed)
        loop.advance(2)
        assert (removed.expired, len(kept.expired)) == ([], 1)

    def test_it_may_come_late_or_twice(self, loop: FakeLoop, deadlines: Deadlines) -> None:
        item, other = Item(loop), Item(loop)
        tick = deadlines.add(1001, item)
        deadlines.remove(tick, other)
        loop.advance(2)
        deadlines.remove(tick, item)
        deadlines.remove(0, item)
        assert len(item.expired) == 1

    def test_no_deadline_has_tick_0(self, loop: FakeLoop, deadlines: Deadlines) -> None:
        assert deadlines.add(0.0, Item(loop)) > 0

    def test_nothing_is_left_of_it(self, loop: FakeLoop, deadlines: Deadlines) -> None:
        item = Item(loop)
        for _ in range(100):
            deadlines.remove(deadlines.add(loop.now + 10, item), item)
            loop.advance(TICK / 4)
        assert len(loop.timers) == 1
        loop.advance(11)
        assert item.expired == []
        assert loop.timers == []

    def test_by_another_that_expires_at_the_same_tick(self, loop: FakeLoop, deadlines: Deadlines) -> None:
        ticks: dict[Expirable, int] = {}

        def remove_all() -> None:
            for item, tick in ticks.items():
                deadlines.remove(tick, item)

        items = [Item(loop, remove_all) for _ in range(10)]
        for item in items:
            ticks[item] = deadlines.add(1001, item)
        loop.advance(2)
        assert sum(len(item.expired) for item in items) == 1

    def test_by_another_that_expires_in_the_same_turn(self, loop: FakeLoop, deadlines: Deadlines) -> None:
        late = Item(loop)
        tick = deadlines.add(1001.5, late)
        deadlines.add(1001, Item(loop, lambda: deadlines.remove(tick, late)))
        loop.now += 10  # the loop was busy
        loop.advance(0)
        assert late.expired == []


class TestWhileItStrikes:
    def test_one_may_set_itself_again(self, loop: FakeLoop, deadlines: Deadlines) -> None:
        item = Item(loop, lambda: deadlines.add(loop.now + 1, item))
        deadlines.add(1001, item)
        loop.advance(3.5)
        assert item.expired == [pytest.approx(1001), pytest.approx(1002, abs=TICK), pytest.approx(1003, abs=2 * TICK)]
        assert len(loop.timers) == 1

    @pytest.mark.parametrize("early", [0.0, 5e-4])
    def test_one_that_sets_itself_to_now_waits_for_the_next_tick(self, early: float) -> None:
        loop = FakeLoop(early)
        deadlines = deadlines_on(loop)
        item = Item(loop, lambda: deadlines.add(loop.now, item))
        deadlines.add(1001, item)
        loop.advance(1 + 10 * TICK)
        assert len(item.expired) == loop.turns == pytest.approx(11, abs=1)

    def test_it_may_add_others(self, loop: FakeLoop, deadlines: Deadlines) -> None:
        others = [Item(loop) for _ in range(3)]

        def add_others() -> None:
            for delay, other in enumerate(others, start=1):
                deadlines.add(loop.now + delay, other)

        deadlines.add(1001, Item(loop, add_others))
        loop.advance(1)
        assert len(loop.timers) == 1
        loop.advance(3.5)
        assert [len(other.expired) for other in others] == [1, 1, 1]

    def test_one_that_fails_does_not_hold_up_the_others(self, loop: FakeLoop, deadlines: Deadlines) -> None:
        def fail() -> None:
            raise RuntimeError("a bug")

        others = [Item(loop) for _ in range(10)]
        for number, other in enumerate(others):
            deadlines.add(1001 + number % 2, other)
        deadlines.add(1001, Item(loop, fail))
        with pytest.raises(RuntimeError, match="a bug"):
            loop.advance(5)
        loop.advance(5)
        assert all(len(other.expired) == 1 for other in others)

    def test_it_may_close_everything(self, loop: FakeLoop, deadlines: Deadlines) -> None:
        items = [Item(loop, deadlines.close) for _ in range(5)]
        for item in items:
            deadlines.add(1001, item)
        loop.advance(5)
        assert sum(len(item.expired) for item in items) == 1
        assert loop.timers == []


def test_nothing_strikes_after_close(loop: FakeLoop, deadlines: Deadlines) -> None:
    items = [Item(loop) for _ in range(3)]
    for delay, item in enumerate(items):
        deadlines.add(1001 + delay, item)
    deadlines.close()
    deadlines.close()
    assert loop.timers == []
    loop.advance(10)
    assert [item.expired for item in items] == [[], [], []]


async def test_on_a_real_loop() -> None:
    running = asyncio.get_running_loop()
    done: asyncio.Future[float] = running.create_future()

    class Waiter:
        def expire(self) -> None:
            done.set_result(running.time())

    when = running.time() + TICK
    Deadlines(running).add(when, Waiter())
    assert when - 1e-3 <= await done
