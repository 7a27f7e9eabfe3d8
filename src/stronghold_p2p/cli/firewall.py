"""``firewall``: show and edit a state file, also while a peer uses it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..events import Direction
from ..firewall.names import Names
from ..firewall.policy import Policy
from ..firewall.rule import left_at
from ..firewall.rules import Rule
from ..identity import PeerId
from ..store.database import Database
from ..store.firewall_tables import FirewallTables, Remembered, stored_form
from ..store.name_table import NameTable
from . import output
from .command import UsageError, group
from .explain import Directions, check, explain, who
from .names import PolicyFile, read_names
from .replay import replay
from .rule_options import For, Reasons, Strict, Until, with_options
from .rule_text import columns, line_text, rule_text
from .text import escaped

__all__ = ["firewall"]

State = Annotated[Path, typer.Option("--state", metavar="FILE", help="The state file.")]
Peer = Annotated[
    str, typer.Argument(metavar="PEER", help="The peer: its id, or its name in the state file or the policy.")
]


def list_(*, state: State, policy: PolicyFile = None) -> None:
    """List the peers that have a rule, a ban or a name."""
    names = read_names(policy, state)
    with Database(state, create=False) as database:
        remembered = FirewallTables(database).read().at(time.time())
    peers = {peer for peer, _ in remembered.rules} | remembered.banned | names.petnames.keys()
    if not peers:
        output.note("no rules, no bans and no names")
    else:
        _print(remembered, names, sorted(peers, key=str))


def allow(
    peer: Peer,
    *,
    state: State,
    policy: PolicyFile = None,
    direction: Directions = "inbound",
    types: Annotated[str | None, typer.Option(metavar="A,B", help="Allow only requests of these types.")] = None,
    until: Until = None,
    for_: For = None,
    strict: Strict = False,
    reasons: Reasons = False,
) -> None:
    """Allow a peer's requests."""
    rule = Rule.ALLOW_ALL if types is None else Rule.restricted(allow=_split("--types", types))
    _set_rule(peer, state, policy, direction, with_options(rule, until, for_, strict, reasons))


def reject(
    peer: Peer,
    *,
    state: State,
    policy: PolicyFile = None,
    direction: Directions = "inbound",
    until: Until = None,
    for_: For = None,
    strict: Strict = False,
    reasons: Reasons = False,
) -> None:
    """Reject a peer's requests."""
    _set_rule(peer, state, policy, direction, with_options(Rule.REJECT_ALL, until, for_, strict, reasons))


def ask(
    peer: Peer,
    *,
    state: State,
    policy: PolicyFile = None,
    direction: Directions = "inbound",
    until: Until = None,
    for_: For = None,
    strict: Strict = False,
    reasons: Reasons = False,
) -> None:
    """Ask about each request of a peer."""
    _set_rule(peer, state, policy, direction, with_options(Rule.ASK, until, for_, strict, reasons))


def restrict(
    peer: Peer,
    *,
    state: State,
    policy: PolicyFile = None,
    direction: Directions = "inbound",
    allow: Annotated[list[str] | None, typer.Option(metavar="A,B", help="Allow requests of these types.")] = None,
    ask: Annotated[list[str] | None, typer.Option(metavar="A,B", help="Ask about each request of these types.")] = None,
    reject: Annotated[list[str] | None, typer.Option(metavar="A,B", help="Reject requests of these types.")] = None,
    otherwise: Annotated[
        Literal["reject", "ask"], typer.Option(help="What happens to requests of other types, and without a type.")
    ] = "reject",
    until: Until = None,
    for_: For = None,
    strict: Strict = False,
    reasons: Reasons = False,
) -> None:
    """Allow, ask about or reject a peer's requests by type."""
    lists = {"allow": allow, "ask": ask, "reject": reject}
    types = {word: _split(f"--{word}", ",".join(names)) for word, names in lists.items() if names}
    if not types and otherwise == "reject":
        raise UsageError("give the types that are told apart: --allow, --ask or --reject")
    try:
        rule = Rule.restricted(**types, otherwise=otherwise)
    except ValueError as error:  # a type twice
        raise UsageError(
            str(error).replace("allow=", "--allow").replace("ask=", "--ask").replace("reject=", "--reject")
        ) from None
    _set_rule(peer, state, policy, direction, with_options(rule, until, for_, strict, reasons))


def remove(peer: Peer, *, state: State, policy: PolicyFile = None, direction: Directions = "both") -> None:
    """Remove a peer's rule; the default applies again."""
    sides = Direction[direction.upper()]

    def change(database: Database, names: Names, its: PeerId) -> None:
        if not any((its, side) in FirewallTables(database).read().rules for side in sides):
            output.note(f"{output.who(its)} has no rule to remove")
        FirewallTables(database).set_rule(its, sides, None)

    _edit(peer, state, policy, change, create=False)


