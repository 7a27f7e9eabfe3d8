"""The firewall's rules, by direction, as a default and per peer. Pure decisions without waiting or I/O; questions are in
:mod:`.approvals`."""

from __future__ import annotations

import difflib
import enum
import inspect
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Final, Literal, NamedTuple, overload

from ..events import Direction
from ..frozen import FrozenDict
from ..identity import PeerId
from ..logs import SparingLog

__all__ = ["Direction", "Firewall", "FirewallRules", "Layer", "Predicate", "Rule", "Subject", "Verdict", "unknown_type"]

logger = logging.getLogger("stronghold_p2p")

INBOUND: Final = Direction.INBOUND  # a member's look-up in its class is slow before Python 3.12

Predicate = Callable[[PeerId, Direction, Any], bool]
"""Gets the peer, the direction and the view of the request. Returns whether it passes."""


class Verdict(enum.Enum):
    """The result of a rule for one request."""

    ALLOW = enum.auto()
    REJECT = enum.auto()
    ASK = enum.auto()


@dataclass(slots=True)
class Subject:
    """One request, as the firewall sees it."""

    peer: PeerId
    direction: Direction
    type: str | None
    """The request type: the variant of a tagged union, the class of a struct, or the field ``type`` of an untyped object."""
    view: Any
    """The request itself, or the result of ``firewall_view=``."""


class Rule:
    """A rule: :attr:`ALLOW_ALL`, :attr:`REJECT_ALL`, :attr:`ASK`, or made by :meth:`restricted`. Immutable."""

    __slots__ = ("_log_failure", "_verdict", "allow", "predicate")

    ALLOW_ALL: ClassVar[Rule]
    """Every request passes, before its body is read."""
    REJECT_ALL: ClassVar[Rule]
    """No request passes; the protocol is not even offered to the peer."""
    ASK: ClassVar[Rule]
    """Each request is a question."""

    def __init__(self, verdict: Verdict | None, allow: frozenset[str] | None, predicate: Predicate | None) -> None:
        self._verdict: Final = verdict
        self.allow: Final = allow
        """The allowed request types; None for other rules."""
        self.predicate: Final = predicate
        """The deciding function; None for other rules."""
        self._log_failure = SparingLog(logging.ERROR, "a firewall predicate failed on a request: it is rejected")

    @overload
    @classmethod
    def restricted(cls, predicate: Predicate, /) -> Rule: ...

    @overload
    @classmethod
    def restricted(cls, /, *, allow: Collection[type | str]) -> Rule: ...

    @classmethod
    def restricted(cls, predicate: Predicate | None = None, /, *, allow: Collection[type | str] | None = None) -> Rule:
        """A rule that passes requests with a type in ``allow``, or for which ``predicate`` returns True.

        ``allow`` holds classes or their names; requests without a type never match. An exception in the predicate rejects
        the request, except KeyboardInterrupt. A type that no request of the peer's ``request_type=`` can have is a
        TypeError when the rule is given to the peer.

        Raises:
            TypeError: neither or both arguments are given, or one has the wrong type.
        """
        if (predicate is None) == (allow is None):
            raise TypeError("Rule.restricted takes either a predicate or allow=")
        if predicate is not None:
            if not callable(predicate) or inspect.iscoroutinefunction(predicate):
                raise TypeError(f"a predicate must be a plain function, not {predicate!r}")
            return cls(None, None, predicate)
        assert allow is not None
        kinds = frozenset(allow)
        if isinstance(allow, str) or not all(isinstance(kind, type | str) for kind in kinds):
            raise TypeError(f"allow= takes a set of classes or names, not {allow!r}")
        return cls(None, frozenset(kind if isinstance(kind, str) else kind.__name__ for kind in kinds), None)

    def verdict(self, subject: Subject) -> Verdict:
        """Applies the rule to one request."""
        if self._verdict is not None:
            return self._verdict
        if self.allow is not None:
            return Verdict.ALLOW if subject.type in self.allow else Verdict.REJECT
        assert self.predicate is not None
        try:
            allowed = self.predicate(subject.peer, subject.direction, subject.view)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a user's function raises
            self._log_failure.write(exc_info=error)
            return Verdict.REJECT
        return Verdict.ALLOW if allowed is True else Verdict.REJECT

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rule):
            return NotImplemented
        return (self._verdict, self.allow, self.predicate) == (other._verdict, other.allow, other.predicate)

    def __hash__(self) -> int:
        return hash((self._verdict, self.allow, self.predicate))

    def __reduce__(self) -> str | tuple[type[Rule], tuple[None, frozenset[str] | None, Predicate | None]]:
        if self._verdict is not None:
            return f"Rule.{_NAMES[self._verdict]}"  # the same object: the gate compares these three by identity
        return Rule, (None, self.allow, self.predicate)

    def __repr__(self) -> str:
        if self._verdict is not None:
            return f"Rule.{_NAMES[self._verdict]}"
        if self.allow is not None:
            return f"Rule.restricted(allow={{{', '.join(map(repr, sorted(self.allow)))}}})"
        return f"Rule.restricted({self.predicate!r})"


