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

    __slots__ = ("_log_failure", "otherwise", "predicate", "types")

    ALLOW_ALL: ClassVar[Rule]
    """Every request passes, before its body is read."""
    REJECT_ALL: ClassVar[Rule]
    """No request passes; the protocol is not even offered to the peer."""
    ASK: ClassVar[Rule]
    """Each request is a question."""

    def __init__(self, types: Mapping[str, Verdict], otherwise: Verdict, predicate: Predicate | None) -> None:
        self.types: Final[Mapping[str, Verdict]] = dict(types)
        """The verdicts by request type; empty for other rules."""
        self.otherwise: Final = otherwise
        """The verdict on other types, and on requests without a type."""
        self.predicate: Final = predicate
        """The deciding function; None for other rules."""
        self._log_failure = SparingLog(logging.ERROR, "a firewall predicate failed on a request: it is rejected")

    @overload
    @classmethod
    def restricted(cls, predicate: Predicate, /) -> Rule: ...

    @overload
    @classmethod
    def restricted(
        cls,
        /,
        *,
        allow: Collection[type | str] = ...,
        ask: Collection[type | str] = ...,
        reject: Collection[type | str] = ...,
        otherwise: Literal["reject", "ask"] = ...,
    ) -> Rule: ...

    @classmethod
    def restricted(
        cls,
        predicate: Predicate | None = None,
        /,
        *,
        allow: Collection[type | str] | None = None,
        ask: Collection[type | str] | None = None,
        reject: Collection[type | str] | None = None,
        otherwise: Literal["reject", "ask"] | None = None,
    ) -> Rule:
        """A rule by request type, or by a function.

        Requests with a type in ``allow`` pass, each of those in ``ask`` is a question, those in ``reject`` are rejected. All
        others, and requests without a type, are rejected (``otherwise="reject"``, the default) or a question
        (``otherwise="ask"``). Types are classes or their names. A type that no request of the peer's ``request_type=`` can
        have is a TypeError when the rule is given to the peer.

        With ``predicate`` instead, requests pass for which it returns True. An exception in it rejects the request, except
        KeyboardInterrupt.

        Raises:
            TypeError: neither or both kinds of arguments are given, or one has the wrong type.
            ValueError: a type is given twice, or ``otherwise`` is neither of the two.
        """
        named = {Verdict.ALLOW: allow, Verdict.ASK: ask, Verdict.REJECT: reject}
        by_type = any(kinds is not None for kinds in (*named.values(), otherwise))
        if (predicate is not None) is by_type:
            raise TypeError("Rule.restricted takes either a predicate or types: allow=, ask=, reject=, otherwise=")
        if predicate is not None:
            if not callable(predicate) or inspect.iscoroutinefunction(predicate):
                raise TypeError(f"a predicate must be a plain function, not {predicate!r}")
            return cls({}, Verdict.REJECT, predicate)
        if otherwise not in (None, "reject", "ask"):
            raise ValueError(f'otherwise= must be "reject" or "ask", not {otherwise!r}')
        types: dict[str, Verdict] = {}
        for verdict, kinds in named.items():
            for name in _names(verdict, kinds):
                if types.setdefault(name, verdict) is not verdict:
                    raise ValueError(f"the type {name!r} is in both {_WORDS[types[name]]}= and {_WORDS[verdict]}=")
        rest = Verdict.ASK if otherwise == "ask" else Verdict.REJECT
        if all(verdict is rest for verdict in types.values()):  # types make no difference
            return cls.ASK if rest is Verdict.ASK else cls.REJECT_ALL
        return cls(types, rest, None)

    def allowing(self, type_name: str) -> Rule:
        """The same rule by type, but that requests of this type pass."""
        return Rule({**self.types, type_name: Verdict.ALLOW}, self.otherwise, None)

    @property
    def allows_some(self) -> bool:
        """Whether requests may pass without an answer: all, or those of some types."""
        return self.predicate is not None or Verdict.ALLOW in {self.otherwise, *self.types.values()}

    def verdict_on(self, type_name: str | None) -> Verdict:
        """Applies a rule without a predicate to a request of this type."""
        return self.otherwise if type_name is None else self.types.get(type_name, self.otherwise)

    def verdict(self, subject: Subject) -> Verdict:
        """Applies the rule to one request."""
        if self.predicate is None:
            return self.verdict_on(subject.type)
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
        return (self.types, self.otherwise, self.predicate) == (other.types, other.otherwise, other.predicate)

    def __hash__(self) -> int:
        return hash((frozenset(self.types.items()), self.otherwise, self.predicate))

    def __reduce__(self) -> str | tuple[type[Rule], tuple[Mapping[str, Verdict], Verdict, Predicate | None]]:
        name = self._name
        if name is not None:
            return f"Rule.{name}"  # the same object: the gate compares these three by identity
        return Rule, (self.types, self.otherwise, self.predicate)

    def __repr__(self) -> str:
        if self._name is not None:
            return f"Rule.{self._name}"
        if self.predicate is not None:
            return f"Rule.restricted({self.predicate!r})"
        parts = [f"{_WORDS[one]}={{{', '.join(map(repr, names))}}}" for one in Verdict if (names := self.named(one))]
        if self.otherwise is Verdict.ASK:
            parts.append("otherwise='ask'")
        return f"Rule.restricted({', '.join(parts)})"

    def named(self, verdict: Verdict) -> list[str]:
        """The request types with this verdict, in order."""
        return sorted(name for name, its in self.types.items() if its is verdict)

    @property
    def _name(self) -> str | None:
        return None if self.types or self.predicate is not None else _NAMES[self.otherwise]


def _names(verdict: Verdict, kinds: Collection[type | str] | None) -> list[str]:
    given = frozenset(kinds or ())
    if isinstance(kinds, str) or not all(isinstance(kind, type | str) for kind in given):
        raise TypeError(f"{_WORDS[verdict]}= takes a set of classes or names, not {kinds!r}")
    return [kind if isinstance(kind, str) else kind.__name__ for kind in given]


_WORDS = {Verdict.ALLOW: "allow", Verdict.REJECT: "reject", Verdict.ASK: "ask"}
_NAMES = {Verdict.ALLOW: "ALLOW_ALL", Verdict.REJECT: "REJECT_ALL", Verdict.ASK: "ASK"}
Rule.ALLOW_ALL = Rule({}, Verdict.ALLOW, None)
Rule.REJECT_ALL = Rule({}, Verdict.REJECT, None)
Rule.ASK = Rule({}, Verdict.ASK, None)

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
        names = () if rule is None else sorted(rule.types)
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
