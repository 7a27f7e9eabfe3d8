"""Dates, by a clock that anybody sets and one that nobody does."""

from __future__ import annotations

import pytest
from support.clock import TwoClocks

from stronghold_p2p.firewall.ends import Ends

HOUR = 3600.0


@pytest.fixture
def time() -> TwoClocks:
    return TwoClocks()


@pytest.fixture
def ends(time: TwoClocks) -> Ends[str]:
    return Ends(time.clocks)


def test_a_date_comes(time: TwoClocks, ends: Ends[str]) -> None:
    noon = time.wall + HOUR
    ends.set("a", [noon])
    assert ends.seconds_left == HOUR
    time.go(HOUR - 1)
    assert not ends.has_come(noon)
    assert not ends.due()
    assert ends.seconds_left == 1
    time.go(1)
    assert ends.has_come(noon)
    assert ends.seconds_left == 0
    assert ends.due() == {"a": noon}
    assert ends.due() == {}  # it is told once
    assert ends.seconds_left is None


def test_a_clock_that_is_set_back_prolongs_nothing(time: TwoClocks, ends: Ends[str]) -> None:
    noon = time.wall + HOUR
    ends.set("a", [noon])
    time.wall -= 24 * HOUR
    assert ends.seconds_left == HOUR
    time.go(HOUR - 1)
    assert not ends.has_come(noon)
    time.go(1)
    assert ends.has_come(noon)
    assert ends.due() == {"a": noon}


@pytest.mark.parametrize("asked", [False, True])
def test_a_clock_that_is_set_back_and_named_again_prolongs_nothing(
    time: TwoClocks, ends: Ends[str], asked: bool
) -> None:
    """As by a policy that is loaded again."""
    noon = time.wall + HOUR
    ends.set("a", [noon])
    time.go(HOUR / 2)
    time.wall -= 24 * HOUR
    ends.set("a", [noon])
    ends.set("b", [noon])
    time.go(HOUR / 2)
    if asked:
        assert ends.has_come(noon)
    assert ends.due() == {"a": noon, "b": noon}


def test_what_has_come_stays_so(time: TwoClocks, ends: Ends[str]) -> None:
    noon = time.wall + HOUR
    ends.set("a", [noon])
    time.wall += HOUR  # a sleep, in which the other clock stands still
    assert ends.has_come(noon)
    time.wall -= HOUR
    assert ends.has_come(noon)
    assert ends.due() == {"a": noon}
    assert ends.has_come(noon)
    ends.set("a", [])
    assert not ends.has_come(noon)  # nobody used it any more


def test_dates_that_nobody_uses_go_by_the_one_clock(time: TwoClocks, ends: Ends[str]) -> None:
    assert not ends.has_come(time.wall + 1)
    assert ends.has_come(time.wall)


def test_each_is_told_of_its_last_date_that_has_come(time: TwoClocks, ends: Ends[str]) -> None:
    noon = time.wall + HOUR
    ends.set("a", [noon, noon + HOUR, noon + 2 * HOUR])
    ends.set("b", [noon + HOUR])
    ends.set("c", [noon + 2 * HOUR])
    time.go(2 * HOUR)
    assert ends.due() == {"a": noon + HOUR, "b": noon + HOUR}
    assert ends.seconds_left == HOUR
    time.go(HOUR)
    assert ends.due() == {"a": noon + 2 * HOUR, "c": noon + 2 * HOUR}


def test_what_is_no_longer_used_is_not_waited_for(time: TwoClocks, ends: Ends[str]) -> None:
    noon = time.wall + HOUR
    ends.set("a", [noon])
    ends.set("b", [noon + HOUR])
    ends.set("a", [])
    time.go(HOUR)
    assert ends.due() == {}
    assert ends.seconds_left == HOUR
    ends.set("b", [])
    assert ends.seconds_left is None


def test_a_date_in_the_past_has_come(time: TwoClocks, ends: Ends[str]) -> None:
    ends.set("a", [time.wall - HOUR])
    assert ends.seconds_left == 0
    assert ends.due() == {"a": time.wall - HOUR}


def test_what_lasts_for_some_time_does_not_end_at_once(time: TwoClocks, ends: Ends[str]) -> None:
    """Though a date that has come lies ahead of a clock that was set back."""
    noon = time.wall + HOUR
    ends.set("a", [noon])
    time.go(HOUR)
    assert ends.has_come(noon)
    time.wall -= HOUR
    assert not ends.has_come(ends.in_seconds(HOUR))
    assert ends.in_seconds(HOUR) == pytest.approx(noon)
