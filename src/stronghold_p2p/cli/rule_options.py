"""``--until``, ``--for``, ``--strict`` and ``--reasons``: what a command says about a rule besides what it allows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from ..firewall.rules import Rule
from .command import UsageError

__all__ = ["For", "Reasons", "Strict", "Until", "with_options"]

Until = Annotated[
    str | None,
    typer.Option(
        "--until",
        metavar="DATE",
        help="The rule ends then, such as 2027-01-31 or 2027-01-31T18:00+01:00; without an offset, in local time.",
    ),
]
For = Annotated[float | None, typer.Option("--for", metavar="SECONDS", help="The rule ends after so many seconds.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Running handlers, and streams, that the rule has let in end with it.")
]
Reasons = Annotated[bool, typer.Option("--reasons", help="The peer may be told why it was rejected.")]


def with_options(rule: Rule, until: str | None, for_: float | None, strict: bool, reasons: bool) -> Rule:
    """The rule with what the options say.

    Raises:
        UsageError: there are two ends, or the end is no date or not in the future.
    """
    if until is not None and for_ is not None:
        raise UsageError("give either --until or --for, not both")
    end = _date(until) if until is not None else _date_after(for_) if for_ is not None else None
    return rule.replace(until=end, strict=strict, reasons=reasons)


def _date(text: str) -> datetime:
    try:
        date = datetime.fromisoformat(text)
        end = date.astimezone(UTC)  # local time, if there is no offset
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"--until takes a date such as 2027-01-31T18:00+01:00, not {text!r}") from None
    if end <= datetime.now(UTC):
        raise UsageError(f"--until {text} has passed: a rule must end in the future")
    return end


def _date_after(seconds: float) -> datetime:
    if not seconds > 0:
        raise UsageError(f"--for takes seconds above 0, not {seconds}")
    try:
        return datetime.now(UTC) + timedelta(seconds=seconds)
    except OverflowError:
        raise UsageError(
            f"--for {seconds} leads beyond the year 9999: leave it out for a rule without an end"
        ) from None
