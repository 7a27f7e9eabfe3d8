"""What a check has found. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

__all__ = ["MAX_SHOWN", "Diagnosis", "Finding", "Reach", "Verdict", "duration", "listed", "shortened", "some"]

Verdict: TypeAlias = Literal["ok", "note", "problem", "unknown", "skipped"]
"""``note``: no problem by itself, but good to know. ``unknown``: it could not be found out. ``skipped``: there was nothing to
check."""

Reach: TypeAlias = Literal["directly", "through a relay only", "not at all", "unknown"]
"""How peers in other networks can reach this machine."""

MAX_TEXT: Final = 200
"""Characters that are shown of a text that others may have made long."""

MAX_SHOWN: Final = 4
"""Of several addresses or peers, in one sentence."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a diagnosis."""

    check: str
    """Such as ``"interfaces"`` or ``"relay"``. Some have several findings: ``"relay"`` one for each relay."""
    verdict: Verdict
    what: str
    """The facts, in a sentence or two. May quote remotes."""
    advice: str | None = None
    """What to do; None: nothing."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """The same facts for programs: text, numbers, lists and mappings."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings, and what follows from them."""

    findings: tuple[Finding, ...]
    reach: Reach
    what: str
    """In a sentence or two: whether the given peer was reached, and how peers elsewhere can reach this machine."""
    advice: str | None

    @property
    def problems(self) -> int:
        """How many findings are problems."""
        return sum(finding.verdict == "problem" for finding in self.findings)


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def some(words: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = [f"{len(words) - MAX_SHOWN} more"] if len(words) > MAX_SHOWN else []
    return listed([*words[:MAX_SHOWN], *more])


def duration(seconds: float) -> str:
    """In the largest unit that fits, rounded."""
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = round(seconds / size)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{round(seconds)} s"


def shortened(text: object) -> str:
    """A text of others, cut."""
    shown = str(text)
    return shown if len(shown) <= MAX_TEXT else f"{shown[: MAX_TEXT - 1]}…"
