"""The firewall's rules in words, and words in columns."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from ..firewall.rules import Rule, Verdict
from .text import escaped

__all__ = ["VERDICTS", "columns", "date_text", "line_text", "place_text", "rule_text", "type_text"]

VERDICTS = {Verdict.ALLOW: "allow", Verdict.REJECT: "reject", Verdict.ASK: "ask"}

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
    parts = [
        f"{word} {', '.join(map(type_text, names))}"
        for verdict, word in VERDICTS.items()
        if (names := rule.named(verdict))
    ]
    text = "; ".join((*parts, f"{VERDICTS[rule.otherwise]} others")) if parts else VERDICTS[rule.otherwise]
    if rule.until is not None:
        text += f", until {date_text(rule.until)}"
    for option in ("strict", "reasons"):
        text += f", {option}" if getattr(rule, option) else ""
    return text if rule.then is None else f"{text}, then {rule_text(rule.then)}"


def place_text(layer: str, line: int | None) -> str:
    """Where a rule stands."""
    return f"{LAYERS[layer]}{line_text(line)}"


def line_text(line: int | None) -> str:
    return "" if line is None else f" (line {line})"


def date_text(date: datetime) -> str:
    """A date in UTC."""
    return f"{date:%Y-%m-%d %H:%M:%S} UTC"


def type_text(name: str) -> str:
    """The name of a type, which may have come from a remote."""
    shown = escaped(name)
    return shown if shown == name else f"'{shown}'"


def columns(rows: Iterable[Iterable[str]]) -> list[str]:
    """A line a row, with its cells below each other."""
    table = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
