"""The firewall: which requests may pass, by direction, by default and by peer. Decisions only; no waiting, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar

from .events import Direction
from .identity import PeerId

__all__ = ["Direction", "Firewall", "FirewallRules", "Rule"]


class Rule:
    """What may pass: :attr:`ALLOW_ALL` or :attr:`REJECT_ALL`."""

    __slots__ = ("_name",)

    ALLOW_ALL: ClassVar[Rule]
    """Every request passes."""
    REJECT_ALL: ClassVar[Rule]
    """No request passes; a peer that it applies to is not even offered the protocol."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"Rule.{self._name}"


Rule.ALLOW_ALL = Rule("ALLOW_ALL")
Rule.REJECT_ALL = Rule("REJECT_ALL")

PeerRules = tuple[Rule | None, Rule | None]
"""One peer's rules: inbound, outbound. None: the default applies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirewallRules:
    """A firewall's rules at one moment. The rule that applies is the peer's, else the default; none at all rejects."""

    inbound: Rule | None = None
    """The default for requests of remotes to us."""
    outbound: Rule | None = Rule.ALLOW_ALL
    """The default for our requests to remotes."""
    peers: Mapping[PeerId, PeerRules] = field(default_factory=dict)
    """By peer: (inbound, outbound)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "peers", MappingProxyType(dict(self.peers)))

    @classmethod
    def allow_all(cls) -> FirewallRules:
        """Both directions are open to everybody."""
        return cls(inbound=Rule.ALLOW_ALL, outbound=Rule.ALLOW_ALL)

    @classmethod
    def reject_all(cls) -> FirewallRules:
        """Both directions are closed to everybody."""
        return cls(inbound=Rule.REJECT_ALL, outbound=Rule.REJECT_ALL)


class Firewall:
    """The rules in force. A change takes effect with the next decision."""

    __slots__ = ("_inbound", "_outbound", "_peers")

    def __init__(self, rules: FirewallRules) -> None:
        self._inbound = rules.inbound
        self._outbound = rules.outbound
        self._peers: dict[PeerId, PeerRules] = dict(rules.peers)

    @property
    def rules(self) -> FirewallRules:
        """A copy of what is in force."""
        return FirewallRules(inbound=self._inbound, outbound=self._outbound, peers=self._peers)

    def permits_inbound(self, peer: PeerId) -> bool:
        """Whether a request of ``peer`` to us passes."""
        rule = self._peers[peer][0] if peer in self._peers else None
        return (rule or self._inbound) is Rule.ALLOW_ALL

    def permits_outbound(self, peer: PeerId) -> bool:
        """Whether a request of ours to ``peer`` passes."""
        rule = self._peers[peer][1] if peer in self._peers else None
        return (rule or self._outbound) is Rule.ALLOW_ALL

    def set_default(self, rule: Rule | None, direction: Direction) -> None:
        """Sets the default of each direction named; None removes it."""
        if Direction.INBOUND in direction:
            self._inbound = rule
        if Direction.OUTBOUND in direction:
            self._outbound = rule

    def set_peer_rule(self, peer: PeerId, rule: Rule | None, direction: Direction) -> None:
        """Sets one peer's rule in each direction named; None removes it."""
        inbound, outbound = self._peers.get(peer, (None, None))
        if Direction.INBOUND in direction:
            inbound = rule
        if Direction.OUTBOUND in direction:
            outbound = rule
        if inbound is outbound is None:
            self._peers.pop(peer, None)
        else:
            self._peers[peer] = (inbound, outbound)
