"""What a relay does, and has done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...frozen import FrozenDict

__all__ = ["RelayStatus"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RelayStatus:
    """A snapshot of a relay of ours. What is counted is counted from the start of the peer."""

    reservations: int
    """Peers that have one now."""
    circuits: int
    """Those open now, and those that are being made."""
    reservations_made: int
    """Those given, without renewals."""
    circuits_made: int
    """Those that have joined two peers."""
    bytes: int
    """Forwarded, in both directions together."""
    refusals: Mapping[str, int]
    """By what was refused, and why: the field of :class:`RelayServer` whose limit was reached, or the status of the protocol, as in
    ``"circuit: max_circuits_per_peer"`` and ``"circuit: NO_RESERVATION"``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "refusals", FrozenDict(self.refusals))
