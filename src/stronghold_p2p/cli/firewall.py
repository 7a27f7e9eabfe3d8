"""``firewall``: show and edit a state file, also while a peer uses it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..events import Direction
from ..firewall.rules import Rule
from ..identity import PeerId
from ..store.database import Database
from ..store.firewall_tables import FirewallTables, Remembered, stored_form
from . import output
from .command import UsageError, add_command
from .text import escaped

__all__ = ["firewall"]

firewall = typer.Typer(
    name="firewall",
    help="Show and edit the rules and bans in a state file. A running peer applies changes within a second.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

State = Annotated[Path, typer.Option("--state", metavar="FILE", help="The state file.")]
Peer = Annotated[str, typer.Argument(metavar="PEER", help="The peer id.")]
Directions = Annotated[
    Literal["inbound", "outbound", "both"],
    typer.Option("--direction", help="The peer's requests (inbound), ours to it (outbound), or both."),
]


def list_(*, state: State) -> None:
    """List the peers that have a rule or a ban."""
    with Database(state, create=False) as database:
        remembered = FirewallTables(database).read()
    peers = {peer for peer, _ in remembered.rules} | remembered.banned
    if not peers:
        output.note("no rules and no bans")
    else:
        _print(remembered, sorted(peers, key=str))


def allow(
    peer: Peer,
    *,
    state: State,
    direction: Directions = "both",
    types: Annotated[str | None, typer.Option(metavar="A,B", help="Allow only requests of these types.")] = None,
) -> None:
    """Allow a peer's requests."""
    _set_rule(
        state, peer, direction, Rule.ALLOW_ALL if types is None else Rule.restricted(allow=_split("--types", types))
    )


def reject(peer: Peer, *, state: State, direction: Directions = "both") -> None:
    """Reject a peer's requests."""
    _set_rule(state, peer, direction, Rule.REJECT_ALL)


def ask(peer: Peer, *, state: State, direction: Directions = "both") -> None:
    """Ask about each request of a peer."""
    _set_rule(state, peer, direction, Rule.ASK)


def restrict(
    peer: Peer,
    *,
    state: State,
    direction: Directions = "both",
    allow: Annotated[list[str] | None, typer.Option(metavar="A,B", help="Allow requests of these types.")] = None,
    ask: Annotated[list[str] | None, typer.Option(metavar="A,B", help="Ask about each request of these types.")] = None,
    reject: Annotated[list[str] | None, typer.Option(metavar="A,B", help="Reject requests of these types.")] = None,
    otherwise: Annotated[
        Literal["reject", "ask"], typer.Option(help="What happens to requests of other types, and without a type.")
    ] = "reject",
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
    _set_rule(state, peer, direction, rule)


def remove(peer: Peer, *, state: State, direction: Directions = "both") -> None:
    """Remove a peer's rule; the default applies again."""
    _set_rule(state, peer, direction, None)


def ban(peer: Peer, *, state: State) -> None:
    """Ban a peer: no connections, in either direction."""
    _set_banned(state, peer, True)


def unban(peer: Peer, *, state: State) -> None:
    """Lift a peer's ban; its rules stay."""
    _set_banned(state, peer, False)


add_command(firewall, list_, "list")
for function in (allow, reject, ask, restrict, remove, ban, unban):
    add_command(firewall, function)


def _set_rule(state: Path, peer: str, direction: Literal["inbound", "outbound", "both"], rule: Rule | None) -> None:
    its = PeerId.parse(peer)
    with Database(state, create=rule is not None) as database:
        tables = FirewallTables(database)
        tables.set_rule(its, Direction[direction.upper()], rule)
        _print(tables.read(), [its])


def _set_banned(state: Path, peer: str, banned: bool) -> None:
    its = PeerId.parse(peer)
    with Database(state, create=banned) as database:
        tables = FirewallTables(database)
        tables.set_banned(its, banned)
        _print(tables.read(), [its])


def _split(option: str, types: str) -> set[str]:
    names = {name.strip() for name in types.split(",")}
    if "" in names:
        raise UsageError(f"{option} takes names separated by commas, not {types!r}")
    try:
        types.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{option} takes names in UTF-8, not {types!r}") from None
    return names


def _print(remembered: Remembered, peers: Iterable[PeerId]) -> None:
    """A line a peer; for people, in columns with a heading."""
    records = [
        {
            "peer": str(peer),
            "inbound": _stored(remembered, peer, Direction.INBOUND),
            "outbound": _stored(remembered, peer, Direction.OUTBOUND),
            "banned": peer in remembered.banned,
        }
        for peer in peers
    ]
    heading, *rows = _columns([["PEER", "INBOUND", "OUTBOUND", "BANNED"], *(map(_cell, r.values()) for r in records)])
    output.note(heading)
    for record, row in zip(records, rows, strict=True):
        output.result(record, row)


def _stored(remembered: Remembered, peer: PeerId, direction: Direction) -> object:
    rule = remembered.rules.get((peer, direction))
    return None if rule is None else stored_form(rule)


def _cell(value: object) -> str:
    match value:
        case None | False:
            return "-"
        case True:
            return "yes"
        case list():
            return f"allow {', '.join(map(_type, value))}"
        case dict(words):
            lists = [f"{word} {', '.join(map(_type, types))}" for word, types in words.items() if word != "otherwise"]
            return f"{'; '.join(lists)}; {words.get('otherwise', 'reject')} others"
    return str(value)


def _type(name: str) -> str:
    """It may have come from a remote."""
    shown = escaped(name)
    return shown if shown == name else f"'{shown}'"


def _columns(rows: Iterable[Iterable[str]]) -> list[str]:
    table = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
