"""In which order the addresses of a peer are dialed, and how much later than the first each one. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import Final, NamedTuple, TypeAlias

from ..addresses.entry import AddressEntry, AddressSource
from ..multiaddr import Multiaddr, host_of
from ..transport.resolver import interleave

__all__ = ["Candidate", "Network", "is_local", "rank"]

Network: TypeAlias = IPv4Network | IPv6Network

LOCAL_STAGGER: Final = 0.03
"""Seconds between the first addresses of our own networks: no answer takes longer there (go-libp2p's number)."""
QUICK_LOCAL_DIALS: Final = 3
"""Addresses at this pace; further ones keep that of public ones. A machine with containers tells a dozen, and elsewhere
none of them answers, though networks there have the same numbers: they must not take the places of its public ones."""
RELAY_STEPS: Final = 2
"""The lead of direct addresses over relayed ones, which are slower and a burden to others (go-libp2p's number)."""

BACK_OFF: Final = 5.0
"""Seconds in which an address ranks last after one failure; each further one adds, by the square of their number. These
are go-libp2p's numbers, but go does not dial such an address at all. We do: behind all others it costs little, and it may
be the only one of a peer that has just started."""
MAX_BACK_OFF: Final = 300.0
"""The same at most."""


class Candidate(NamedTuple):
    """An address to dial, and what is known of it."""

    address: Multiaddr
    """By IP; names are resolved before."""
    entry: AddressEntry | None
    """None for one that is not in the book: the target of a call."""


def rank(
    candidates: Iterable[Candidate], now: float, stagger: float, networks: Iterable[Network] = ()
) -> list[tuple[Multiaddr, float]]:
    """The order of dialing until one address answers, each with its delay in seconds.

    1. Known good ones, the latest success first.
    2. Local and public ones side by side, since only one kind leads anywhere; of the local ones, those of ``networks``
       first. TCP before WebSocket, the families by turns, IPv6 first (RFC 8305, section 4).
    3. Relayed ones, some steps behind; at once, if all before them are local ones, perhaps of another network.
    4. Ones in back-off, the fewest failures first.

    A step is ``stagger`` seconds, within ``networks``, those of our own interfaces, less. ``now`` is on the clock of the
    entries.
    """
    networks = tuple(networks)
    failing: list[Candidate] = []
    good: list[Candidate] = []
    near: list[Candidate] = []
    far: list[Candidate] = []
    public: list[Candidate] = []
    relayed: list[Candidate] = []
    for candidate in candidates:
        if _backs_off(candidate.entry, now):
            failing.append(candidate)
        elif candidate.address.is_relayed:
            relayed.append(candidate)
        elif _last_success(candidate):
            good.append(candidate)
        elif is_local(candidate):
            (near if _is_near(candidate, networks) else far).append(candidate)
        else:
            public.append(candidate)

    local_step = min(LOCAL_STAGGER, stagger)
    timed: list[tuple[float, Candidate]] = []
    lead = 0.0
    for candidate in sorted(good, key=_last_success, reverse=True):
        timed.append((lead, candidate))
        lead += local_step if _is_near(candidate, networks) else stagger
    for place, candidate in enumerate((*_by_turns(near), *_by_turns(far))):
        quick = min(place, QUICK_LOCAL_DIALS - 1, max(len(near) - 1, 0))
        timed.append((lead + quick * local_step + (place - quick) * stagger, candidate))
    timed += _paced(_by_turns(public), lead, stagger)
    relayed.sort(key=_last_success, reverse=True)
    timed += _paced(relayed, RELAY_STEPS * stagger if good or public else 0.0, stagger)
    timed.sort(key=lambda one: one[0])
    failing.sort(key=lambda one: (one.address.is_relayed, one.entry.failures if one.entry is not None else 0))
    timed += _paced(failing, timed[-1][0] + stagger if timed else 0.0, stagger)
    return [(candidate.address, delay) for delay, candidate in timed]


def _paced(candidates: Iterable[Candidate], start: float, step: float) -> list[tuple[float, Candidate]]:
    return [(start + place * step, candidate) for place, candidate in enumerate(candidates)]


def _by_turns(candidates: list[Candidate]) -> list[Candidate]:
    ordered: list[Candidate] = []
    for websocket in False, True:
        alike = [one for one in candidates if _is_websocket(one) is websocket]
        ordered += interleave([one for one in alike if _is_ipv6(one)], [one for one in alike if not _is_ipv6(one)])
    return ordered


def _backs_off(entry: AddressEntry | None, now: float) -> bool:
    if entry is None or entry.last_failure is None:
        return False
    return now < entry.last_failure + min(BACK_OFF + (entry.failures - 1) ** 2, MAX_BACK_OFF)


def _last_success(candidate: Candidate) -> float:
    return (candidate.entry.last_success if candidate.entry is not None else None) or 0.0


def _is_websocket(candidate: Candidate) -> bool:
    return any(name in {"ws", "wss"} for name, _ in candidate.address)


def _is_ipv6(candidate: Candidate) -> bool:
    return candidate.address.components[0][0] == "ip6"


def is_local(candidate: Candidate) -> bool:
    """Whether it leads to the peer only from its own machine or network."""
    ip = host_of(candidate.address)
    return _is_heard(candidate) or (ip is not None and not ip.is_global)


def _is_near(candidate: Candidate, networks: tuple[Network, ...]) -> bool:
    """Whether it is on this machine, or in one of ``networks``."""
    ip = host_of(candidate.address)
    return _is_heard(candidate) or (ip is not None and (ip.is_loopback or any(ip in one for one in networks)))


def _is_heard(candidate: Candidate) -> bool:
    """On our own network, though it may be a public address."""
    return candidate.entry is not None and candidate.entry.source is AddressSource.MDNS
