"""``firewall explain``, ``who`` and ``check``: what a policy file and a state file say, before any peer asks."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import typer

from ..config import Config
from ..events.direction import Direction, direction_word
from ..firewall.admission import Admission
from ..firewall.policy import Policy
from ..firewall.quotas import NO_LIMIT, Limit
from ..firewall.rules import Firewall, FirewallRules, Rule, Verdict
from ..identity import PeerId
from ..store.database import Database
from ..store.firewall_tables import FirewallTables, Remembered, stored_form
from . import output
from .command import UsageError
from .names import PolicyFile, read_names
from .rule_text import columns, date_text, line_text, place_text, rule_text, type_text

__all__ = ["Directions", "check", "explain", "who"]

RELAYS: Final = {"never": "by no relay", "only": "by relays only"}

NOBODY: Final = PeerId(b"\x12\x20" + bytes(32))
"""The id of no key: what holds for it holds for all that no file names."""

Directions = Annotated[
    Literal["inbound", "outbound", "both"],
    typer.Option(
        "--direction", help="The peer's requests (inbound), ours to it (outbound), or both.", show_default=True
    ),
]
StateFile = Annotated[
    Path | None, typer.Option("--state", metavar="FILE", help="A state file, with the rules and bans of answers.")
]
Type = Annotated[
    str | None,
    typer.Option("--type", metavar="TYPE", help="The type of the request, or the protocol id of the stream."),
]


class Decision(NamedTuple):
    """What becomes of a request, and what says so."""

    verdict: Verdict | None
    """None: it depends on the type."""
    layer: str
    """That of the rule; ``connections``: the peer may not connect."""
    line: int | None
    rule: Rule | None


class InForce:
    """What a policy and a state file say together: in a peer that runs by both, as ``listen`` does."""

    def __init__(self, policy: Policy | None, state: Remembered | None) -> None:
        self.policy = policy or Policy()
        self.rules = {} if state is None else state.rules
        """Those of the state file, of which some may have ended."""
        self._banned = frozenset() if state is None else state.banned
        self._admission = Admission()
        self._admission.set_policy(self.policy.admission)
        self._firewall = Firewall(FirewallRules())
        self._firewall.set_policy(self.policy.rules, self.policy.rule_lines)
        for peer in self._banned:
            self._admission.ban(peer)
        for (peer, direction), rule in self.rules.items():
            self._firewall.restore_peer_rule(peer, rule, direction)

    @property
    def peers(self) -> frozenset[PeerId]:
        """All that the two say something about."""
        policy = self.policy
        return frozenset(
            (*policy.names, *policy.rules.peers, *policy.peer_limits, *(peer for peer, _ in self.rules), *self._banned)
        ).union(*policy.groups.values())

    def refusal(self, peer: PeerId) -> tuple[str, int | None] | None:
        """Why the peer may not connect, and the line of the policy that says so. None: it may."""
        reason = self._admission.refusal_of_peer(peer)
        if reason is None:
            return None
        if peer in self._banned:
            return "it is banned in the state file", None
        return reason, self.policy.lines.get((peer, "ban")) if peer in self.policy.admission.banned else None

    def relay_mode(self, peer: PeerId) -> str:
        return self._admission.relay_mode(peer)

    def decide(self, peer: PeerId, direction: Direction, type_name: str | None) -> Decision:
        """What becomes of a request; without a type, of any."""
        if (refusal := self.refusal(peer)) is not None:
            return Decision(Verdict.REJECT, "connections", refusal[1], None)
        rule, layer, line = self._firewall.find(peer, direction)
        if rule is None:
            return Decision(Verdict.ASK, layer, None, None)
        open_ = type_name is None and bool(rule.types)
        return Decision(None if open_ else rule.verdict_on(type_name), layer, line, rule)

    def ended(self, peer: PeerId, direction: Direction) -> list[Ended]:
        """The rules for a peer that have ended."""
        policy, key = self.policy, direction_word(direction)
        index = 0 if direction is Direction.INBOUND else 1
        candidates = [
            ("policy peer", policy.lines.get((peer, key)), policy.rules.peers.get(peer, (None, None))[index]),
            ("peer", None, self.rules.get((peer, direction))),
            ("policy default", policy.lines.get((None, key)), (policy.rules.inbound, policy.rules.outbound)[index]),
        ]
        now = datetime.now(UTC)
        return [
            Ended(layer, line, rule.until)
            for layer, line, rule in candidates
            if rule is not None and rule.until is not None and rule.until <= now
        ]


class Ended(NamedTuple):
    """A rule that has ended: where it stands, and since when."""

    layer: str
    line: int | None
    until: datetime


def explain(
    peer: Annotated[str, typer.Argument(metavar="PEER", help="The peer: its id, or its name in one of the files.")],
    *,
    type: Type = None,
    direction: Directions = "both",
    policy: PolicyFile = None,
    state: StateFile = None,
) -> None:
    """Explain what becomes of a peer's requests.

    By which rule of a policy file, a state file, or both, in a peer that `listen` runs.
    """
    in_force = _read(policy, state)
    its = read_names(in_force.policy, state).find(peer)
    record: dict[str, Any] = {
        **output.peer_record(its),
        "mode": in_force.policy.mode,
        "type": type,
        "connections": _connections(in_force, its),
        "approval": {"approvers": sorted(map(str, in_force.policy.approvers)), "need": in_force.policy.need},
    }
    rows = [["peer", f"{its}" if record["name"] is None else f"{record['name']}  {its}"]]
    rows += _connection_rows(record["connections"])
    for way in Direction[direction.upper()]:
        decision = in_force.decide(its, way, type)
        ended = in_force.ended(its, way)
        record[direction_word(way)] = {
            **_decision(decision),
            "ended": [{**one._asdict(), "until": one.until.isoformat()} for one in ended],
        }
        rows.append([direction_word(way), _decision_text(decision, type)])
        rows += [["", f"passed over: a rule of {place_text(one.layer, one.line)}, which has ended"] for one in ended]
        if way is Direction.INBOUND:
            record["limits"] = _limits(in_force.policy, its, type)
            rows.append(["limits", _limits_text(record["limits"], type)])
    if approvers := in_force.policy.approvers:
        rows.append(["approval", f"{in_force.policy.need} of {', '.join(sorted(map(output.who, approvers)))}"])
    if in_force.policy.mode == "observe":
        rows.append(["mode", "the policy is only observed: all that it says here decides nothing"])
    output.result(record, "\n".join(columns(rows)))


def who(
    *,
    type: Annotated[
        str, typer.Option("--type", metavar="TYPE", help="The type of the request, or the protocol id of the stream.")
    ],
    direction: Directions = "inbound",
    policy: PolicyFile = None,
    state: StateFile = None,
) -> None:
    """List who may send requests of a type.

    Those that pass, and those that are a question, with the rules that say so.
    """
    in_force = _read(policy, state)
    rows = [["PEER", "NAME", "DIRECTION", "VERDICT", "BY"]]
    records: list[dict[str, Any]] = []
    for peer in (*sorted(in_force.peers, key=str), None):
        for way in Direction[direction.upper()]:
            decision = in_force.decide(peer or NOBODY, way, type)
            if decision.verdict is Verdict.REJECT:
                continue
            its = {"peer": None, "name": None} if peer is None else output.peer_record(peer)
            records.append({**its, "direction": direction_word(way), **_decision(decision)})
            cells = [its["peer"] or "all others", its["name"] or "-", direction_word(way), records[-1]["verdict"]]
            rows.append([*cells, place_text(decision.layer, decision.line)])
    if not records:
        output.note("nobody")
        return
    heading, *lines = columns(rows)
    output.note(heading)
    for record, line in zip(records, lines, strict=True):
        output.result(record, line)


def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The policy file.")],
) -> None:
    """Check a policy file, and run its tests.

    The types of a program's requests are not known here: a rule about one that there is none of is no error.
    """
    policy = Policy.load(file, wait=True)
    in_force = InForce(policy, None)
    ended = sorted(
        {one for peer in (*in_force.peers, NOBODY) for way in Direction for one in in_force.ended(peer, way)},
        key=lambda one: one.line or 0,
    )
    record = {
        "path": str(file),
        "mode": policy.mode,
        "peers": len(in_force.peers),
        "groups": len(policy.groups),
        "tests": policy.tests,
        "ended": [{"line": one.line, "until": one.until.isoformat()} for one in ended],
    }
    rows = [f"{file}: peers {record['peers']}, groups {record['groups']}, tests passed {record['tests']}"]
    rows += [f"line {one.line}: the rule ended at {date_text(one.until)}" for one in ended]
    if policy.mode == "observe":
        rows.append("the policy is only observed: it decides nothing")
    output.result(record, "\n".join(rows))


# -- as JSON, and in words -------------------------------------------------------------------------------


def _read(policy: Path | None, state: Path | None) -> InForce:
    """Raises PolicyError, StateError or UsageError."""
    if policy is None and state is None:
        raise UsageError("give what is in force: --policy FILE, --state FILE, or both")
    loaded = None if policy is None else Policy.load(policy, wait=True)
    remembered = None
    if state is not None:
        with Database(state, create=False) as database:
            remembered = FirewallTables(database).read()
    output.name_peers(read_names(loaded, state).name_of)
    return InForce(loaded, remembered)


def _connections(in_force: InForce, peer: PeerId) -> dict[str, Any]:
    refusal = in_force.refusal(peer)
    admission = in_force.policy.admission
    return {
        "allowed": refusal is None,
        "reason": None if refusal is None else refusal[0],
        "line": None if refusal is None else refusal[1],
        "allow_networks": [str(network) for network in admission.allow_networks],
        "deny_networks": [str(network) for network in admission.deny_networks],
        "relay": in_force.relay_mode(peer),
    }


def _connection_rows(connections: dict[str, Any]) -> list[list[str]]:
    if not connections["allowed"]:
        line = connections["line"]
        return [["connections", f"refused: {connections['reason']}{line_text(line)}"]]
    allowed, denied = connections["allow_networks"], connections["deny_networks"]
    where = [f"from and to {', '.join(allowed)} only"] if allowed else []
    where += [f"not from and to {', '.join(denied)}"] if denied else []
    where += [RELAYS[connections["relay"]]] if connections["relay"] in RELAYS else []
    return [["connections", "; ".join(["admitted", *where])]]


def _decision(decision: Decision) -> dict[str, Any]:
    rule = decision.rule
    return {
        "verdict": None if decision.verdict is None else decision.verdict.value,
        "layer": decision.layer,
        "line": decision.line,
        "rule": None if rule is None else stored_form(rule),
    }


def _decision_text(decision: Decision, type_name: str | None) -> str:
    verdict, rule, place = decision.verdict, decision.rule, place_text(decision.layer, decision.line)
    if rule is None:
        return f"{(verdict or Verdict.ASK).value}: {place}"
    if verdict is None or type_name is None:
        return f"{rule_text(rule)}: {place}"
    by = f": {rule_text(rule)}" if rule.types or rule.has_options else ""
    return f"{verdict.value} {type_text(type_name)}: {place}{by}"


def _limits(policy: Policy, peer: PeerId, type_name: str | None) -> dict[str, Any]:
    """Those of the peer's requests, and of those of the type."""
    own = policy.peer_limits.get(peer, NO_LIMIT)
    by_type = NO_LIMIT if type_name is None else policy.type_limits.get(type_name, NO_LIMIT)
    config = Config()
    return {
        **asdict(
            Limit(
                per_second=own.per_second or policy.requests_per_second or config.max_requests_per_second_per_peer,
                in_flight=own.in_flight or policy.requests_in_flight or config.max_requests_in_flight_per_peer,
                max_bytes=own.max_bytes,
            )
        ),
        "of_type": None if by_type == NO_LIMIT else asdict(by_type),
    }


def _limits_text(limits: dict[str, Any], type_name: str | None) -> str:
    units = {"per_second": "a second", "in_flight": "at once", "max_bytes": "bytes each"}

    def words(its: dict[str, Any]) -> str:
        return ", ".join(f"{its[key]:,g} {unit}" for key, unit in units.items() if its[key] is not None)

    of_type = limits["of_type"]
    return words(limits) + ("" if of_type is None else f"; of {type_text(type_name or '')} {words(of_type)}")
