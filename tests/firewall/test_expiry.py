"""When a firewall looks at its clocks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.clock import Clock, TwoClocks

from stronghold_p2p import Direction, FirewallRules, Keypair, Rule
from stronghold_p2p.firewall.expiry import Expiry
from stronghold_p2p.firewall.rules import Firewall

ALICE, BOB = Keypair.generate().peer_id, Keypair.generate().peer_id


@dataclass
class Watched:
    """A firewall whose rules end as its loop's time passes."""

    clock: Clock
    time: TwoClocks = field(default_factory=TwoClocks)
    told: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.firewall = Firewall(FirewallRules(outbound=None), self.time.clocks)
        self.firewall.changed = self.told.append
        self.expiry = Expiry(self.firewall)

    async def go(self, seconds: float) -> list[object]:
        """Lets time pass; returns who was told of an end meanwhile."""
        self.told.clear()
        for _ in range(round(seconds * 4)):
            self.time.go(0.25)
            await self.clock.advance(0.25)
        return list(self.told)

    def allow(self, seconds: float, peer: Any = ALICE) -> None:
        self.firewall.set_peer_rule(peer, Rule.ALLOW_ALL.replace(until=self.time.after(seconds)), Direction.INBOUND)

    @property
    def timers(self) -> int:
        loop: Any = asyncio.get_running_loop()
        return sum(not timer.cancelled() for timer in loop._scheduled)


@pytest.fixture
async def watched(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    loop = asyncio.get_running_loop()
    clock = Clock(loop.time())
    monkeypatch.setattr(loop, "time", clock)
    watched = Watched(clock)
    before = watched.timers
    yield watched
    watched.expiry.close()
    assert watched.timers == before


async def test_an_end_is_told_when_it_comes(watched: Watched) -> None:
    watched.allow(2)
    watched.allow(3.5, BOB)
    watched.expiry.start()
    assert await watched.go(1.75) == []
    assert await watched.go(0.25) == [ALICE]
    assert await watched.go(1.25) == []
    assert await watched.go(0.25) == [BOB]


async def test_there_is_no_timer_without_an_end(watched: Watched) -> None:
    before = watched.timers
    watched.expiry.start()
    watched.firewall.set_peer_rule(ALICE, Rule.ASK, Direction.BOTH)
    assert watched.timers == before
    watched.allow(1)
    assert watched.timers == before + 1
    await watched.go(1)
    assert watched.timers == before


async def test_a_rule_that_ends_sooner_is_waited_for(watched: Watched) -> None:
    watched.expiry.start()
    watched.allow(0.75)
    watched.allow(0.25, BOB)
    watched.allow(0.5, BOB)
    assert await watched.go(0.25) == []
    assert await watched.go(0.25) == [BOB]
    assert await watched.go(0.25) == [ALICE]


async def test_a_clock_that_is_set_is_seen_within_a_second(watched: Watched) -> None:
    watched.expiry.start()
    watched.allow(3600)
    assert await watched.go(2.5) == []
    watched.time.wall += 3600
    assert await watched.go(1) == [ALICE]


async def test_what_had_ended_before_the_start_is_told_at_once(watched: Watched) -> None:
    watched.allow(-1)
    watched.told.clear()
    watched.expiry.start()
    await watched.clock.settle()
    assert watched.told == [ALICE]


async def test_nothing_is_told_after_the_close(watched: Watched) -> None:
    watched.expiry.start()
    watched.allow(1)
    watched.expiry.close()
    watched.allow(1, BOB)
    assert await watched.go(2) == []
    assert watched.firewall.find(ALICE, Direction.INBOUND).rule is None
