"""The terms of an attack: whom it meets, what it does, and what must hold meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from attack.remote import Target
from stronghold_p2p.requests.codec import CodecName

__all__ = ["Attack", "Figures", "Firewall", "Must", "NotMeasured", "Victim"]

Firewall = Literal["allow", "ask strangers", "ask newcomers", "ask all"]
"""Whom the victim allows: everyone; the honest ones; of these, only the one with the standing connection; nobody.

All others are asked about, each request. A person answers one question at a time, in half a second: yes to honest ones.
Under "ask all" a program answers, at once, and leaves the questions about attackers open."""


@dataclass(frozen=True, kw_only=True)
class Victim:
    """A peer that answers each request with its body: ``"slow"`` after a while, and ``"big"`` with a megabyte."""

    firewall: Firewall = "allow"
    codec: CodecName = "json"
    iterates: bool = False
    """It answers in ``async for request in peer.requests()``, not in a handler."""
    relay: bool = False
    """It is a relay, through which the honest ones reach a peer that answers as it does; a newcomer is a pair, one of which
    reserves."""
    mdns: bool = False
    """It finds peers by mDNS. All processes are in a network namespace of their own, where nobody else hears that."""
    descriptors: int | None = None
    """It may have so many files and sockets open."""
    command: bool = False
    """It is ``stronghold-p2p listen --ask`` with a policy that allows the honest ones, and a terminal that Ctrl-S has
    stopped. It cannot measure itself."""


@dataclass(kw_only=True)
class Figures:
    """What one attack did. Shares are in percent, times in milliseconds, memory in 10^6 bytes."""

    kept: float
    """Of the requests on the standing connection, those that were answered."""
    kept_p99: float
    fresh: float
    """Of the requests from new identities, each on a connection of its own, those that were answered."""
    turn: float = 0.0
    """How long what was due had to wait for the victim's loop."""
    memory: float = 0.0
    """The victim's, at most, beyond what it had before."""
    memory_after: float | None = None
    """The same, a few seconds after the attack; None: not measured."""
    log_lines: float = 0.0
    """A second."""
    log_bytes: int = 0
    closed: dict[str, int] = field(default_factory=dict)
    """Connections of the attacker that the victim closed, by the error that it told."""
    refused: dict[str, int] = field(default_factory=dict)
    """The same for those that were not established."""
    shown_after: int = 0
    """The most questions that were shown from when an honest one was open, with that one."""


CRITERIA = (
    ("kept", "at least", "%"),
    ("kept_p99", "at most", "ms"),
    ("fresh", "at least", "%"),
    ("turn", "at most", "ms"),
    ("memory", "at most", "MB"),
    ("memory_after", "at most", "MB"),
    ("log_lines", "at most", "a second"),
    ("shown_after", "at most", "questions"),
)
"""Of :class:`Must`: a figure's name, what its bound is, and its unit."""


@dataclass(frozen=True, kw_only=True)
class Must:
    """What must hold, by the names of :class:`Figures`; None: this attack is not judged by it."""

    kept: float | None = None
    kept_p99: float | None = None
    fresh: float | None = None
    turn: float | None = None
    memory: float | None = None
    memory_after: float | None = None
    log_lines: float | None = None
    shown_after: int | None = None
    closed: bool = False
    """The attacker does what no honest peer does: a connection of its is closed, with an error that says why."""

    def __str__(self) -> str:
        bounds = [
            f"{name} {kind} {getattr(self, name):g} {unit}"
            for name, kind, unit in CRITERIA
            if getattr(self, name) is not None
        ]
        return ", ".join(bounds + ["a connection closed with an error"] * self.closed)

    def failures(self, figures: Figures) -> list[str]:
        """What did not hold."""
        failures = []
        for name, kind, unit in CRITERIA:
            value, bound = getattr(figures, name), getattr(self, name)
            if bound is not None and (value < bound if kind == "at least" else value > bound):
                failures.append(f"{name} {value:,.0f}, not {kind} {bound:g} {unit}")
        if self.closed and not figures.closed:
            failures.append("no connection closed with an error")
        return failures


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attack of the table."""

    name: str
    drive: Callable[[Target], Awaitable[object]]
    """Attacks until it is cancelled."""
    must: Must
    victim: Victim = Victim()
    setup: float = 0.0
    """Seconds before honest clients are looked at: the attacker takes its place first."""
    fresh_per_second: float = 15.0
    quick: bool = False
    """It shows within two seconds, and belongs to ``--quick``."""


class NotMeasured(Exception):
    """An attack that says nothing, since a process failed."""