_NAMES = {Verdict.ALLOW: "ALLOW_ALL", Verdict.REJECT: "REJECT_ALL", Verdict.ASK: "ASK"}
Rule.ALLOW_ALL = Rule(Verdict.ALLOW, None, None)
Rule.REJECT_ALL = Rule(Verdict.REJECT, None, None)
Rule.ASK = Rule(Verdict.ASK, None, None)

PeerRules = tuple[Rule | None, Rule | None]
"""One peer's rules: inbound, outbound. None: the default applies."""


@dataclass(frozen=True, slots=True, init=False)
class FirewallRules:
    """An immutable set of firewall rules. A peer's own rule takes precedence over the default. Without either, requests
    become a question about the peer."""

    inbound: Rule | None
    """The default for inbound requests."""
    outbound: Rule | None
    """The default for outbound requests."""
    peers: Mapping[PeerId, PeerRules]
    """By peer: (inbound, outbound)."""

    def __init__(
        self,
        *,
        inbound: Rule | None = None,
        outbound: Rule | None = Rule.ALLOW_ALL,
        peers: Mapping[PeerId, PeerRules] | Mapping[str, PeerRules] = FrozenDict({}),
    ) -> None:
        """The keys of ``peers`` can be peer ids as text.

        Raises:
            InvalidAddress: a key is not a peer id.
            TypeError: a value is not a rule or a pair of rules, or a key is not a peer.
        """
        by_peer = {PeerId.of(peer): _pair(rules) for peer, rules in peers.items()}
        _check(inbound)
        _check(outbound)
        object.__setattr__(self, "inbound", inbound)
        object.__setattr__(self, "outbound", outbound)
        object.__setattr__(self, "peers", FrozenDict(by_peer))

    def __reduce__(self) -> tuple[Callable[..., FirewallRules], tuple[object, ...]]:
        return _restore_rules, (self.inbound, self.outbound, self.peers)  # compiled, it has no state of its own to set

    @classmethod
    def allow_all(cls) -> FirewallRules:
        """Allows all requests in both directions."""
        return cls(inbound=Rule.ALLOW_ALL, outbound=Rule.ALLOW_ALL)

    @classmethod
    def reject_all(cls) -> FirewallRules:
        """Rejects all requests in both directions."""
        return cls(inbound=Rule.REJECT_ALL, outbound=Rule.REJECT_ALL)

    @classmethod
    def ask_all(cls) -> FirewallRules:
        """Makes every request in both directions a question."""
        return cls(inbound=Rule.ASK, outbound=Rule.ASK)


