"""What a firewall promises, whatever is set, answered, reloaded or restarted, and whatever the clocks say: nothing passes
that the rules in force do not allow and nobody has approved, and nothing waits or is rejected that they allow.

The model keeps who allows what as words and dates. It knows no chain of rules and no layers: it goes through what was
said, the latest first. Limits, and the order in which questions come, are the other model's.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from support.clock import Clock
from support.examples import examples
from support.loop import Loop

from stronghold_p2p import Config, Direction, FirewallRequest, FirewallRules, Keypair, PeerId, PolicyLoaded, Rule
from stronghold_p2p.ending import end_all
from stronghold_p2p.event_hub import EventHub, EventReader
from stronghold_p2p.events import SignedAnswer
from stronghold_p2p.firewall.admission import Admission
from stronghold_p2p.firewall.approvals import Approvals
from stronghold_p2p.firewall.ends import Clocks
from stronghold_p2p.firewall.expiry import Expiry
from stronghold_p2p.firewall.gate import Gate
from stronghold_p2p.firewall.names import Names
from stronghold_p2p.firewall.quotas import Place
from stronghold_p2p.firewall.rules import Firewall
from stronghold_p2p.firewall_sources import FirewallSources
from stronghold_p2p.resources.refusals import Refusals
from stronghold_p2p.store.database_thread import DatabaseThread

IN, OUT = Direction.INBOUND, Direction.OUTBOUND
PEERS: Final = [Keypair.generate().peer_id for _ in range(4)]
APPROVERS: Final = PEERS[1:]
"""Some who ask may approve, too, but for themselves."""
NAMES: Final = dict(zip(PEERS, ("alice", "bob", "carol", "dave"), strict=True))
BEGIN: Final = 1_800_000_000
"""The wall clock's time at the begin, in seconds since 1970."""
CONFIG: Final = Config(firewall_timeout=20.5, firewall_quiet=None)
"""Nothing else is due at the moment when a question is."""
TYPES: Final = ["Ping", "Read", None, "/chat/1", "/files/1"]
LASTS: Final = [None, 3, 10, 40]
"""Seconds."""

WORDS: Final[dict[str, dict[str, str]]] = {
    "allow": {"*": "allow"},
    "reject": {"*": "reject"},
    "ask": {"*": "ask"},
    "pings": {"Ping": "allow", "*": "reject"},
    "mixed": {"Ping": "allow", "Read": "ask", "/chat/1": "ask", "*": "reject"},
    "careful": {"Read": "allow", "/chat/1": "allow", "Ping": "reject", "*": "ask"},
}
"""Rules, by request type; ``*`` for all others."""


def says(word: str, type_name: str | None) -> str:
    return WORDS[word].get(type_name or "", WORDS[word]["*"])


def as_rule(word: str) -> Rule:
    types = {name: verdict for name, verdict in WORDS[word].items() if name != "*"}
    rest = WORDS[word]["*"]
    if not types:
        return {"allow": Rule.ALLOW_ALL, "reject": Rule.REJECT_ALL, "ask": Rule.ASK}[rest]
    lists = {verdict: {name for name, its in types.items() if its == verdict} for verdict in ("allow", "ask", "reject")}
    return Rule.restricted(**lists, otherwise="ask" if rest == "ask" else "reject")


def as_toml(word: str, until: float | None, strict: bool) -> str:
    """The same in a policy file."""
    pairs = {
        verdict: [name for name, its in WORDS[word].items() if its == verdict and name != "*"]
        for verdict in ("allow", "ask", "reject")
    }
    parts = [f"{verdict} = {json.dumps(names)}" for verdict, names in pairs.items() if names]
    if parts:
        parts.append(f'otherwise = "{WORDS[word]["*"]}"')
    else:
        parts = [f'rule = "{word}"']
    if until is not None:
        parts.append(f"until = {datetime.fromtimestamp(until, UTC).isoformat()}")
    if strict:
        parts.append("strict = true")
    return f"{{ {', '.join(parts)} }}"


# -- the model -------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Said:
    """Something that was said once: a rule, or that requests of a type, or all, may pass."""

    word: str
    """A rule, or "type" or "all"."""
    wall: float | None = None
    """When it ends, by the wall clock; None: never."""
    passed: float = 0.0
    """When the same time has passed, whatever the wall clock says."""
    type: str | None = None
    strict: bool = False


