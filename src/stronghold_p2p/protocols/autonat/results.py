"""What servers have found out about one of our addresses, and whom to ask again when. Pure."""

from __future__ import annotations

import enum
from collections.abc import Collection
from typing import Final, NamedTuple

from ...events import Reachability
from ...identity import PeerId

__all__ = ["CLEAR", "Outcome", "Result", "Results"]

CLEAR: Final = 2
"""Networks by which those that could not dial an address must exceed the others, if there is another one to ask."""

ENOUGH: Final = 3
"""Networks that are heard about an address: as go-libp2p asks until three agree."""

LIFETIME: Final = 3 * 3600.0
"""Seconds that a result counts: its server may be gone."""

MAX_PAUSE: Final = 3600.0
"""Seconds between two questions of one network about one address, at most: as in go-libp2p, once all is clear."""


class Outcome(enum.Enum):
    """What a question has led to."""

    REACHED = "reached"
    """Somebody who knew what only the server was told has dialed us at the address: a proof."""
    NOT_REACHED = "not reached"
    """The server says that it could not dial the address: a claim."""
    REFUSED = "refused"
    """The server does not dial the address."""
    BUSY = "busy"
    """The server dials nothing now, or does not answer, or says that it has dialed us and has not."""


FIRST_PAUSE: Final = {
    Outcome.REACHED: MAX_PAUSE,
    Outcome.NOT_REACHED: 300.0,  # a router or a firewall may be set up meanwhile
    Outcome.REFUSED: MAX_PAUSE,
    Outcome.BUSY: 120.0,
}
"""Seconds until the next question of the same network; doubled when the outcome is the same again."""


class Result(NamedTuple):
    """The last word of one network."""

    server: PeerId
    outcome: Outcome
    chosen: bool
    """We have dialed the server. A stranger's claim would talk us out of an address that works."""
    heard_at: float
    again: int
    """How often the outcome was the same before."""

    @property
    def due(self) -> float:
        """When to ask this network again."""
        return self.heard_at + min(FIRST_PAUSE[self.outcome] * (1 << self.again), MAX_PAUSE)


class Results:
    """The results about one address, by network of the server. Times are in seconds, on any clock.

    A success is a proof, whoever brings it; a failure counts only from a server that we have dialed ourselves.
    """

    def __init__(self) -> None:
        self._by_network: dict[str, Result] = {}

    def __len__(self) -> int:
        return len(self._by_network)

    def add(self, network: str, server: PeerId, outcome: Outcome, *, chosen: bool, now: float) -> None:
        """A server of ``network`` was asked. The last word of each network counts."""
        before = self._by_network.pop(network, None)
        again = min(before.again + 1, 16) if before is not None and before.outcome is outcome else 0
        self._by_network[network] = Result(server, outcome, chosen, now, again)

    def forget_old(self, now: float) -> None:
        """Of servers that are there no more."""
        for network, result in list(self._by_network.items()):
            if now >= result.heard_at + LIFETIME:
                del self._by_network[network]

    def due(self, network: str, now: float) -> float:
        """When a server of ``network`` is to be asked: now, or later."""
        if network in self._by_network:
            return max(self._by_network[network].due, now)
        heard = sorted(one.due for one in self._by_network.values() if _counts(one))
        return max(heard[-ENOUGH], now) if len(heard) >= ENOUGH else now

    @property
    def reached(self) -> tuple[Result, ...]:
        """The proofs, the newest last."""
        return self._of(Outcome.REACHED)

    @property
    def not_reached(self) -> tuple[Result, ...]:
        """The claims that count, the newest last."""
        return self._of(Outcome.NOT_REACHED)

    def state(self, networks: Collection[str]) -> Reachability:
        """``networks`` are those of the servers that there are to ask."""
        lead = len(self.reached) - len(self.not_reached)
        if lead > 0:
            return Reachability.REACHABLE
        all_asked = all(network in self._by_network for network in networks)
        if lead <= -CLEAR or (lead < 0 and not self.reached and all_asked):
            return Reachability.UNREACHABLE
        return Reachability.UNKNOWN

    def _of(self, outcome: Outcome) -> tuple[Result, ...]:
        return tuple(one for one in self._by_network.values() if one.outcome is outcome and _counts(one))


def _counts(result: Result) -> bool:
    return result.outcome is Outcome.REACHED or (result.outcome is Outcome.NOT_REACHED and result.chosen)