def _restore_rules(inbound: Rule | None, outbound: Rule | None, peers: Mapping[PeerId, PeerRules]) -> FirewallRules:
    return FirewallRules(inbound=inbound, outbound=outbound, peers=peers)


Layer = Literal["policy peer", "peer", "policy default", "default", "none"]
"""The source of a rule. The first layer in this order with a rule for the peer and direction decides."""


class AppliedRule(NamedTuple):
    """The applicable rule and its layer."""

    rule: Rule | None
    layer: Layer


NO_RULE: Final = AppliedRule(None, "none")


class _Side:
    """The rules of one direction, in layers: those of a policy take precedence over those of calls and answers.

    The merged result is precomputed, since every request looks it up more than once.
    """

    __slots__ = ("_applied", "_default", "_policy_default", "_policy_peers", "default", "peers")

    def __init__(self) -> None:
        self.peers: dict[PeerId, AppliedRule] = {}
        self.default = NO_RULE
        self._policy_peers: dict[PeerId, AppliedRule] = {}
        self._policy_default = NO_RULE
        self._applied: dict[PeerId, AppliedRule] = {}
        self._default = NO_RULE

    def find(self, peer: PeerId) -> AppliedRule:
        return self._applied.get(peer, self._default)

    def set_default(self, rule: Rule | None) -> None:
        self.default = NO_RULE if rule is None else AppliedRule(rule, "default")
        self._settle_default()

    def set_peer(self, peer: PeerId, rule: Rule | None) -> None:
        if rule is None:
            self.peers.pop(peer, None)
        else:
            self.peers[peer] = AppliedRule(rule, "peer")
        applied = self._policy_peers.get(peer) or self.peers.get(peer)
        if applied is None:
            self._applied.pop(peer, None)
        else:
            self._applied[peer] = applied

    def set_policy(self, default: Rule | None, peers: Mapping[PeerId, Rule]) -> None:
        self._policy_peers = {peer: AppliedRule(rule, "policy peer") for peer, rule in peers.items()}
        self._policy_default = NO_RULE if default is None else AppliedRule(default, "policy default")
        self._applied = self.peers | self._policy_peers
        self._settle_default()

    def _settle_default(self) -> None:
        self._default = self.default if self._policy_default is NO_RULE else self._policy_default