def ban(peer: Peer, *, state: State, policy: PolicyFile = None) -> None:
    """Ban a peer: no connections, in either direction."""
    _edit(peer, state, policy, lambda database, _, its: FirewallTables(database).set_banned(its, True), create=True)


def unban(peer: Peer, *, state: State, policy: PolicyFile = None) -> None:
    """Lift a peer's ban; its rules stay."""

    def change(database: Database, names: Names, its: PeerId) -> None:
        if its not in FirewallTables(database).read().banned:
            output.note(f"{output.who(its)} has no ban to lift")
        FirewallTables(database).set_banned(its, False)

    _edit(peer, state, policy, change, create=False)


def name(
    peer: Peer,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The name, for people, and wherever a command takes a peer.")
    ],
    *,
    state: State,
    policy: PolicyFile = None,
) -> None:
    """Give a peer a name, or another one.

    No two peers may have the same name, or names that look alike. If the policy has a name for the peer, that is shown.
    """

    def check(names: Names, its: PeerId) -> None:
        names.check(its, name)
        names.set_petname(its, name)

    _edit(peer, state, policy, lambda database, _, its: NameTable(database).set(its, name), create=True, check=check)


def unname(peer: Peer, *, state: State, policy: PolicyFile = None) -> None:
    """Take a peer's name away; a name in the policy stays."""

    def change(database: Database, names: Names, its: PeerId) -> None:
        if its not in names.petnames:
            output.note(f"{output.who(its)} has no name to take away")
        names.set_petname(its, None)
        NameTable(database).set(its, None)

    _edit(peer, state, policy, change, create=False)


firewall = group(
    "firewall",
    "Show and edit the rules, bans and names in a state file, which a running peer applies within a second; and ask a"
    " policy file and a state file what they say.",
    *(list_, allow, reject, ask, restrict, remove, ban, unban, name, unname, explain, who, check, replay),
)


def _set_rule(
    peer: str, state: Path, policy: Path | None, direction: Literal["inbound", "outbound", "both"], rule: Rule
) -> None:
    sides = Direction[direction.upper()]
    its, loaded = _edit(
        peer, state, policy, lambda database, _, its: FirewallTables(database).set_rule(its, sides, rule), create=True
    )
    for side, own in zip(("inbound", "outbound"), loaded.rules.peers.get(its, (None, None)), strict=True):
        if direction in (side, "both") and loaded.mode == "enforce" and left_at(own, time.time()) is not None:
            line = loaded.lines.get((its, side))
            output.note(f"the {side} rule that the policy has for {output.who(its)} goes first{line_text(line)}")


def _edit(
    peer: str,
    state: Path,
    policy: Path | None,
    change: Callable[[Database, Names, PeerId], object],
    *,
    create: bool,
    check: Callable[[Names, PeerId], None] = lambda names, its: None,
) -> tuple[PeerId, Policy]:
    """Changes what the file holds about a peer, and prints what it holds now. ``check`` comes before a file is made. Returns the peer,
    and the policy, which is empty if there is none."""
    loaded = Policy() if policy is None else Policy.load(policy, wait=True)
    names = read_names(loaded, state if state.exists() or not create else None)
    output.name_peers(names.name_of)
    its = names.find(peer)
    check(names, its)
    with Database(state, create=create) as database:
        change(database, names, its)
        remembered = FirewallTables(database).read().at(time.time())
    _print(remembered, names, [its])
    return its, loaded


def _split(option: str, types: str) -> set[str]:
    names = {name.strip() for name in types.split(",")}
    if "" in names:
        raise UsageError(f"{option} takes names separated by commas, not {types!r}")
    try:
        types.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{option} takes names in UTF-8, not {types!r}") from None
    return names


def _print(remembered: Remembered, names: Names, peers: Iterable[PeerId]) -> None:
    """A line a peer; for people, in columns with a heading."""
    rows: list[tuple[str, str | None, Rule | None, Rule | None, bool]] = [
        (
            str(peer),
            names.name_of(peer),
            remembered.rules.get((peer, Direction.INBOUND)),
            remembered.rules.get((peer, Direction.OUTBOUND)),
            peer in remembered.banned,
        )
        for peer in peers
    ]
    heading, *lines = columns([["PEER", "NAME", "INBOUND", "OUTBOUND", "BANNED"], *(map(_cell, row) for row in rows)])
    output.note(heading)
    for row, line in zip(rows, lines, strict=True):
        values = (stored_form(value) if isinstance(value, Rule) else value for value in row)
        output.result(dict(zip(("peer", "name", "inbound", "outbound", "banned"), values, strict=True)), line)


def _cell(value: object) -> str:
    match value:
        case None | False:
            return "-"
        case True:
            return "yes"
        case Rule():
            return rule_text(value)
    return escaped(str(value))
