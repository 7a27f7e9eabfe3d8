"""The firewall's rules in words, and words in columns."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from ..firewall.rules import Rule, Verdict
from .text import escaped

__all__ = ["columns", "date_text", "line_text", "place_text", "rule_text", "type_text"]

LAYERS = {
    "policy peer": "the policy, for this peer",
    "peer": "the state file",
    "policy default": "the policy's default",
    "default": "what `listen` does by default",
    "none": "no rule, so a question about the peer",
    "connections": "no connection with the peer",
}


def rule_text(rule: Rule) -> str:
    """What a rule says, with its options, and what comes after its end."""
    lists = [
        f"{verdict.value} {', '.join(map(type_text, types))}"
        for verdict in (Verdict.ALLOW, Verdict.ASK, Verdict.REJECT)
        if (types := rule.named(verdict))
    ]
    others = rule.otherwise.value
    if not lists:
        text = others
    elif set(rule.types.values()) == {Verdict.ALLOW} and others == "reject":
        text = lists[0]
    else:
        text = "; ".join([*lists, f"{others} others"])
    if rule.until is not None:
        text += f" until {date_text(rule.until)}"
    text += "".join(f", {option}" for option in ("strict", "reasons") if getattr(rule, option))
    return text if rule.then is None else f"{text}; then {rule_text(rule.then)}"


def place_text(layer: str, line: int | None) -> str:
    """Where a rule stands."""
    return f"{LAYERS[layer]}{line_text(line)}"


def line_text(line: int | None) -> str:
    return "" if line is None else f" (line {line})"


def date_text(date: datetime) -> str:
    """A date in local time, with its offset."""
    return date.astimezone().isoformat(" ", "seconds")


def type_text(name: str) -> str:
    """The name of a type, which may have come from a remote."""
    shown = escaped(name)
    return shown if shown == name else f"'{shown}'"


def columns(rows: Iterable[Iterable[str]]) -> list[str]:
    """A line a row, with its cells below each other."""
    table = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
