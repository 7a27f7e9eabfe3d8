"""An address of a dial, and what the name leads to that it came from."""

from __future__ import annotations

import asyncio
import math
from typing import Final

from ..addresses.entry import AddressEntry
from ..events import DialAttempt
from ..multiaddr import Multiaddr
from ..transport.resolver import is_name, names_host
from ..transport.transport import Transport

__all__ = ["MAX_ADDRESSES", "Attempt", "Resolution"]

MAX_DEPTH: Final = 4
"""Names that lead to each other, as in go-libp2p."""

MAX_NAMES: Final = 32
"""Names looked up for one that was given, itself among them, as in rust-libp2p."""

MAX_ADDRESSES: Final = 32
"""Addresses dialed for one name that was given. Whoever owns the name can have us knock at the doors of others."""


class Resolution:
    """What one name leads to that was given: limits, since whoever owns it can have it lead anywhere."""

    __slots__ = ("addresses", "deadline", "expires", "names", "records", "told")

    def __init__(self, told: bool, deadline: float) -> None:
        self.told = told
        """By a remote, not by our own code."""
        self.deadline = deadline
        """For all look-ups, on the loop's clock."""
        self.names = 0
        """Names looked up."""
        self.addresses = 0
        """Addresses found, those by name among them."""
        self.records: dict[Multiaddr, None] = {}
        """Addresses that TXT records have told."""
        self.expires = math.inf
        """The first of these, in seconds since the epoch."""

    def refusal_of(self, attempt: Attempt) -> OSError | None:
        """Why the name is not looked up."""
        if len(attempt.names) >= MAX_DEPTH:
            return OSError(f"more than {MAX_DEPTH} names lead to each other")
        if self.names >= MAX_NAMES:
            return OSError(f"its names lead to more than {MAX_NAMES} names")
        self.names += 1
        return None

    def room_for(self, addresses: list[Multiaddr]) -> list[Multiaddr]:
        """Those of ``addresses`` that may be dialed."""
        addresses = addresses[: MAX_ADDRESSES - self.addresses]
        self.addresses += len(addresses)
        return addresses


class Attempt:
    """One address of a dial, and how it fares."""

    __slots__ = (
        "address",
        "due",
        "error",
        "names",
        "resolution",
        "resolved",
        "seconds",
        "started",
        "task",
        "transport",
    )

    def __init__(
        self, address: Multiaddr, names: tuple[Multiaddr, ...] = (), resolution: Resolution | None = None
    ) -> None:
        self.address = address
        """By IP; or by name, which is looked up."""
        self.names = names
        """What was looked up to find it, the address that was given first."""
        self.resolution = resolution
        """Of names, and of what they lead to."""
        self.transport: Transport | None = None
        """None for names, too, that stand for whole addresses."""
        self.due = 0.0
        """When it starts, on the loop's clock, unless none is in flight before."""
        self.started = 0.0
        """When it did; 0: not yet."""
        self.task: asyncio.Task[None] | None = None
        self.resolved = False
        """It is a name, and its addresses go on in its place."""
        self.error: Exception | None = None
        self.seconds = 0.0
        """From its start to the error."""

    @property
    def dialed(self) -> Multiaddr:
        """The same as it was given, perhaps by name."""
        return self.names[0] if self.names else self.address

    @property
    def named(self) -> Multiaddr | None:
        """The same by the name of its host, if that was looked up."""
        return self.names[-1] if self.names and names_host(self.names[-1]) else None

    @property
    def trail(self) -> tuple[Multiaddr, ...]:
        """The names that led to it, and the address itself."""
        return (*self.names, self.address)

    def leads_to(self, address: Multiaddr) -> Attempt:
        return Attempt(address, self.trail, self.resolution)

    def entry(self, known: dict[Multiaddr, AddressEntry]) -> AddressEntry | None:
        """What is known of it, or else of the last name before it."""
        return next((known[one] for one in reversed(self.trail) if one in known), None)

    def timeout(self, time: str) -> TimeoutError:
        return TimeoutError(f"{'not looked up' if is_name(self.address) else 'no answer'} {time}")

    def fail(self, error: Exception, now: float) -> None:
        self.error = error
        self.seconds = now - self.started

    def summary(self, now: float) -> DialAttempt:
        """For a caller, who waits no longer."""
        if self.error is not None:
            return DialAttempt(self.address, self.error, self.seconds, self.names)
        if self.started:
            return DialAttempt(self.address, self.timeout("in time"), now - self.started, self.names)
        return DialAttempt(self.address, TimeoutError("not dialed before the time was up"), 0.0, self.names)
