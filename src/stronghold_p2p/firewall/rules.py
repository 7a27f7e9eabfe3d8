"""The firewall's rules, by direction, as a default and per peer. Pure decisions without waiting or I/O; questions are in
:mod:`.approvals`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Final, Literal, NamedTuple

from ..events import Direction
from ..frozen import FrozenDict
from ..identity import PeerId
from .ends import Clocks, Ends
from .rule import Predicate, Rule, Subject, Verdict, unknown_type

__all__ = [
    "AppliedRule",
    "Direction",
    "Firewall",
    "FirewallRules",
    "Layer",
    "Predicate",
    "Rule",
    "RuleInForce",
    "Subject",
    "Verdict",
    "unknown_type",
]

logger = logging.getLogger("stronghold_p2p")

INBOUND: Final = Direction.INBOUND  # a member's look-up in its class is slow before Python 3.12

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


Layer = Literal["suspended", "policy peer", "peer", "policy default", "default", "none"]
"""The source of a rule. The first layer in this order with a rule for the peer and direction decides."""


class AppliedRule(NamedTuple):
    """The applicable rule, its layer, and the line of the policy file that has it; None elsewhere."""

    rule: Rule | None
    layer: Layer
    line: int | None = None


NO_RULE: Final = AppliedRule(None, "none")


class RuleInForce(NamedTuple):
    """What decides the requests of a peer in one direction."""

    peer: PeerId | None
    """None: every peer without a rule of its own."""
    direction: Direction
    rule: Rule | None
    """None: there is no rule, so that requests are a question about their peer."""
    layer: Layer
    line: int | None
    """Of the policy file that has it; None: it is from elsewhere."""


Lines = Mapping[tuple[PeerId | None, Direction], int]
"""The lines of a policy file that have the rules of peers, and, with None, the defaults, each in one direction."""


class _Side:
    """The rules of one direction, in layers: those of a policy take precedence over those of calls and answers.

    The merged result is precomputed, since every request looks it up more than once. What has ended may still be in it:
    whoever finds such a rule calls :meth:`drop_ended`, and looks again.
    """

    __slots__ = ("_ends", "_policy_default", "_policy_peers", "applied", "default", "direction", "fallback", "peers")

    def __init__(self, direction: Direction, ends: Ends[Slot]) -> None:
        self.direction: Final = direction
        self.peers: dict[PeerId, AppliedRule] = {}
        self.default = NO_RULE
        self._ends = ends
        self._policy_peers: dict[PeerId, AppliedRule] = {}
        self._policy_default = NO_RULE
        self.applied: dict[bytes, AppliedRule] = {}
        """The merged rules of peers, by the multihash of their ids."""
        self.fallback = NO_RULE
        """The merged rule of all others."""

    def in_force(self) -> Iterator[tuple[PeerId | None, AppliedRule]]:
        """What decides, the default first."""
        yield None, self.fallback
        yield from (self.peers | self._policy_peers).items()

    def set_default(self, rule: Rule | None) -> None:
        self.default = NO_RULE if rule is None else AppliedRule(rule, "default")
        self._settle_default()

    def set_peer(self, peer: PeerId, rule: Rule | None) -> None:
        if rule is None:
            self.peers.pop(peer, None)
        else:
            self.peers[peer] = AppliedRule(rule, "peer")
        self._settle_peer(peer)

    def set_policy(self, default: AppliedRule, peers: dict[PeerId, AppliedRule]) -> None:
        self._policy_peers = peers
        self._policy_default = default
        self.applied = {peer.multihash: applied for peer, applied in (self.peers | peers).items()}
        self._settle_default()

    def suspend(self) -> None:
        """Rejects everything."""
        self.fallback = AppliedRule(Rule.REJECT_ALL, "suspended")

    def drop_ended(self, peer: PeerId | None) -> None:
        """Drops what has ended of the rules for ``peer``: its own, and the defaults."""
        if peer is not None:
            for layer in (self._policy_peers, self.peers):
                if peer in layer:
                    left = self._left(layer.pop(peer))
                    if left.rule is not None:
                        layer[peer] = left
            self._settle_peer(peer)
        self.default = self._left(self.default)
        self._policy_default = self._left(self._policy_default)
        self._settle_default()

    def _left(self, applied: AppliedRule) -> AppliedRule:
        rule = left_of(applied.rule, self._ends)
        if rule is None:
            return NO_RULE
        return applied if rule is applied.rule else applied._replace(rule=rule, line=None)  # it stands elsewhere

    def _settle_peer(self, peer: PeerId) -> None:
        applied = self._policy_peers.get(peer) or self.peers.get(peer)
        if applied is None:
            self.applied.pop(peer.multihash, None)
        else:
            self.applied[peer.multihash] = applied

    def _settle_default(self) -> None:
        self.fallback = self.default if self._policy_default is NO_RULE else self._policy_default


class Slot(NamedTuple):
    """Where there may be a rule: of a peer, or with None the default, of a policy or of calls and answers."""

    side: _Side
    peer: PeerId | None
    in_policy: bool


def left_of(rule: Rule | None, ends: Ends[Slot]) -> Rule | None:
    """What is left of a rule by now."""
    while rule is not None and rule.end is not None and ends.has_come(rule.end):
        rule = rule.then
    return rule


class Firewall:
    """The rules in force. A change takes effect with the next decision, and calls ``changed`` with the affected peer; None:
    all peers.

    A rule that has ended is no longer found. Whoever has a loop calls :meth:`expire` when :attr:`seconds_left` have
    passed, and often enough to see that ``clocks`` were set.
    """

    def __init__(self, rules: FirewallRules, clocks: Clocks = Clocks()) -> None:  # noqa: B008 - it is immutable
        self.types: frozenset[str] | None = None
        """The names of all request types; None: any."""
        self._ends: Ends[Slot] = Ends(clocks)
        self._kept = _Side(Direction.INBOUND, self._ends), _Side(Direction.OUTBOUND, self._ends)
        self._inbound, self._outbound = self._kept
        """Where rules are found, and where they are kept: another place while :meth:`suspend` is in force."""
        self._policy_slots: set[Slot] = set()
        """Those whose rules have ends."""
        self.changed: Callable[[PeerId | None], None] = lambda _: None
        self.rule_set: Callable[[PeerId | None, Direction, Rule | None], None] = lambda *_: None
        """Called with each rule from calls, answers and the state file, and what is left after its end: of a peer, or a default."""
        self.dated: Callable[[], None] = lambda: None
        """Called when there may be another :attr:`seconds_left`."""
        self.ended: Callable[[Mapping[tuple[PeerId, Direction], float]], None] = lambda _: None
        """Called when rules of peers, from calls and answers, have ended: up to when, in seconds since 1970."""
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

    def check(self, rules: FirewallRules, limited: Iterable[str] = ()) -> None:
        """Checks the types in ``rules``, and those that are ``limited``.

        Raises:
            TypeError: there is a type that no request has.
        """
        for rule in (rules.inbound, rules.outbound, *chain.from_iterable(rules.peers.values())):
            self._check(rule)
        for name in limited:
            if (misfit := unknown_type(name, self.types)) is not None:
                raise TypeError(f"a limit by type: {misfit}")

    def find(self, peer: PeerId, direction: Direction) -> AppliedRule:
        """The applicable rule for a peer and a direction."""
        side = self._inbound if direction is INBOUND else self._outbound
        while True:
            applied = side.applied.get(peer.multihash, side.fallback)
            rule = applied.rule
            if rule is None or rule.end is None or not self._ends.has_come(rule.end):
                return applied
            side.drop_ended(peer)

    @property
    def rules(self) -> FirewallRules:
        """A copy of the rules from calls and answers, without those of a policy, which take precedence."""
        inbound, outbound = self._kept
        peers = {
            peer: rules
            for peer in {**inbound.peers, **outbound.peers}
            if any(rules := (self.peer_rule(peer, Direction.INBOUND), self.peer_rule(peer, Direction.OUTBOUND)))
        }
        return FirewallRules(
            inbound=self.left_of(inbound.default.rule), outbound=self.left_of(outbound.default.rule), peers=peers
        )

    def in_force(self, limit: int | None) -> tuple[RuleInForce, ...]:
        """What decides in each direction, the default first; at most ``limit`` in each, None: all."""
        self.expire()
        return tuple(
            RuleInForce(peer, side.direction, *applied)
            for side in (self._inbound, self._outbound)
            for peer, applied in islice(side.in_force(), limit)
        )

    def peer_rule(self, peer: PeerId, direction: Direction) -> Rule | None:
        """The rule of ``peer`` in one direction from calls and answers, ignoring the policy."""
        (side,) = self._sides(direction)
        return self.left_of(side.peers.get(peer, NO_RULE).rule)

    def set_default(self, rule: Rule | None, direction: Direction) -> None:
        """Sets the default of each given direction; None removes it.

        Raises:
            TypeError: not a rule, or a rule with a type that no request has.
        """
        self._check(rule)
        for side in self._sides(direction):
            side.set_default(rule)
            self._date(Slot(side, None, False), rule)
        self.rule_set(None, direction, rule)
        self.changed(None)

    def set_peer_rule(self, peer: PeerId, rule: Rule | None, direction: Direction) -> None:
        """Sets one peer's rule in each given direction; None removes it.

        Raises:
            TypeError: as for :meth:`set_default`.
        """
        self._check(rule)
        self._set_peer_rule(peer, rule, direction)

    def restore_peer_rule(self, peer: PeerId, rule: Rule | None, direction: Direction) -> None:
        """Sets a stored rule. Types that no request has are only logged: the program may have changed, and without the rule
        the default would apply."""
        if (misfit := self._misfit(rule)) is not None:
            logger.warning("stored rule %r for %s: %s", rule, peer, misfit)
        self._set_peer_rule(peer, rule, direction)

    def set_policy(self, rules: FirewallRules, lines: Lines = FrozenDict({})) -> None:  # noqa: B008 - it is immutable
        """Replaces the policy's layers, and nothing else."""
        dated: set[Slot] = set()
        for index, side in enumerate(self._kept):
            way = side.direction
            own = {peer: rule for peer, both in rules.peers.items() if (rule := both[index])}
            default = rules.inbound if way is INBOUND else rules.outbound
            side.set_policy(
                NO_RULE if default is None else AppliedRule(default, "policy default", lines.get((None, way))),
                {peer: AppliedRule(rule, "policy peer", lines.get((peer, way))) for peer, rule in own.items()},
            )
            for peer, rule in ((None, default), *own.items()):
                if rule is not None and rule.end is not None:
                    dated.add(slot := Slot(side, peer, True))
                    self._date(slot, rule)
        for slot in self._policy_slots - dated:
            self._date(slot, None)
        self._policy_slots = dated
        self.changed(None)

    def suspend(self) -> None:
        """Rejects every request, whatever the rules, until :meth:`resume`; these may be changed meanwhile."""
        self._inbound, self._outbound = (_Side(side.direction, self._ends) for side in self._kept)
        self._inbound.suspend()
        self._outbound.suspend()
        self.changed(None)

    def resume(self) -> None:
        """Applies the rules again."""
        self._inbound, self._outbound = self._kept
        self.changed(None)

    # -- ends ------------------------------------------------------------------------------------

    @property
    def seconds_left(self) -> float | None:
        """Until the next end of a rule; None: no rule has any."""
        return self._ends.seconds_left

    def expire(self) -> None:
        """Drops the rules that have ended, and tells of it."""
        due = self._ends.due()
        if not due:
            return
        for slot in due:
            slot.side.drop_ended(slot.peer)
            if not slot.in_policy:  # a policy that still names the date may be loaded again
                applied = slot.side.default if slot.peer is None else slot.side.peers.get(slot.peer, NO_RULE)
                self._date(slot, applied.rule)
                self.rule_set(slot.peer, slot.side.direction, applied.rule)
        peers = {slot.peer for slot in due}
        self.changed(peers.pop() if len(peers) == 1 else None)
        ended = {(slot.peer, slot.side.direction): end for slot, end in due.items() if slot.peer and not slot.in_policy}
        if ended:
            self.ended(ended)

    def left_of(self, rule: Rule | None) -> Rule | None:
        """What is left of a rule by now."""
        return left_of(rule, self._ends)

    def in_seconds(self, seconds: float) -> datetime:
        """The date so many seconds from now, for an end.

        Raises:
            ValueError: ``seconds`` are not above zero, or lead beyond the year 9999.
        """
        if not seconds > 0:
            raise ValueError(f"a rule must hold for more than 0 s, not {seconds!r}")
        try:
            return datetime.fromtimestamp(self._ends.in_seconds(seconds), UTC)
        except (OverflowError, OSError, ValueError):
            raise ValueError(f"a rule that holds for {seconds!r} s ends too late: leave the time out") from None

    def _date(self, slot: Slot, rule: Rule | None) -> None:
        """Notes the ends of the rule that a slot has now."""
        dates = () if rule is None else [each.end for each in rule.chain if each.end is not None]
        self._ends.set(slot, dates)
        if dates:
            self.dated()

    def _set_peer_rule(self, peer: PeerId, rule: Rule | None, direction: Direction) -> None:
        for side in self._sides(direction):
            side.set_peer(peer, rule)
            self._date(Slot(side, peer, False), rule)
        self.rule_set(peer, direction, rule)
        self.changed(peer)

    def _check(self, rule: Rule | None) -> None:
        _check(rule)
        if (misfit := self._misfit(rule)) is not None:
            raise TypeError(f"{rule!r}: {misfit}")

    def _misfit(self, rule: Rule | None) -> str | None:
        """The error for a rule with a type that no request has; None if valid."""
        names = () if rule is None else sorted(name for each in rule.chain for name in each.types)
        return next(filter(None, (unknown_type(name, self.types) for name in names)), None)

    def _sides(self, direction: object) -> list[_Side]:
        if not isinstance(direction, Direction):
            raise TypeError(f"expected a Direction, got {direction!r}")
        return [side for side in self._kept if side.direction in direction]


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
