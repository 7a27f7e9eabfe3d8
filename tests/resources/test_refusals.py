from __future__ import annotations

import pytest

from stronghold_p2p import Event, LimitReached
from stronghold_p2p.resources.refusals import Refusals

NET = ("192.0.2.1/32",)
OTHER = ("2001:db8::/48", "2001:db8::/56")


def test_each_limit_is_told_of_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    events: list[Event] = []
    refusals = Refusals(events.append, clock=lambda: now)
    for _ in range(1000):
        refusals.add("max_connections", NET)
    refusals.add("max_firewall_questions", OTHER)
    assert events == [
        LimitReached("max_connections", "192.0.2.1/32", 1),
        LimitReached("max_firewall_questions", "2001:db8::/48", 1),
    ]
    now += 1.0
    refusals.add("max_connections", OTHER)
    assert events[2:] == [LimitReached("max_connections", "2001:db8::/48", 1000)]
    assert [record.getMessage() for record in caplog.records] == [
        "Config.max_connections is reached: 1 refused, the last one of 192.0.2.1/32",
        "Config.max_firewall_questions is reached: 1 refused, the last one of 2001:db8::/48",
        "Config.max_connections is reached: 1000 refused, the last one of 2001:db8::/48",
    ]
