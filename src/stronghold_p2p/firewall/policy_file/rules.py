"""The rules of a policy file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final, Literal

from ..rule import RULES, Rule
from .tables import Table
from .values import date, exactly, one_of, shown, type_name

__all__ = ["read_rule"]

BY_TYPE: Final = ("allow", "ask", "reject", "otherwise")
OPTIONS: Final = ("until", "strict", "reasons")
OTHERWISE: Final[Mapping[str, Literal["reject", "ask"]]] = {"reject": "reject", "ask": "ask"}


def read_rule(table: Table, name: str) -> Rule | None:
    """The rule that the key ``name`` has; None if it is missing."""
    value = table.values.get(name)
    if isinstance(value, dict):
        return _from_table(table.table(name))
    if not isinstance(value, list):
        return table.take(name, _word)
    if not value:
        raise table.error('an empty list lets nothing pass; write "reject"', name)
    return Rule.restricted(allow=_types(table, name))


def _from_table(table: Table) -> Rule:
    table.check_keys("rule", *BY_TYPE, *OPTIONS)
    rule = _by_type(table) if "rule" not in table.values else _whole(table)
    return rule.replace(
        until=table.take("until", date),
        strict=table.take("strict", partial(exactly, bool)) or False,
        reasons=table.take("reasons", partial(exactly, bool)) or False,
    )


def _whole(table: Table) -> Rule:
    for name in BY_TYPE:
        if name in table.values:
            raise table.error("rule is about all types: leave out one of the two", name)
    rule = table.take("rule", partial(one_of, RULES))
    assert rule is not None
    return rule


def _by_type(table: Table) -> Rule:
    if not any(table.values.get(name) for name in ("allow", "ask", "otherwise")):
        raise table.error('it lets nothing pass; write "reject"')
    named: dict[str, str] = {}
    for word in ("allow", "ask", "reject"):
        for index, name in enumerate(_types(table, word)):
            if named.setdefault(name, word) != word:
                raise table.error(f"{name!r} is also in {named[name]}", word, index)
    return Rule.restricted(
        allow=_types(table, "allow"),
        ask=_types(table, "ask"),
        reject=_types(table, "reject"),
        otherwise=table.take("otherwise", partial(one_of, OTHERWISE)) or "reject",
    )


def _types(table: Table, name: str) -> tuple[str, ...]:
    """A list of request types; empty if missing."""
    return table.items(name, partial(type_name, table.file.types))


def _word(value: object) -> Rule:
    rule = RULES.get(value) if isinstance(value, str) else None
    if rule is None:
        raise ValueError(
            f'must be "allow", "reject", "ask", a list of types, or a table of such lists, not {shown(value)}'
        )
    return rule
