"""Policy files: connections and requests to allow or refuse, in TOML. Strictly checked, loaded atomically.

`docs/FIREWALL.md` has the format with an example. A policy is a separate layer: it takes precedence over rules from calls
and answers, and a reload replaces only itself.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from ..errors import PolicyError
from ..events.direction import DIRECTIONS, Direction
from ..frozen import FrozenDict
from ..identity import PeerId
from ..limit_fields import limit
from .admission import AdmissionRules
from .quotas import Limit
from .rules import FirewallRules, Lines, Verdict

__all__ = ["Policy", "PolicyMode"]

MAX_SIZE: Final = 16 * 1024 * 1024
"""Bytes of a policy file; 10,000 peers take about 1.5 MB. The path may lead to an endless device."""

PolicyMode: TypeAlias = Literal["enforce", "observe"]
"""Whether a policy is in force, or only observed: then it decides nothing, and each decision tells what it would have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The content of a policy file. ``Policy()`` is empty.

    Raises:
        ValueError: a limit is not above zero, or more approvers are needed than there are.
    """

    mode: PolicyMode = "enforce"
    """Whether it is in force, or only observed."""
    rules: FirewallRules = field(default_factory=lambda: FirewallRules(outbound=None))
    """The rules for requests. None where the file has none: rules from calls and answers apply."""
    names: Mapping[PeerId, str] = field(default_factory=dict)
    """The names of peers in the file."""
    groups: Mapping[str, frozenset[PeerId]] = field(default_factory=dict)
    """The groups in the file."""
    admission: AdmissionRules = field(default_factory=AdmissionRules)
    """Restrictions of connections: bans, networks, peers and relays."""
    approvers: frozenset[PeerId] = frozenset()
    """The peers that are asked about requests."""
    need: int = limit(1, "How many of them must approve a request.")
    requests_in_flight: int | None = limit(None, "Concurrent inbound requests of one peer. None: as in Config.")
    requests_per_second: float | None = limit(None, "Inbound requests of one peer per second. None: as in Config.")
    peer_limits: Mapping[PeerId, Limit] = field(default_factory=dict)
    """The limits of single peers, which go before the two above."""
    type_limits: Mapping[str, Limit] = field(default_factory=dict)
    """Limits of each peer's inbound requests by type, or of its streams by protocol id."""
    lines: Mapping[tuple[PeerId | None, str], int] = field(default_factory=dict, compare=False)
    """Where the file says what it says of a peer (None: of all others), by key, such as ``"inbound"``."""

    tests: int = field(default=0, compare=False)
    """How many tests the file has, which it passes."""

    def __post_init__(self) -> None:
        for name in ("names", "groups", "peer_limits", "type_limits", "lines"):
            object.__setattr__(self, name, FrozenDict(getattr(self, name)))
        Limit(per_second=self.requests_per_second, in_flight=self.requests_in_flight)  # checks both
        if not 1 <= self.need <= max(1, len(self.approvers)):
            raise ValueError(
                f"need must be from 1 to the number of approvers, {len(self.approvers)}; it is {self.need!r}"
            )

    @classmethod
    def parse(
        cls, text: str, path: str | os.PathLike[str] = "<policy>", *, types: Collection[str] | None = None
    ) -> Policy:
        """Parses the text of a policy file. ``path`` appears in errors; ``types`` are the names of all request types
        (None: any).

        Raises:
            PolicyError: not TOML, empty, or invalid; a rule has a type that is not in ``types``; or one of its tests fails.
        """
        try:
            from .policy_file.reading import parse  # with what parses TOML, for those who have a policy file
        except OSError as error:  # out of descriptors
            raise _unreadable(path, error) from error
        return parse(text, path, types)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, types: Collection[str] | None = None, wait: bool = False) -> Policy:
        """Reads a policy file; ``types`` as for :meth:`parse`. A pipe needs ``wait``, which blocks until the writer closes it;
        it can be read only once.

        Raises:
            PolicyError: as for :meth:`parse`, or the file cannot be read.
        """
        data = _read(path, wait)
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise PolicyError(path, data.count(b"\n", 0, error.start) + 1, "", "not UTF-8") from error
        return cls.parse(text, path, types=types)

    @property
    def rule_lines(self) -> Lines:
        """The :attr:`lines` of the rules."""
        return {(peer, DIRECTIONS[key]): line for (peer, key), line in self.lines.items() if key in DIRECTIONS}

    def verdict(self, peer: PeerId | None, direction: Direction, type_name: str | None) -> Verdict | None:
        """What it alone says of a request in one direction, whatever its mode, before any of its rules ends. ``peer`` None: one
        of which it says nothing. None if it leaves that to rules from calls and answers."""
        if self.admission.refusal_of_peer(peer) is not None:
            return Verdict.REJECT
        its = self.rules.peers.get(peer) if peer is not None else None
        index = 0 if direction is Direction.INBOUND else 1
        rule = (its and its[index]) or (self.rules.inbound, self.rules.outbound)[index]
        return None if rule is None else rule.verdict_on(type_name)


def _read(path: str | os.PathLike[str], wait: bool) -> bytes:
    flags = 0 if wait else os.O_NONBLOCK  # opens a pipe without waiting for a writer
    try:
        with open(path, "rb", opener=lambda name, mode: os.open(name, mode | flags)) as file:
            if not wait and stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
                raise PolicyError(path, 0, "", "a pipe, not a file that can be read again")
            data = file.read(MAX_SIZE + 1) or b""  # None: a terminal where nothing was typed
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(data) > MAX_SIZE:
        raise PolicyError(path, 0, "", f"over {MAX_SIZE:,} bytes: not a policy file")
    return data


def _unreadable(path: str | os.PathLike[str], error: OSError) -> PolicyError:
    return PolicyError(path, 0, "", (error.strerror or str(error)).lower())
