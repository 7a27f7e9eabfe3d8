"""What a scenario is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from soak.processes import Processes

__all__ = ["Findings", "Options", "Scenario"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of the command line."""

    seconds: float
    peers: int
    loop: str
    """The listener's: asyncio or uvloop."""


@dataclass
class Findings:
    """What was measured, and what did not hold."""

    figures: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def tell(self, figure: str) -> None:
        self.figures.append(figure)

    def must(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.failures.append(otherwise)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One line of the output."""

    name: str
    what: str
    run: Callable[[Processes, Options, Findings], None]
    quick: bool = False
    """It shows within seconds, and belongs to ``--quick``."""
    allowed: tuple[str, ...] = ()
    """What lines of stderr may contain: none, or one of these."""