class Firewall:
    """The rules in force. A change takes effect with the next decision, and calls ``changed`` with the affected peer; None:
    all peers."""

    def __init__(self, rules: FirewallRules) -> None:
        self.types: frozenset[str] | None = None
        """The names of all request types; None: any."""
        self._inbound = _Side()
        self._outbound = _Side()
        self.changed: Callable[[PeerId | None], None] = lambda _: None
        self.set_default(rules.inbound, Direction.INBOUND)
        self.set_default(rules.outbound, Direction.OUTBOUND)
        for peer, (inbound, outbound) in rules.peers.items():
            self.set_peer_rule(peer, inbound, Direction.INBOUND)
            self.set_peer_rule(peer, outbound, Direction.OUTBOUND)

    def limit_types(self, types: frozenset[str] | None) -> None:
        """Sets the names of all request types; None: any. Rules with other types are errors from now on, since they would
        silently reject requests.

        Raises:
            TypeError: an existing rule has another type.
        """
        self.types = types
        self.check(self.rules)

    def check(self, rules: FirewallRules) -> None:
        """Checks the types in ``rules``.

        Raises:
            TypeError: a rule has a type that no request has.
        """
        for rule in (rules.inbound, rules.outbound, *chain.from_iterable(rules.peers.values())):
            self._check(rule)

    def find(self, peer: PeerId, direction: Direction) -> AppliedRule:
        """The applicable rule for a peer and a direction."""
        return (self._inbound if direction is INBOUND else self._outbound).find(peer)

    @property
    def rules(self) -> FirewallRules:
        """A copy of the rules from calls and answers, without those of a policy, which take precedence."""
        peers = {
            peer: (
                self._inbound.peers.get(peer, NO_RULE).rule,
                self._outbound.peers.get(peer, NO_RULE).rule,
            )
            for peer in {**self._inbound.peers, **self._outbound.peers}
        }
        return FirewallRules(inbound=self._inbound.default.rule, outbound=self._outbound.default.rule, peers=peers)

    def peer_rule(self, peer: PeerId, direction: Direction) -> Rule | None:
        """The rule of ``peer`` in one direction from calls and answers, ignoring the policy."""
        return (self._inbound if direction is Direction.INBOUND else self._outbound).peers.get(peer, NO_RULE).rule

    def set_default(self, rule: Rule | None, direction: Direction) -> None:
        """Sets the default of each given direction; None removes it.

        Raises:
            TypeError: not a rule, or a rule with a type that no request has.
        """
        self._check(rule)
        for side in self._sides(direction):
            side.set_default(rule)
        self.changed(None)

    def set_peer_rule(self, peer: PeerId, rule: Rule | None, direction: Direction) -> None:
        """Sets one peer's rule in each given direction; None removes it.

        Raises:
            TypeError: as for :meth:`set_default`.
        """
        self._check(rule)
        for side in self._sides(direction):
            side.set_peer(peer, rule)
        self.changed(peer)

    def restore_peer_rule(self, peer: PeerId, rule: Rule | None, direction: Direction) -> None:
        """Sets a stored rule. Types that no request has are only logged: the program may have changed, and without the rule
        the default would apply."""
        if (misfit := self._misfit(rule)) is not None:
            logger.warning("stored rule %r for %s: %s", rule, peer, misfit)
        for side in self._sides(direction):
            side.set_peer(peer, rule)
        self.changed(peer)

    def set_policy(self, rules: FirewallRules) -> None:
        """Replaces the policy's layers, and nothing else."""
        for side, default, index in ((self._inbound, rules.inbound, 0), (self._outbound, rules.outbound, 1)):
            side.set_policy(default, {peer: rule for peer, both in rules.peers.items() if (rule := both[index])})
        self.changed(None)

    def _check(self, rule: Rule | None) -> None:
        _check(rule)
        if (misfit := self._misfit(rule)) is not None:
            raise TypeError(f"{rule!r}: {misfit}")

    def _misfit(self, rule: Rule | None) -> str | None:
        """The error for a rule with a type that no request has; None if valid."""
        names = () if rule is None or rule.allow is None else sorted(rule.allow)
        return next(filter(None, (unknown_type(name, self.types) for name in names)), None)

    def _sides(self, direction: object) -> list[_Side]:
        if not isinstance(direction, Direction):
            raise TypeError(f"expected a Direction, got {direction!r}")
        return [
            side
            for side, its in ((self._inbound, Direction.INBOUND), (self._outbound, Direction.OUTBOUND))
            if its in direction
        ]


def unknown_type(name: str, types: frozenset[str] | None) -> str | None:
    """The error for ``name`` if it is not in ``types``, the names of all request types (None: any); None if valid."""
    if types is None or name in types:
        return None
    if not types:
        return f"no request has the type {name!r}: requests of this peer have no types"
    similar = difflib.get_close_matches(name, types, n=1)
    hint = f"did you mean {similar[0]!r}?" if similar else f"known types are {', '.join(map(repr, sorted(types)))}"
    return f"no request has the type {name!r}; {hint}"


def _pair(rules: object) -> PeerRules:
    if not isinstance(rules, tuple) or len(rules) != 2:
        raise TypeError(f"expected a pair of rules, (inbound, outbound), got {rules!r}")
    for rule in rules:
        _check(rule)
    return rules


def _check(rule: object) -> None:
    """Early, since a wrong object would fail at each request of a remote."""
    if rule is not None and not isinstance(rule, Rule):
        raise TypeError(f"expected a Rule, got {rule!r}")