@dataclass
class Model:
    now: float
    wall: float
    policy: dict[tuple[PeerId | None, Direction], Said] = field(default_factory=dict)
    groups: dict[tuple[PeerId, Direction], Said] = field(default_factory=dict)
    own: dict[tuple[PeerId, Direction], list[Said]] = field(default_factory=dict)
    kept: dict[tuple[PeerId, Direction], list[Said]] = field(default_factory=dict)
    """Those of them that outlive a restart."""
    defaults: dict[Direction, Said] = field(default_factory=dict)
    observed: bool = False
    """The policy decides nothing."""
    need: int = 1

    def rule_for(self, peer: PeerId, direction: Direction) -> list[Said]:
        """What counts, the latest last; nothing if nothing was said."""
        if not self.observed:
            for found in (self.policy.get((peer, direction)), self.groups.get((peer, direction))):
                if found is not None:
                    return [found]
        if own := self.own.get((peer, direction)):
            return own
        if not self.observed and (default := self.policy.get((None, direction))):
            return [default]
        return [self.defaults[direction]] if direction in self.defaults else []

    def in_force(self, peer: PeerId, direction: Direction) -> list[Said]:
        """The same without what is covered by now."""
        rules = self.rule_for(peer, direction)
        covers = [index for index, said in enumerate(rules) if said.word != "type"]
        return rules[covers[-1] :] if covers else rules

    def verdict(self, peer: PeerId, direction: Direction, type_name: str | None) -> str:
        for said in reversed(self.rule_for(peer, direction)):
            if said.word == "all" or (said.word == "type" and said.type == type_name):
                return "allow"
            if said.word != "type":
                return says(said.word, type_name)
        return "ask"

    def said(self, word: str, date: float | None, *, type_name: str | None = None, strict: bool = False) -> Said:
        """Until a date by the wall clock. The same date, said again, does not come later than it would have."""
        if date is None:
            return Said(word, type=type_name, strict=strict)
        known = [each.passed for each in self._everything() if each.wall == date]
        return Said(word, date, min([self.now + date - self.wall, *known]), type_name, strict)

    def expire(self) -> None:
        """What has ended is gone for good."""
        layers: tuple[dict[Any, Said], ...] = (self.policy, self.groups, self.defaults)
        for layer in layers:
            for key in [key for key, said in layer.items() if self._has_ended(said)]:
                del layer[key]
        for lists in (self.own, self.kept):
            for key, all_said in list(lists.items()):
                lists[key] = [said for said in all_said if not self._has_ended(said)]

    def _everything(self) -> Iterable[Said]:
        single = (self.policy, self.groups, self.defaults)
        return chain(*(layer.values() for layer in single), *self.own.values())

    def _has_ended(self, said: Said) -> bool:
        return said.wall is not None and (self.wall >= said.wall or self.now >= said.passed)


# -- both, side by side ----------------------------------------------------------------------------------


class Asked:
    """A request or a stream, as the gate knows it, and what became of it."""

    def __init__(self, peer: PeerId, direction: Direction, type_name: str | None) -> None:
        self.peer, self.direction, self.type = peer, direction, type_name
        self.decision_id = 0
        self.place: Place | None = None
        self.refusal = 0
        self.evicted = False
        self.allowed: bool | None = None
        self.let_in_by: list[Said] = []

    def evict(self) -> None:
        self.evicted = True

    def __repr__(self) -> str:
        return f"{NAMES[self.peer]} {self.direction.name} {self.type}: {self.allowed}"


class Codec:
    """Requests are their types."""

    @staticmethod
    def type_name(body: Any) -> str | None:
        return body  # type: ignore[no-any-return]

    @staticmethod
    def weight(data: bytes, /) -> int:
        return 1


class Quorum:
    """As approvers are told to the firewall."""

    def __init__(self) -> None:
        self.need = 1
        self.approvers: frozenset[PeerId] = frozenset()

    def includes(self, approver: PeerId, peer: PeerId) -> bool:
        return approver in self.approvers and approver != peer


