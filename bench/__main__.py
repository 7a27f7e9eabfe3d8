"""Every system in turn, in one run: `make bench`. Writes docs/BENCHMARKS.md and its charts.

    python -m bench [--rounds 3] [--seconds 0.8] [--no-write]
    python -m bench [--quick] [--only "SYSTEM;SYSTEM"] [--cases "CASE;CASE"]

In each round every system does the same work right after the other, so that the machine's moods meet all of them;
figures are medians of the rounds, and goals are held against the ratio in the worst round. A system that cannot be built
fails the run, unless it is left out. A part of the bench alone is printed, and not written.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable

from bench import limit, programs, relays, report
from bench.cases import CASES, COMPILED, GIGABYTE, LIMIT, OURS, RIVALS, Case
from bench.systems import SYSTEMS, Measured, System
from bench.usage import Machine

QUICK_SECONDS = 0.4


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed, side by side with other systems.")
    parser.add_argument("--rounds", type=int, default=3, help="goals are held against the worst of these (default: 3)")
    parser.add_argument("--seconds", type=float, default=0.8, help="for each measurement (default: 0.8)")
    parser.add_argument("--only", help="names of systems, separated by semicolons (default: all)")
    parser.add_argument("--cases", help="names of cases, separated by semicolons (default: all)")
    parser.add_argument("--quick", action="store_true", help="one short round of the best systems: two minutes")
    parser.add_argument("--no-write", action="store_true", help="leave docs/BENCHMARKS.md as it is")
    arguments = parser.parse_args()
    known = {system.name: system for system in SYSTEMS}
    chosen = arguments.only.split(";") if arguments.only else [*RIVALS] if arguments.quick else [*known]
    cases = arguments.cases.split(";") if arguments.cases else [case.name for case in CASES]
    if unknown := set(chosen) - known.keys():
        parser.error(f"no such system: {', '.join(sorted(unknown))}")
    if unknown := set(cases) - {case.name for case in CASES}:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    is_whole = not (arguments.quick or arguments.only or arguments.cases)
    rounds, seconds = (1, QUICK_SECONDS) if arguments.quick else (arguments.rounds, arguments.seconds)
    systems = [system for system in SYSTEMS if system.name in chosen]
    raise_limit_of_files()
    for system in systems:
        system.command()  # all are built before anything is measured
    if is_whole:
        for name in programs.PROGRAMS:
            programs.program(name)
    begin = Machine.now()
    measured = measure(systems, [case for case in CASES if case.name in cases], rounds, seconds)
    result = report.Result(
        rounds,
        measured,
        {system.name: system.ask("version") for system in systems},
        programmed=programs.measure(rounds) if is_whole else {},
        relayed=relays.measure(systems, rounds, seconds / 2) if is_whole else {},
        scale=scale(systems, rounds) if is_whole else {},
        machine=Machine.now() - begin,
    )
    print(report.text(result))
    if is_whole and not arguments.no_write:
        report.write(result)


def measure(
    systems: Iterable[System], cases: Iterable[Case], rounds: int, seconds: float
) -> dict[str, dict[str, list[Measured]]]:
    """By case and by system: of each round."""
    measured: dict[str, dict[str, list[Measured]]] = {case.name: defaultdict(list) for case in cases}
    for number in range(rounds):
        for case in cases:
            print(f"round {number + 1} of {rounds}: {case.name}", file=sys.stderr)
            if case.limit is not None:
                reached = limit.measure(case.limit, limit.default_loop(), seconds)
                measured[case.name][LIMIT].append(Measured({case.figure: reached}, None))
            for system in systems:
                if case.mode in system.does and (number == 0 or system.every_round):
                    measured[case.name][system.name].append(measure_one(system, case, seconds))
    return measured


def measure_one(system: System, case: Case, seconds: float) -> Measured:
    options = (*case.options, "--seconds", str(seconds)) if case.is_timed else case.options
    try:
        with system.serving(case.serve) as listener:
            measured = system.measure(listener, case.mode, *options)
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        raise SystemExit(f"{system.name} failed at {case.name}: {error}") from error
    if case.mode != "perf":
        return measured
    seconds = measured.figures["upload_seconds"] + measured.figures["download_seconds"]
    return Measured({case.figure: GIGABYTE / 1e6 / seconds}, measured.took)


def scale(systems: Iterable[System], rounds: int) -> dict[str, dict[str, dict[str, object]]]:
    return {system.name: system.scale("--rounds", str(rounds)) for system in systems if system.name in {OURS, COMPILED}}


def raise_limit_of_files() -> None:
    """As far as we may, for the processes of many peers."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    main()
