"""What a relay gives, and to whom."""

from __future__ import annotations

import inspect
import math
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from ...events import PathLimits
from ...identity import PeerId

__all__ = ["RelayServer"]

KIB = 1024
MIB = 1024 * KIB

T = TypeVar("T")


def _limit(default: T, reason: str) -> T:
    limit: Any = field(default=default, metadata={"reason": inspect.cleandoc(reason)})
    return limit  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True, slots=True)
class RelayServer:
    """Serve as a relay (libp2p/specs relay/circuit-v2.md): forward between peers that cannot dial each other.

    A peer with a reservation can be reached through the relay, which sees nothing but ciphertext. Every limit has a default
    that suits requests and responses; times are in seconds, sizes in bytes.

    Raises:
        ValueError: a limit is not a positive finite number.
    """

    max_reservations: int = _limit(
        512,
        """Peers with a reservation. Each keeps a connection, of some 30 KiB.""",
    )

    max_reservations_per_network: int = _limit(
        16,
        """The same for one network: an IPv4 address, or an IPv6 /48, so that one remote with many identities cannot take all.
        As a household or an office has.""",
    )

    reservation_ttl: float = _limit(
        3600.0,
        """A reservation ends after this time unless it is renewed, as in go-libp2p. Below ten minutes js-libp2p would renew
        all the time.""",
    )

    max_circuits: int = _limit(
        1024,
        """Circuits. Each takes two streams, and up to half a megabyte where a remote does not read.""",
    )

    max_circuits_per_peer: int = _limit(
        64,
        """The same for one peer, at either end.""",
    )

    max_seconds: float | None = _limit(
        600.0,
        """The duration of a circuit. Enough for a conversation of requests, or until the two have found a direct path.
        None: no limit.""",
    )

    max_bytes: int | None = _limit(
        16 * MIB,
        """Bytes of a circuit in each direction: a request of maximum size. go-libp2p's 128 KiB suit hole punching alone.
        None: no limit.""",
    )

    allow: AbstractSet[PeerId] | None = None
    """The peers that may reserve; None: everybody whom the policy admits."""

    unlimited: AbstractSet[PeerId] = frozenset()
    """Circuits to and from these peers have no limit of time or bytes."""

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if "reason" not in limit.metadata or (value is None and "None" in str(limit.type)):
                continue
            number = isinstance(value, int) or (isinstance(value, float) and "float" in str(limit.type))
            if not number or isinstance(value, bool) or not math.isfinite(value) or value <= 0:
                raise ValueError(f"RelayServer.{limit.name} must be a positive {limit.type}, not {value!r}")

    def limits(self, *peers: PeerId) -> PathLimits | None:
        """Those of a circuit between these peers, or of any with this one."""
        unlimited = any(peer in self.unlimited for peer in peers)
        if unlimited or (self.max_seconds is None and self.max_bytes is None):
            return None
        return PathLimits(self.max_seconds, self.max_bytes)
