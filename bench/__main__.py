"""Every system in turn, in one run: `make bench`. Writes docs/BENCHMARKS.md and its charts.

    python -m bench [--rounds 3] [--seconds 2] [--only "SYSTEM;SYSTEM"] [--no-write]

In each round every system does the same work right after the other, so that the machine's moods meet all of them;
a figure is the median of the rounds. A system that cannot be built fails the run, unless --only leaves it out.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections import defaultdict
from typing import Any

from bench import limit, relays, report
from bench.cases import CASES, COMPILED, LIMIT, OURS, Case
from bench.systems import SYSTEMS, System

Figures = dict[str, dict[str, list[dict[str, Any]]]]
"""By case and by system: what each round measured."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed, side by side with other systems.")
    parser.add_argument("--rounds", type=int, default=3, help="figures are medians of these (default: 3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement (default: 2)")
    parser.add_argument("--only", help="names of systems, separated by semicolons (default: all)")
    parser.add_argument("--no-write", action="store_true", help="leave docs/BENCHMARKS.md as it is")
    arguments = parser.parse_args()
    names = arguments.only.split(";") if arguments.only else [system.name for system in SYSTEMS]
    if unknown := set(names) - {system.name for system in SYSTEMS}:
        parser.error(f"no such system: {', '.join(sorted(unknown))}")
    systems = [system for system in SYSTEMS if system.name in names]
    for system in systems:
        system.command()  # all are built before anything is measured
    measured = measure(systems, arguments.rounds, arguments.seconds)
    relayed = relays.measure(systems, arguments.rounds, arguments.seconds)
    more = {system.name: system.scale() for system in systems if system.name in {OURS, COMPILED}}
    versions = {system.name: system.ask("version") for system in systems}
    result = report.Result(arguments.rounds, medians(measured), more, versions, relayed)
    print(report.text(result))
    if not arguments.no_write:
        report.write(result)


def measure(systems: list[System], rounds: int, seconds: float) -> Figures:
    measured: Figures = defaultdict(lambda: defaultdict(list))
    for number in range(rounds):
        for case in CASES:
            print(f"round {number + 1} of {rounds}: {case.name}", file=sys.stderr)
            if case.limit is not None:
                reached = limit.measure(case.limit, limit.default_loop(), seconds)
                measured[case.name][LIMIT].append({case.figure: reached})
            for system in systems:
                if system.does(case.mode):
                    measured[case.name][system.name].append(measure_one(system, case, seconds))
    return measured


def measure_one(system: System, case: Case, seconds: float) -> dict[str, Any]:
    options = (*case.options, "--seconds", str(seconds)) if case.is_timed else case.options
    try:
        with system.serving(case.serve) as address:
            figures = system.ask(case.mode, address, *options)
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        raise SystemExit(f"{system.name} failed at {case.name}: {error}") from error
    if case.mode == "perf":
        figures["mb_per_second"] = 2e9 / 1e6 / (figures["upload_seconds"] + figures["download_seconds"])
    return figures


def medians(measured: Figures) -> dict[str, dict[str, float]]:
    """The median of the figure that counts, by case and by system."""
    return {
        case.name: {
            name: statistics.median(figures[case.figure] for figures in rounds)
            for name, rounds in measured[case.name].items()
        }
        for case in CASES
    }


if __name__ == "__main__":
    main()