class Firm:
    """A firewall with its files, from a start to a restart."""

    def __init__(self, folder: Path, clocks: Clocks, asked: list[FirewallRequest]) -> None:
        self.events = EventHub()
        self.firewall = Firewall(FirewallRules(outbound=None), clocks)
        self.quorum = Quorum()
        self.approvals = Approvals(self.firewall, CONFIG, self.events.emit, Refusals(self.events.emit))
        self.approvals.quorum = self.quorum
        self.gate = Gate(self.firewall, self.approvals, None, self.events)
        self.expiry = Expiry(self.firewall)
        self.firewall.changed = self._changed
        self.sources = FirewallSources(
            folder / "policy.toml",
            DatabaseThread(folder / "state"),
            firewall=self.firewall,
            gate=self.gate,
            admission=Admission(),
            names=Names(),
            traffic=(),
            config=CONFIG,
            events=self.events,
            admission_changed=lambda: None,
            approvers_changed=self._approvers_changed,
        )
        self.approvals.keep_rule = self.sources.keep_rule
        self.approvals.add_handler(asked.append)

    async def start(self) -> None:
        await self.sources.start()
        self.expiry.start()
        self.heard = self.events.subscribe(EventReader(100, "drop_oldest", None))

    async def close(self) -> None:
        self.expiry.close()
        await end_all(self.approvals.close, self.sources.close, self.events.close)

    def _approvers_changed(self, approvers: frozenset[PeerId], need: int) -> None:
        self.quorum.approvers, self.quorum.need = approvers, need
        self.approvals.quorum_changed()

    def _changed(self, peer: PeerId | None) -> None:
        self.approvals.rules_changed(peer)
        self.gate.tenancy.rules_changed(peer)


peers = st.sampled_from(PEERS)
directions = st.sampled_from([IN, OUT])
words = st.sampled_from(list(WORDS))
lasts = st.sampled_from(LASTS)
types = st.sampled_from(TYPES)
rules_of_a_policy = st.tuples(words, lasts, st.booleans())
policies = st.fixed_dictionaries(
    {
        "defaults": st.dictionaries(directions, rules_of_a_policy),
        "peers": st.dictionaries(st.tuples(peers, directions), rules_of_a_policy, max_size=3),
        "group": st.dictionaries(directions, rules_of_a_policy),
        "members": st.sets(peers, min_size=1, max_size=3),
        "need": st.sampled_from([1, 1, 2]),
        "observed": st.sampled_from([False, False, False, True]),
    }
)


