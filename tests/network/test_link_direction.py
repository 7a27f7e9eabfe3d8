"""The emulated link itself, by a clock of the test."""

from __future__ import annotations

import pytest
from support.link import Direction

FRAME = bytes(1250)
"""0.1 ms at 100 Mbit/s."""


def direction(*, rate: float = 100e6, delay: float = 0.05, loss: float = 0.0, queue: int = 1_000_000) -> Direction:
    return Direction(rate=rate, delay=delay, loss=loss, queue=queue, seed=1)


def taken(way: Direction, now: float) -> int:
    count = 0
    while way.take(now) is not None:
        count += 1
    return count


def test_a_frame_comes_out_once_it_is_sent_and_has_travelled() -> None:
    way = direction()
    way.put(FRAME, now=1.0)
    assert way.next_due == pytest.approx(1.0501)
    assert way.take(1.05) is None
    assert way.take(1.0502) == FRAME
    assert way.next_due is None


def test_frames_come_out_at_the_rate_of_the_link() -> None:
    way = direction(queue=2_000_000)
    for _ in range(1000):
        way.put(FRAME, now=0.0)
    assert taken(way, 0.05 + 0.01015) == 101
    assert taken(way, 0.05 + 0.05015) == 400
    assert taken(way, 0.05 + 0.10015) == 499
    assert way.carried.bytes == 1000 * len(FRAME)
    assert way.carried.busy == pytest.approx(0.1)


def test_a_pause_is_not_made_up_for() -> None:
    way = direction()
    way.put(FRAME, now=0.0)
    assert taken(way, 1.0) == 1
    for _ in range(10):
        way.put(FRAME, now=1.0)
    assert taken(way, 1.05045) == 4


def test_what_has_no_room_is_dropped() -> None:
    way = direction(queue=10 * len(FRAME) + 1)
    for _ in range(20):
        way.put(FRAME, now=0.0)
    assert way.carried.dropped == 9
    assert taken(way, 1.0) == 11  # one is sent, and ten wait


def test_the_same_frames_are_lost_each_time() -> None:
    lost = []
    for _ in range(2):
        way = direction(loss=0.01, queue=10**9)
        for _ in range(10_000):
            way.put(FRAME, now=0.0)
        assert way.carried.frames + way.carried.lost == 10_000
        lost.append(way.carried.lost)
    assert lost[0] == lost[1]
    assert 50 < lost[0] < 200
