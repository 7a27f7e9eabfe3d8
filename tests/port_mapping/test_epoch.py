"""Routers that have restarted (RFC 6887, section 8.5)."""

from __future__ import annotations

import pytest

from stronghold_p2p.port_mapping.epoch import Epoch


def test_the_first_answer_says_nothing() -> None:
    assert not Epoch().has_restarted(0, 1000.0)


@pytest.mark.parametrize(
    ("age", "now", "restarted"),
    [
        (1000, 0.0, False),
        (1060, 60.0, False),
        (999, 0.0, False),  # another way through the network
        (998, 0.0, True),
        (0, 60.0, True),
        (1058, 60.0, False),  # 1/16 slow
        (1045, 60.0, True),
        (1066, 60.0, False),
        (1100, 60.0, True),  # or we have slept
        (1060, 1000.0, True),  # started anew, and in the meantime older than before
        (2**32 - 1, 60.0, True),
    ],
)
def test_the_next_one(age: int, now: float, restarted: bool) -> None:
    epoch = Epoch()
    epoch.has_restarted(1000, 0.0)
    assert epoch.has_restarted(age, now) == restarted
    assert not epoch.has_restarted(age, now)
