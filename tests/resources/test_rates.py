from __future__ import annotations

from stronghold_p2p.resources import rates
from stronghold_p2p.resources.rates import Rate


def taken(rate: Rate, holder: str, now: float, asked: int = 1000) -> int:
    """How many of those that it asks for ``holder`` gets."""
    count = 0
    for _ in range(asked):
        if rate.has(holder, now):
            rate.take(holder, now)
            count += 1
    return count


def test_a_minute_s_worth_at_once_and_then_one_after_the_other() -> None:
    rate = Rate(30)
    assert taken(rate, "a", 100.0) == 30
    assert taken(rate, "a", 101.0) == 0
    assert taken(rate, "a", 102.0) == 1
    assert taken(rate, "a", 108.0) == 3
    assert taken(rate, "a", 1000.0) == 30


def test_over_a_long_time_it_is_as_many_a_minute() -> None:
    rate = Rate(60)
    assert sum(taken(rate, "a", tenth / 10, asked=1) for tenth in range(36_000)) == 60 * 60 + 59


def test_one_is_enough() -> None:
    rate = Rate(1)
    assert [taken(rate, "a", float(now)) for now in (0, 1, 59, 60, 61)] == [1, 0, 0, 1, 0]


def test_other_times_than_a_minute() -> None:
    rate = Rate(2.5, 1.0)
    assert [taken(rate, "a", now) for now in (0.0, 0.3, 0.4, 10.0)] == [2, 1, 0, 2]


def test_holders_are_apart() -> None:
    rate = Rate(2)
    assert taken(rate, "a", 0.0) == taken(rate, "b", 0.0) == 2


def test_who_has_all_back_is_forgotten() -> None:
    rate = Rate(60)
    for number in range(10_000):
        taken(rate, str(number), number / 10, asked=1)
    assert len(rate) == 10


def test_the_number_of_holders_is_bounded() -> None:
    rate = Rate(1)
    for number in range(rates.MAX_REMEMBERED + 10):
        rate.take(str(number), 0.0)
    assert len(rate) == rates.MAX_REMEMBERED
    assert rate.has("0", 0.0)
    assert not rate.has("10", 0.0)
