"""The tables of a state file: rules from answers, and bans."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from ..errors import StateError
from ..events import Direction
from ..firewall.rules import Rule, Verdict
from ..identity import PeerId
from .database import Database

__all__ = ["FirewallTables", "Remembered", "stored_form"]


class Remembered(NamedTuple):
    """What a state file holds."""

    rules: dict[tuple[PeerId, Direction], Rule]
    """By peer and one direction."""
    banned: frozenset[PeerId]


class FirewallTables:
    """The tables ``rules`` and ``bans``. A method that changes something returns when the change is on disk; all raise
    StateError, as their database does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self) -> Remembered:
        """All of it, as it is at one moment."""
        with self._database.read() as connection:
            rules = connection.execute("SELECT peer, direction, rule FROM rules").fetchall()
            bans = connection.execute("SELECT peer FROM bans").fetchall()
        try:
            return Remembered(
                {
                    (PeerId(peer), _DIRECTIONS[direction]): _decode(rule)
                    for peer, direction, rule in msgspec.convert(rules, list[_RuleRow])
                },
                frozenset(PeerId(peer) for (peer,) in msgspec.convert(bans, list[tuple[bytes]])),
            )
        except (msgspec.MsgspecError, ValueError) as error:
            raise StateError(self._database.path, f"contains an invalid rule or ban: {error}") from error

    def set_rule(self, peer: PeerId, direction: Direction, rule: Rule | None) -> None:
        """Keeps the rule of a peer in each direction named; None removes it. A rule by a function cannot be kept: that
        is a StateError, too."""
        text = None if rule is None else self._encode(rule)
        with self._database.write() as connection:
            for name, side in _DIRECTIONS.items():
                if side not in direction:
                    continue
                if text is None:
                    connection.execute("DELETE FROM rules WHERE peer = ? AND direction = ?", (peer.to_bytes(), name))
                else:
                    connection.execute("INSERT OR REPLACE INTO rules VALUES (?, ?, ?)", (peer.to_bytes(), name, text))

    def set_banned(self, peer: PeerId, banned: bool) -> None:
        """Keeps a ban, or forgets it."""
        statement = "INSERT OR IGNORE INTO bans VALUES (?)" if banned else "DELETE FROM bans WHERE peer = ?"
        with self._database.write() as connection:
            connection.execute(statement, (peer.to_bytes(),))

    def _encode(self, rule: Rule) -> str:
        if rule.predicate is not None:
            raise StateError(self._database.path, "a rule with a predicate cannot be stored")
        try:
            return msgspec.json.encode(stored_form(rule)).decode()
        except UnicodeEncodeError as error:  # half of a surrogate pair
            raise StateError(
                self._database.path, "a rule with a type name that is not valid Unicode cannot be stored"
            ) from error


def stored_form(rule: Rule) -> str | list[str] | dict[str, Any]:
    """A rule that can be kept, as JSON has it: ``"allow"``, ``"reject"``, ``"ask"``; the types that pass, if that is all it
    says; or the types by what happens to them, and to others."""
    if not rule.types:
        return _WORDS[rule]
    by_word: dict[str, Any] = {word: names for word, verdict in _VERDICTS.items() if (names := rule.named(verdict))}
    if rule.otherwise is Verdict.ASK:
        by_word["otherwise"] = "ask"
    return by_word["allow"] if by_word.keys() == {"allow"} else by_word


class _ByType(msgspec.Struct, forbid_unknown_fields=True):
    """A rule by request type."""

    allow: list[str] = []
    ask: list[str] = []
    reject: list[str] = []
    otherwise: Literal["reject", "ask"] = "reject"


_DIRECTIONS = {"inbound": Direction.INBOUND, "outbound": Direction.OUTBOUND}
_RuleRow = tuple[bytes, Literal["inbound", "outbound"], str]

_VERDICTS = {"allow": Verdict.ALLOW, "ask": Verdict.ASK, "reject": Verdict.REJECT}
_WORDS = {Rule.ALLOW_ALL: "allow", Rule.REJECT_ALL: "reject", Rule.ASK: "ask"}
_RULES = {word: rule for rule, word in _WORDS.items()}
_DECODER = msgspec.json.Decoder(Literal["allow", "reject", "ask"] | list[str] | _ByType)


def _decode(text: str) -> Rule:
    """The rules without an argument are told apart by identity, so they must be the very objects. Raises MsgspecError, or
    ValueError."""
    match _DECODER.decode(text):
        case _ByType(allow, ask, reject, otherwise):
            return Rule.restricted(allow=allow, ask=ask, reject=reject, otherwise=otherwise)
        case list(allow):
            return Rule.restricted(allow=allow)
        case word:
            return _RULES[word]
