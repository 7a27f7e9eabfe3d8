"""The tables of a state file: rules from answers, and bans."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

import msgspec

from ..errors import StateError
from ..events.direction import DIRECTIONS, Direction, direction_word
from ..firewall.rule import RULES, Rule, Verdict, left_at
from ..identity import PeerId
from .database import Database

__all__ = ["FirewallTables", "Remembered", "stored_form"]

READ_RULES: Final = """
SELECT peer, direction, coalesce(rules_with_options.rule, rules.rule)
FROM rules LEFT JOIN rules_with_options USING (peer, direction)
"""

INSTEAD_OF_ENDS: Final = '"reject"'
"""What a process of an older version, which has the file open, goes by where a rule has an end: it would never end it."""


class Remembered(NamedTuple):
    """What a state file holds."""

    rules: dict[tuple[PeerId, Direction], Rule]
    """By peer and one direction. Some may have ended."""
    banned: frozenset[PeerId]

    def at(self, now: float) -> Remembered:
        """The same without what has ended ``now``, in seconds since 1970."""
        left = {key: left_at(rule, now) for key, rule in self.rules.items()}
        return self._replace(rules={key: rule for key, rule in left.items() if rule is not None})


class FirewallTables:
    """The tables ``rules``, ``rules_with_options`` and ``bans``. A method that changes something returns when the change is on
    disk; all raise StateError, as their database does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self) -> Remembered:
        """All of it, as it is at one moment."""
        with self._database.read() as connection:
            rules = connection.execute(READ_RULES).fetchall()
            bans = connection.execute("SELECT peer FROM bans").fetchall()
        with self._database.decoding("rule or ban"):
            return Remembered(
                {
                    (PeerId(peer), DIRECTIONS[direction]): _decode(rule)
                    for peer, direction, rule in msgspec.convert(rules, list[_RuleRow])
                },
                frozenset(PeerId(peer) for (peer,) in msgspec.convert(bans, list[tuple[bytes]])),
            )

    def set_rule(self, peer: PeerId, direction: Direction, rule: Rule | None) -> None:
        """Keeps the rule of a peer in each direction named; None removes it. A rule by a function cannot be kept: that
        is a StateError, too."""
        with self._database.write() as connection:
            for side in direction:
                self._set_rule(connection, (peer.to_bytes(), direction_word(side)), rule)

    def drop_ended(self, ends: Mapping[tuple[PeerId, Direction], float]) -> None:
        """Removes of each rule what has ended up to a date, in seconds since 1970. What others have set since stays."""
        with self._database.write() as connection:
            for (peer, direction), end in ends.items():
                key = (peer.to_bytes(), direction_word(direction))
                row = connection.execute(f"{READ_RULES} WHERE peer = ? AND direction = ?", key).fetchone()
                if row is None:
                    continue
                with self._database.decoding("rule or ban"):
                    rule = _decode(msgspec.convert(row, _RuleRow)[-1])
                if (left := left_at(rule, end)) is not rule:
                    self._set_rule(connection, key, left)

    def set_banned(self, peer: PeerId, banned: bool) -> None:
        """Keeps a ban, or forgets it."""
        statement = "INSERT OR IGNORE INTO bans VALUES (?)" if banned else "DELETE FROM bans WHERE peer = ?"
        with self._database.write() as connection:
            connection.execute(statement, (peer.to_bytes(),))

    def _set_rule(self, connection: sqlite3.Connection, key: tuple[bytes, str], rule: Rule | None) -> None:
        if rule is None:  # a trigger removes the options
            connection.execute("DELETE FROM rules WHERE peer = ? AND direction = ?", key)
            return
        alone = INSTEAD_OF_ENDS if rule.until is not None else self._encode(rule.replace(strict=False, reasons=False))
        connection.execute("INSERT OR REPLACE INTO rules VALUES (?, ?, ?)", (*key, alone))
        if rule.has_options:
            connection.execute("INSERT INTO rules_with_options VALUES (?, ?, ?)", (*key, self._encode(rule)))

    def _encode(self, rule: Rule) -> str:
        if any(each.predicate is not None for each in rule.chain):
            raise StateError(self._database.path, "a rule with a predicate cannot be stored")
        try:
            return msgspec.json.encode(stored_form(rule)).decode()
        except UnicodeEncodeError as error:  # half of a surrogate pair
            raise StateError(
                self._database.path, "a rule with a type name that is not valid Unicode cannot be stored"
            ) from error


def stored_form(rule: Rule) -> str | list[str] | dict[str, Any]:
    """A rule that can be kept, as JSON has it: ``"allow"``, ``"reject"``, ``"ask"``; the types that pass, if that is all it
    says; or the types by what happens to them, and to others. With options it is a table, which has the first three as
    ``"rule"``."""
    form = _without_options(rule)
    if not rule.has_options:
        return form
    options: dict[str, Any] = {"strict": rule.strict, "reasons": rule.reasons}
    if rule.until is not None:
        options["until"] = rule.until.isoformat()
    if rule.then is not None:
        options["then"] = stored_form(rule.then)
    match form:
        case str():
            form = {"rule": form}
        case list():
            form = {"allow": form}
    return form | {name: value for name, value in options.items() if value}


def _without_options(rule: Rule) -> str | list[str] | dict[str, Any]:
    if not rule.types:
        return rule.otherwise.value
    by_word: dict[str, Any] = {one.value: names for one in Verdict if (names := rule.named(one))}
    if rule.otherwise is Verdict.ASK:
        by_word["otherwise"] = "ask"
    return by_word["allow"] if by_word.keys() == {"allow"} else by_word


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    """A rule by request type, or one with options."""

    rule: _Word | None = None
    allow: list[str] = []
    ask: list[str] = []
    reject: list[str] = []
    otherwise: Literal["reject", "ask"] | None = None
    until: datetime | None = None
    then: _Form | None = None
    strict: bool = False
    reasons: bool = False


_Word = Literal["allow", "reject", "ask"]
_Form = _Word | list[str] | _Table

_RuleRow = tuple[bytes, Literal["inbound", "outbound"], str]

_DECODER = msgspec.json.Decoder(_Form)


def _decode(text: str) -> Rule:
    """Raises MsgspecError, or ValueError."""
    return _rule(_DECODER.decode(text))


def _rule(form: _Form) -> Rule:
    """The rules without an argument are told apart by identity, so they must be the very objects."""
    if isinstance(form, str):
        return RULES[form]
    if isinstance(form, list):
        return Rule.restricted(allow=form)
    by_type = Rule.restricted(allow=form.allow, ask=form.ask, reject=form.reject, otherwise=form.otherwise or "reject")
    if form.rule is not None and by_type != Rule.REJECT_ALL:
        raise ValueError(f'"rule" is {form.rule!r}, so there can be no types')
    rule = by_type if form.rule is None else RULES[form.rule]
    rule = rule.replace(strict=form.strict, reasons=form.reasons)
    if form.until is not None:
        return rule.ending(form.until, None if form.then is None else _rule(form.then))
    if form.then is not None:
        raise ValueError('"then" without "until"')
    return rule
