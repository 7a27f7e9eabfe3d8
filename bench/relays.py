"""Requests through a relay: ours, go-libp2p's and rust-libp2p's, all forwarding between the same two peers of ours.

    python -m bench.relays [--rounds 3] [--seconds 2]

In each round the same work is done directly, too: what is held against a goal is the worst ratio of one round.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from bench.cases import CASES, COMPILED, OURS, Case
from bench.systems import SYSTEMS, System

__all__ = ["DIRECT", "GOALS", "OUR_RELAY", "Figures", "Goal", "measure", "medians"]

DIRECT = "no relay"
OUR_RELAY = "stronghold-p2p"
"""The same build as the peers."""
OTHERS = ("go-libp2p", "rust-libp2p")

WORKS = ("64 bytes, 32 in flight", "1 MB raw, 4 in flight")

Figures = Mapping[str, Mapping[str, Mapping[str, list[float]]]]
"""By case, by build of ours, and by relay: the figure of each round."""


@dataclass(frozen=True)
class Goal:
    """The figure through our relay is to be ``factor`` times the best one by way of ``others`` in each round."""

    case: str
    others: tuple[str, ...]
    factor: float

    def ratio(self, ours: str, figures: Figures) -> float | None:
        """The worst one of a round; None if it was not measured."""
        relays = figures[self.case].get(ours, {})
        if not {OUR_RELAY, *self.others} <= relays.keys():
            return None
        rounds = zip(relays[OUR_RELAY], *(relays[other] for other in self.others), strict=True)
        ratios: list[float] = [own / max(others) for own, *others in rounds]
        return min(ratios)

    def reached(self, ratio: float) -> bool:
        return ratio >= self.factor


GOALS = (
    Goal(WORKS[0], (DIRECT,), 0.5),
    Goal(WORKS[0], OTHERS, 1.0),
    Goal(WORKS[1], (DIRECT,), 0.4),
    Goal(WORKS[1], OTHERS, 1.0),
)


def measure(systems: Iterable[System], rounds: int, seconds: float) -> Figures:
    """What those of ours among ``systems`` reach, directly and through each of those that can be relays."""
    named = {system.name: system for system in systems}
    works = [case for case in CASES if case.name in WORKS]
    figures: dict[str, dict[str, dict[str, list[float]]]] = {
        case.name: defaultdict(lambda: defaultdict(list)) for case in works
    }
    for number in range(rounds):
        for case in works:
            print(f"round {number + 1} of {rounds}: {case.name}, relayed", file=sys.stderr)
            for ours in (named[name] for name in (OURS, COMPILED) if name in named):
                relays = {DIRECT: None, OUR_RELAY: ours, **{name: named[name] for name in OTHERS if name in named}}
                for name, relay in relays.items():
                    figures[case.name][ours.name][name].append(measure_one(ours, relay, case, seconds))
    return figures


def measure_one(ours: System, relay: System | None, case: Case, seconds: float) -> float:
    """Between two peers of ``ours``; ``relay``: None is none."""
    try:
        with ExitStack() as stack:
            via = () if relay is None else ("--via-relay", stack.enter_context(relay.serving("relay")).address)
            listener = stack.enter_context(ours.serving("serve", *via))
            measured = ours.measure(listener, "measure", *case.options, "--seconds", str(seconds))
            figure: float = measured.figures[case.figure]
            return figure
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        through = "directly" if relay is None else f"through {relay.name}"
        raise SystemExit(f"{ours.name} failed at {case.name} {through}: {error}") from error


def medians(figures: Figures, case: str, relay: str) -> list[float | None]:
    """Of pure Python, and of the compiled build; None: not measured."""
    rounds = [figures[case].get(ours, {}).get(relay) for ours in (OURS, COMPILED)]
    return [None if measured is None else statistics.median(measured) for measured in rounds]


def main() -> None:
    from bench import report

    parser = argparse.ArgumentParser(description="Requests through a relay, beside direct ones.")
    parser.add_argument("--rounds", type=int, default=3, help="the worst ratio of these counts (default: 3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement (default: 2)")
    arguments = parser.parse_args()
    relays = [system for system in SYSTEMS if "relay" in system.does]
    for system in relays:
        system.command()  # all are built before anything is measured
    print(report.relayed(measure(relays, arguments.rounds, arguments.seconds)))


if __name__ == "__main__":
    main()
