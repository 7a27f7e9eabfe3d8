"""What a relay gives, and to whom."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from ...events import PathLimits
from ...identity import PeerId
from ...limit_fields import check_limits, explain, limit

__all__ = ["RelayServer"]

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class RelayServer:
    """Serve as a relay (libp2p/specs relay/circuit-v2.md): forward between peers that cannot dial each other.

    A peer with a reservation can be reached through the relay, which sees nothing but ciphertext. Every limit has a default
    that suits requests and responses; times are in seconds, sizes in bytes.

    Peers are given as a :class:`PeerId` or its text.

    Raises:
        ValueError: a limit is not a positive finite number.
        InvalidAddress: a peer is not a peer id.
    """

    max_reservations: int = limit(
        512,
        """Peers with a reservation. Each keeps a connection, of some 30 KiB. Beyond that the network with the most gives way to
        one with fewer.""",
    )

    max_reservations_per_network: int = limit(
        16,
        """The same for one network: an IPv4 address, or an IPv6 /48, so that one remote with many identities cannot take all.
        As a household or an office has.""",
    )

    max_reservations_per_minute_per_peer: int = limit(
        30,
        """Reservations and renewals; as many at once after a pause. A peer needs one or two an hour, and one more for each
        break of its connection. Each costs a signature.""",
    )

    max_reservations_per_minute_per_network: int = limit(
        60,
        """The same for one network: all of its peers may come back at once after a break, several times.""",
    )

    reservation_ttl: float = limit(
        3600.0,
        """A reservation ends after this time unless it is renewed, as in go-libp2p. Below ten minutes js-libp2p would renew
        all the time.""",
    )

    max_circuits: int = limit(
        1024,
        """Circuits. Each takes two streams, and up to half a megabyte where a remote does not read. Beyond that, who has asked
        for the most, by network and peer, loses one to who has asked for fewer.""",
    )

    max_circuits_per_peer: int = limit(
        64,
        """The same for one peer, at either end: one that many ask for stays within reach of others.""",
    )

    max_circuits_per_minute_per_peer: int = limit(
        60,
        """Circuits from one peer; as many at once after a pause. A program that asks once a second has one each time, if it
        does not stay connected. Each has the target shake hands. rust-libp2p's 30, and then one in two minutes, are for
        hole punching.""",
    )

    max_circuits_per_minute_per_network: int = limit(
        240,
        """The same from one network, as an office has.""",
    )

    max_seconds: float | None = limit(
        600.0,
        """The duration of a circuit. Enough for a conversation of requests, or until the two have found a direct path.
        None: no limit.""",
    )

    max_bytes: int | None = limit(
        16 * MIB,
        """Bytes of a circuit in each direction, with what encryption adds: all but the largest messages. Who has used them up
        makes another circuit. go-libp2p's 128 KiB suit hole punching alone. None: no limit.""",
    )

    reserve: AbstractSet[PeerId] | None = None
    """The peers that may reserve, and so be reached through this relay; None: everybody. A policy may allow fewer."""

    connect: AbstractSet[PeerId] | None = None
    """The peers that may connect to those; None: everybody. A policy may allow fewer."""

    unlimited: AbstractSet[PeerId] = frozenset()
    """Circuits to and from these peers have no limit of time or bytes."""

    def __post_init__(self) -> None:
        check_limits(self)
        for name in ("reserve", "connect", "unlimited"):
            peers = getattr(self, name)
            if peers is not None:
                object.__setattr__(self, name, frozenset(map(PeerId.of, peers)))

    def limits(self, *peers: PeerId) -> PathLimits | None:
        """Those of a circuit between these peers, or of any with this one."""
        unlimited = any(peer in self.unlimited for peer in peers)
        if unlimited or (self.max_seconds is None and self.max_bytes is None):
            return None
        return PathLimits(self.max_seconds, self.max_bytes)


RelayServer.__doc__ = explain(RelayServer)
