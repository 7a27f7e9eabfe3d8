"""Our signed peer records: one for each set of addresses that remotes are told (libp2p/specs RFC 0003)."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from ...identity import Keypair, PeerId
from ...multiaddr import Multiaddr
from ...wire.envelope import PeerRecord

__all__ = ["Records"]

MAX_RECORDS: Final = 16
"""Records that are kept, each below 4 KiB. There are few sets at a time: one for public remotes, one for this machine, and one
for each interface."""

MAX_PEERS: Final = 4096
"""Peers of which is kept what they have heard. A forgotten one may take no record from us until our addresses change."""


class Records:
    """Signs records, and keeps them, since a signature takes as long as a key exchange.

    A peer takes a record only if its sequence number is above that of the last one. Numbers are the time by ``clock``, in
    nanoseconds, so that they also grow over restarts.
    """

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._last = 0
        self._records: OrderedDict[tuple[Multiaddr, ...], tuple[int, bytes]] = OrderedDict()
        """By addresses, each with its number; the oldest one first."""
        self._heard: OrderedDict[PeerId, int] = OrderedDict()
        """The last number that each peer has heard; who has heard nothing for longest is first."""

    def record_for(self, peer: PeerId, addresses: tuple[Multiaddr, ...], keypair: Keypair) -> bytes | None:
        """The record of ``addresses``, for ``peer``; None if there are none."""
        if not addresses:
            return None
        number, record = self._records.get(addresses, (0, b""))
        if not record or number < self._heard.get(peer, 0):
            number = self._last = max(self._clock(), self._last + 1)
            record = PeerRecord(peer_id=keypair.peer_id, seq=number, addresses=addresses).seal(keypair)
            self._records.pop(addresses, None)
            self._records[addresses] = number, record
            if len(self._records) > MAX_RECORDS:
                self._records.popitem(last=False)
        self._heard[peer] = number
        self._heard.move_to_end(peer)
        if len(self._heard) > MAX_PEERS:
            self._heard.popitem(last=False)
        return record

    def clear(self) -> None:
        """Forgets the records: those of former addresses must not come back below the numbers of later ones."""
        self._records.clear()
