"""A firewall at whose questions somebody may sit. Time passes when a test says so."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest
from support.clock import Clock

from stronghold_p2p import Config, Direction, FirewallRequest, FirewallRules, Keypair, Multiaddr, PeerId
from stronghold_p2p.events import Event
from stronghold_p2p.firewall.approvals import Approvals
from stronghold_p2p.firewall.ends import Clocks
from stronghold_p2p.firewall.rules import Firewall, Subject
from stronghold_p2p.resources.refusals import Refusals

ALICE, BOB = Keypair.generate().peer_id, Keypair.generate().peer_id
STRANGERS = [PeerId.from_bytes(b"\x12\x20" + number.to_bytes(32)) for number in range(20)]
HERE, THERE = "/ip4/192.0.2.1/tcp/1", "/ip4/198.51.100.1/tcp/1"
"""Addresses of two networks."""
NO_RULES = FirewallRules(outbound=None)


class Desk:
    """A firewall and its approvals, the questions that they raise, the events that they tell."""

    def __init__(self, clock: Clock, rules: FirewallRules, config: Config) -> None:
        self.clock = clock
        self.config = config
        self.firewall = Firewall(rules, Clocks(clock, clock))
        self.events: list[Event] = []
        self.approvals = Approvals(self.firewall, config, self.events.append, Refusals(self.events.append))
        self.firewall.changed = self.approvals.rules_changed
        self.questions: list[FirewallRequest] = []
        self.requests: list[asyncio.Task[bool]] = []
        self._timers = timers()

    def listen(self) -> Desk:
        """Has the questions noted."""
        self.approvals.add_handler(self.questions.append)
        return self

    async def ask(
        self,
        peer: PeerId = ALICE,
        kind: str | None = "Ping",
        *,
        way: Direction = Direction.INBOUND,
        size: int = 1,
        address: str | None = None,
    ) -> asyncio.Task[bool]:
        """A request that comes to wait, unless it is decided at once."""
        where = None if address is None else Multiaddr.parse(address)
        request = asyncio.create_task(self.decide(Subject(peer, way, kind, "view"), size, where))
        self.requests.append(request)
        await self.clock.settle()
        return request

    async def decide(self, subject: Subject, size: int, address: Multiaddr | None = None) -> bool:
        return (await self.approvals.decide(subject, address, size)).allowed

    @property
    def outcomes(self) -> list[bool | None]:
        """Of each request: whether it has passed; None while it waits."""
        return [request.result() if request.done() else None for request in self.requests]

    def check_empty(self) -> None:
        approvals = self.approvals
        assert not approvals._questions
        assert not approvals._timers
        for room in (approvals._open, approvals._waiting, approvals._bytes):
            assert not room.used
        assert timers() == self._timers


def timers() -> int:
    """Those that are set."""
    loop: Any = asyncio.get_running_loop()
    return sum(not timer.cancelled() for timer in loop._scheduled)


MakeDesk = Callable[..., Desk]


@pytest.fixture
async def make_desk(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a desk at which nobody sits. In the end everything at it has been put away."""
    loop = asyncio.get_running_loop()
    clock = Clock(math.ceil(loop.time()))  # dates have whole microseconds
    monkeypatch.setattr(loop, "time", clock)
    desks: list[Desk] = []

    def make(rules: FirewallRules = NO_RULES, **limits: Any) -> Desk:
        desks.append(Desk(clock, rules, Config(**limits)))
        return desks[-1]

    yield make
    for desk in desks:
        desk.approvals.close()
        await clock.settle()
        assert None not in desk.outcomes
        desk.check_empty()
        assert not desk.approvals._answerers


@pytest.fixture
async def desk(make_desk: MakeDesk) -> Desk:
    """One that notes the questions, with no rule at all."""
    return make_desk().listen()