class PromisesMachine(RuleBasedStateMachine):
    @initialize(policy=policies, inbound=st.none() | words)
    def begin(self, policy: dict[str, Any], inbound: str | None) -> None:
        self.loop = Loop()
        self.clock = Clock(1000.0)
        self.set_back = 0.0
        self.answers = 0
        self.loop.time = self.clock  # type: ignore[method-assign]
        asyncio._set_running_loop(self.loop)
        self.folder = tempfile.TemporaryDirectory()
        self.model = Model(self.clock.now, self.wall())
        self.asked: list[FirewallRequest] = []
        self.waiting: list[Asked] = []
        self.inside: list[Asked] = []
        self.tasks: dict[Asked, asyncio.Task[bool]] = {}
        self.approved: set[Asked] = set()
        self.rejected: set[Asked] = set()
        self.votes: dict[int, set[PeerId]] = {}
        self.write_policy(policy)
        self.start()
        if inbound is not None:
            self.set_default(inbound, None, IN)

    def wall(self) -> float:
        return BEGIN + self.clock.now - 1000 - self.set_back

    # -- rules --

    @rule(word=words, last=lasts, direction=directions)
    def set_default(self, word: str, last: float | None, direction: Direction) -> None:
        self.firm.firewall.set_default(self._rule(word, last), direction)
        self.model.defaults[direction] = self.said(word, last)
        self.finish()

    @rule(peer=peers, word=st.none() | words, last=lasts, strict=st.booleans(), direction=directions)
    def set_peer_rule(
        self, peer: PeerId, word: str | None, last: float | None, strict: bool, direction: Direction
    ) -> None:
        """As a call does it: it is not kept in the state file, and what was kept there is forgotten."""
        made = None if word is None else self._rule(word, last).replace(strict=strict)
        self.firm.sources.keep_rule(peer, direction, None)
        self.firm.firewall.set_peer_rule(peer, made, direction)
        self.model.own[peer, direction] = [] if word is None else [self.said(word, last, strict=strict)]
        self.model.kept.pop((peer, direction), None)
        self.finish()

    @rule(policy=policies)
    def reload(self, policy: dict[str, Any]) -> None:
        self.write_policy(policy)
        questions = [self.open(index) for index in range(len(self._questions()))]
        self.firm.sources.reload_policy()
        self._run(self._until_loaded())
        self._policy_is_in_force()
        for question, waiting in questions:
            self._count(question, waiting)
        self.finish()

    @rule()
    def restart(self) -> None:
        """Questions, and rules that calls have set, are gone; what was answered for some time is not."""
        self.rejected.update(self.waiting)
        self._run(self.firm.close())
        self.finish()
        self.asked.clear()
        self.inside.clear()
        self.votes.clear()  # ids of questions begin anew
        self.model.defaults.clear()
        self.model.policy, self.model.groups, self.model.own = {}, {}, {}
        self.model.own = {
            key: [self.model.said(one.word, one.wall, type_name=one.type, strict=one.strict) for one in said]
            for key, said in self.model.kept.items()
        }
        self.model.kept = {
            key: list(said) for key, said in self.model.own.items()
        }  # how much time has passed, is forgotten
        self.start()
        self.finish()

    # -- requests --

    @rule(peer=peers, direction=directions, type_name=types)
    def request(self, peer: PeerId, direction: Direction, type_name: str | None) -> None:
        """A request, or a stream, whose type begins with a slash."""
        asked = Asked(peer, direction, type_name)
        subject = asked if direction is IN else None
        verdict = self.model.verdict(peer, direction, type_name)
        gate = self.firm.gate
        if type_name is not None and type_name.startswith("/"):
            decided = gate.decide_stream(peer, direction, type_name, None, subject)
        else:
            decided = gate.decide(peer, direction, Codec(), type_name, b"", None, subject)
        if isinstance(decided, bool):
            assert verdict == ("allow" if decided else "reject"), asked
            asked.allowed = decided
            self._let_in(asked)
        else:
            self.tasks[asked] = self.loop.create_task(decided)  # type: ignore[arg-type]
            self.waiting.append(asked)
            assert verdict == "ask", asked
        self.finish()

    # -- answers --

    def open(self, which: int) -> tuple[FirewallRequest, list[Asked]]:
        """An open question, and the requests that wait for it."""
        questions = self._questions()
        question = questions[which % len(questions)]
        about = [one for one in self.waiting if (one.peer, one.direction) == (question.peer, question.direction)]
        if question.kind == "request":
            waiting = [one for one in about if self.question_of(one) is question]
        else:
            waiting = about
        return question, waiting

    def _questions(self) -> list[FirewallRequest]:
        return [question for question in self.asked if question.outcome is None]

    def question_of(self, asked: Asked) -> FirewallRequest | None:
        """Of those about a request: in their order."""
        same = [
            one
            for one in self.waiting
            if (one.peer, one.direction, one.type) == (asked.peer, asked.direction, asked.type)
        ]
        questions = [
            question
            for question in self.asked
            if question.outcome is None
            and question.kind == "request"
            and (question.peer, question.direction, question.type) == (asked.peer, asked.direction, asked.type)
        ]
        return questions[same.index(asked)] if len(questions) == len(same) else None

    @precondition(lambda self: self._questions())
    @rule(
        which=st.integers(0, 5), how=st.sampled_from(["once", "reject", "type", "all", "rule"]), word=words, last=lasts
    )
    def answer(self, which: int, how: str, word: str, last: float | None) -> None:
        if last is not None:
            self.answers += 1
            last += self.answers / 1000  # a date that nothing else has
        question, waiting = self.open(which)
        key = question.peer, question.direction
        before = self.model.rule_for(*key)
        is_own = bool(before) and before is self.model.own.get(key)
        allows: bool | None
        said: list[Said] | None
        match how:
            case "once":
                done, allows, said = question.approve(), True, None
            case "reject":
                done, allows, said = question.reject(), False, None
            case "type" if question.type is not None:
                done, allows = question.approve_type(last), True
                date = self._date(last)
                if is_own:
                    said = [*before, self.model.said("type", date, type_name=question.type)]
                else:
                    said = [*self._covered(key, last), *self._copied(before, date, question.type)]
            case "type" | "all":
                done, allows = question.approve_all(last), True
                said = [*self._covered(key, last), self.said("all", last)]
            case _:
                done, allows = question.set_rule(as_rule(word), last), None
                said = [*self._covered(key, last), self.said(word, last)]
        if allows and self.model.need > 1:
            assert not done, "one alone has decided"
            return
        if self.model.need > 1 and how == "rule" and "allow" in WORDS[word].values():
            assert not done, "one alone has set a rule"
            return
        assert done
        if said is None:
            (self.approved if allows else self.rejected).update(waiting)
        else:
            self.model.own[key], self.model.kept[key] = said, list(said)
            answer = "allow" if allows else says(word, question.type)
            # It decides a question about a request also where a policy's rule goes before it.
            if question.kind == "request" and answer != "ask":
                (self.approved if answer == "allow" else self.rejected).update(waiting)
        self.finish()

    @precondition(lambda self: self._questions())
    @rule(which=st.integers(0, 5), approver=st.sampled_from(PEERS), allowed=st.sampled_from([True, True, False]))
    def vote(self, which: int, approver: PeerId, allowed: bool) -> None:
        """One approver, or somebody who is none, says something."""
        question, waiting = self.open(which)
        counts = not self.model.observed and approver in APPROVERS and approver != question.peer
        votes = self.votes.setdefault(question.id, set())
        again = approver in votes
        done = question._question.vote(SignedAnswer(approver, allowed, "once", None, None, b""))
        if not counts or again:
            assert not done
            return
        if not allowed:
            self.rejected.update(waiting)
        else:
            votes.add(approver)
            if len(votes) >= self.model.need:
                self.approved.update(waiting)
        self.finish()

    # -- time --

    @rule(seconds=st.sampled_from([1, 2, 5, 12]))
    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.clock.now += 1
            self.model.now, self.model.wall = self.clock.now, self.wall()
            self._time_out()
            self.model.expire()
            self.finish()

    @rule(seconds=st.sampled_from([-30, -5, 5, 30]))
    def set_the_clock(self, seconds: float) -> None:
        """Whoever looks at a rule sees it at once; questions and strict rules hear of it within a second."""
        self.set_back -= seconds
        self.pass_time(1)

    # -- what must hold --

    def finish(self) -> None:
        self._run(self.clock.settle())
        for asked in list(self.waiting):
            verdict = self.model.verdict(asked.peer, asked.direction, asked.type)
            if not self.tasks[asked].done():
                assert verdict == "ask", asked
                assert asked not in self.approved | self.rejected, asked
                continue
            self.waiting.remove(asked)
            asked.allowed = self.tasks.pop(asked).result()
            if asked in self.approved:
                assert asked.allowed, asked
            elif asked in self.rejected:
                assert not asked.allowed, asked
            else:
                assert verdict == ("allow" if asked.allowed else "reject"), asked
            self._let_in(asked)
        for asked in self.inside:
            rules = self.model.in_force(asked.peer, asked.direction)
            verdict = self.model.verdict(asked.peer, asked.direction, asked.type)
            source_is_gone = not any(said in rules for said in asked.let_in_by)
            if asked.evicted:
                assert verdict != "allow", asked
            elif source_is_gone and any(said.strict for said in asked.let_in_by):
                assert verdict == "allow", asked
        self.inside = [asked for asked in self.inside if not asked.evicted]

    def teardown(self) -> None:
        try:
            self.rejected.update(self.waiting)
            self._run(self.firm.close())
            self.finish()
            assert not self.waiting
            assert not asyncio.all_tasks(self.loop)
        finally:
            asyncio._set_running_loop(None)
            self.loop.close()
            self.folder.cleanup()

    # -- details --

    def start(self) -> None:
        clocks = Clocks(self.wall, self.clock)
        self.firm = Firm(Path(self.folder.name), clocks, self.asked)
        self._run(self.firm.start())
        self._policy_is_in_force()

    def write_policy(self, policy: dict[str, Any]) -> None:
        def dated(rules: dict[Any, tuple[str, float | None, bool]]) -> dict[Any, tuple[str, float | None, bool]]:
            return {key: (word, self._date(last), strict) for key, (word, last, strict) in rules.items()}

        policy = policy | {name: dated(policy[name]) for name in ("defaults", "peers", "group")}
        self.written = policy
        lines = ['mode = "observe"'] if policy["observed"] else []
        approvers = json.dumps([NAMES[peer] for peer in APPROVERS])
        lines += ["[approval]", f"approvers = {approvers}", f"need = {policy['need']}"]
        members = json.dumps([NAMES[peer] for peer in policy["members"]])
        for peer, name in NAMES.items():
            lines += [f"[peers.{name}]", f'id = "{peer}"']
            lines += [
                f"{way.name.lower()} = {as_toml(*its)}" for (one, way), its in policy["peers"].items() if one == peer
            ]
        lines += ["[default]", *(f"{way.name.lower()} = {as_toml(*its)}" for way, its in policy["defaults"].items())]
        lines += ["[groups.some]", f"peers = {members}"]
        lines += [f"{way.name.lower()} = {as_toml(*its)}" for way, its in policy["group"].items()]
        Path(self.folder.name, "policy.toml").write_text("\n".join(lines) + "\n")

    def _policy_is_in_force(self) -> None:
        policy, model = self.written, self.model
        model.observed, model.need = policy["observed"], 1 if policy["observed"] else policy["need"]
        model.policy, model.groups = {}, {}
        if not policy["observed"]:
            model.policy = {(None, way): self._of_policy(its) for way, its in policy["defaults"].items()}
            model.policy |= {key: self._of_policy(its) for key, its in policy["peers"].items()}
            model.groups = {
                (peer, way): self._of_policy(its) for peer in policy["members"] for way, its in policy["group"].items()
            }
        model.expire()

    def _count(self, question: FirewallRequest, waiting: list[Asked]) -> None:
        """After a reload fewer voices may be enough, if the same rule still asks."""
        enough = not self.model.observed and len(self.votes.get(question.id, ())) >= self.model.need
        if question.outcome == "approved":
            assert enough
            assert all(self.model.verdict(one.peer, one.direction, one.type) == "ask" for one in waiting)
            self.approved.update(waiting)
        else:
            assert not (enough and question.outcome is None)

    def _of_policy(self, its: tuple[str, float | None, bool]) -> Said:
        word, date, strict = its
        return self.model.said(word, date, strict=strict)

    async def _until_loaded(self) -> None:
        async for event in self.firm.heard:
            if isinstance(event, PolicyLoaded):
                return

    def _let_in(self, asked: Asked) -> None:
        if asked.allowed and asked.direction is IN:
            asked.let_in_by = self.model.in_force(asked.peer, asked.direction)
            self.inside.append(asked)

    def _rule(self, word: str, last: float | None) -> Rule:
        date = self._date(last)
        return as_rule(word) if date is None else as_rule(word).replace(until=datetime.fromtimestamp(date, UTC))

    def _date(self, last: float | None) -> float | None:
        return None if last is None else self.wall() + last

    def said(self, word: str, last: float | None, *, strict: bool = False) -> Said:
        return self.model.said(word, self._date(last), strict=strict)

    def _covered(self, key: tuple[PeerId, Direction], last: float | None) -> list[Said]:
        """What comes back when an answer for some time has ended; one for good leaves nothing."""
        return [] if last is None else self.model.own.get(key, [])

    def _copied(self, rules: list[Said], date: float | None, type_name: str) -> list[Said]:
        """The rule of another layer, with one type more that passes, until either ends."""
        base = rules[0] if rules else Said("ask")
        ends = [one for one in (base.wall, date) if one is not None]
        end = min(ends) if ends else None
        return [
            self.model.said(base.word, end, strict=base.strict),
            self.model.said("type", end, type_name=type_name, strict=base.strict),
        ]

    def _time_out(self) -> None:
        """Questions that nobody has answered in time."""
        for question, waiting in map(self.open, range(len(self._questions()))):
            if question.expires <= self.clock.now:
                self.rejected.update(waiting)

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Between the steps the loop counts as running too: what a step does is done from one of its callbacks."""
        asyncio._set_running_loop(None)
        self.loop.run_until_complete(coroutine)
        asyncio._set_running_loop(self.loop)


PromisesMachine.TestCase.settings = settings(
    max_examples=examples(200), stateful_step_count=50, suppress_health_check=list(HealthCheck)
)
TestPromises = PromisesMachine.TestCase
