"""What must hold in a world: who asked whom, what the rules said then, and what has come of it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

from .world import world

__all__ = ["Ask", "Ledger", "RuleName", "Rules", "Times", "Verdict"]

RuleName: TypeAlias = Literal["allow", "reject", "ask", "reads"]
"""``reads`` allows requests of the type ``read`` alone."""

Verdict: TypeAlias = Literal["allow", "reject", "ask"]

AT_WORK: Final = 0.5
"""Seconds between a decision and the first line of the handler: other things are computed in the same turn."""


@dataclass(frozen=True)
class Rules:
    """What decides the requests to a peer, as the world has set it. Peers are their names."""

    default: RuleName | None
    own: dict[str, RuleName] = field(default_factory=dict)
    """Of single peers."""
    banned: frozenset[str] = frozenset()
    suspended: bool = False

    def verdict(self, name: str, kind: str) -> Verdict:
        """On a request of that type from that peer."""
        if name in self.banned or self.suspended:
            return "reject"
        rule = self.own.get(name, self.default)
        if rule == "reads":
            return "allow" if kind == "read" else "reject"
        return rule or "ask"

    def having(self, name: str, rule: RuleName) -> Rules:
        return replace(self, own={**self.own, name: rule})


class Times:
    """What has been in force from when to when; more than one thing where the world cannot know."""

    def __init__(self, rules: Rules) -> None:
        self._entries: list[tuple[Rules, float, float]] = [(rules, world.now, float("inf"))]

    @property
    def last(self) -> Rules:
        return self._entries[-1][0]

    def may_be(self, rules: Rules) -> None:
        """From now on these are in force, or the last ones, until :meth:`settle`."""
        self._entries.append((rules, world.now, float("inf")))

    def change(self, change: Callable[[Rules], Rules]) -> None:
        """From now on what it makes of those in force is in force."""
        open_ = [rules for rules, _, until in self._entries if until == float("inf")]
        self._end(len(self._entries))
        self._entries += [(change(rules), world.now, float("inf")) for rules in open_]

    def settle(self) -> None:
        """Now only the last ones are."""
        self._end(len(self._entries) - 1)

    def _end(self, count: int) -> None:
        """What the first entries say is in force no more."""
        self._entries[:count] = [(rules, since, min(until, world.now)) for rules, since, until in self._entries[:count]]

    def drop_last(self) -> None:
        """The last ones were never in force."""
        del self._entries[-1]

    def between(self, begin: float, end: float) -> list[Rules]:
        return [rules for rules, since, until in self._entries if since <= end and until >= begin]


@dataclass
class Ask:
    """A request."""

    id: int
    sender: str
    receiver: str
    kind: str
    at: float
    handled: int = 0
    ended: int = 0


class Ledger:
    """Of one world. What should not be is in :attr:`complaints`."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.asks: dict[int, Ask] = {}
        self.inbound: dict[str, Times] = {}
        """By the peer that is asked."""
        self.muted: dict[str, list[tuple[float, bool]]] = {}
        """Since when a peer may send no requests, by its own rules, and since when it may."""
        self.approvals: dict[tuple[str, str], list[float]] = {}
        """When somebody has let requests pass: at the first, from the second."""
        self.at_work: set[int] = set()
        """Requests for which handlers wait."""
        self.counts: Counter[str] = Counter()
        """What happened, by its name, for people."""
        self._ids = itertools.count(1)

    def complain(self, text: str) -> None:
        self.complaints.append(f"{world.now:.6f} {text}")

    def ask(self, sender: str, receiver: str, kind: str) -> Ask:
        made = Ask(next(self._ids), sender, receiver, kind, world.now)
        self.asks[made.id] = made
        return made

    def handled(self, id: int, sender: str, receiver: str, *, waited: bool) -> None:
        """A handler begins; ``waited``: the request may have waited for it since it was let in."""
        ask = self.asks[id]
        ask.handled += 1
        if (ask.sender, ask.receiver) != (sender, receiver):
            self.complain(f"request {id} of {ask.sender} to {ask.receiver} came as of {sender} to {receiver}")
        if ask.handled > 1:
            self.complain(f"request {id} was handled {ask.handled} times")
        since = ask.at if waited else max(world.now - AT_WORK, ask.at)
        verdicts = {rules.verdict(sender, ask.kind) for rules in self.inbound[receiver].between(since, world.now)}
        approved = any(ask.at <= at for at in self.approvals.get((receiver, sender), ()))
        if "allow" not in verdicts and not ("ask" in verdicts and approved):
            self.complain(
                f"request {id} passed, and the rules of {receiver} for {sender} said {' and '.join(verdicts)}"
            )
        if self._was_muted(sender, ask.at):
            self.complain(f"request {id} passed, which {sender}'s own rules forbid")

    def _was_muted(self, sender: str, since: float) -> bool:
        """Whether it was all the time since then."""
        changes = self.muted.get(sender, [])
        before = [muted for at, muted in changes if at <= since]
        return bool(before) and before[-1] and all(muted for at, muted in changes if at > since)

    def ended(self, ask: Ask) -> None:
        ask.ended += 1
        if ask.ended > 1:
            self.complain(f"request {ask.id} ended {ask.ended} times")
