"""Attacks on a peer, one after the other, each with a line: `make attack`. See README.md.

    python -m attack [NAME...] [--quick] [--seconds 8] [--uvloop] [--list]

The status is 1 if what must hold did not, twice.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from attack.run import Options, measure
from attack.table import ATTACKS
from attack.terms import Attack, Figures, NotMeasured

SECONDS = 8.0
QUICK_SECONDS = 2.0
BASELINE = 1.0
QUICK_BASELINE = 0.5

COLUMNS = "{:27}{:>6}{:>16}{:>7}{:>9}{:>16}{:>17}  {}"
HEAD = ("attack", "kept", "p99 ms, before", "fresh", "turn ms", "MB more, after", "log lines/s, KB", "closed; refused")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m attack", description="Attacks on a peer, and what must hold.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="these alone (default: all)")
    parser.add_argument("--list", action="store_true", help="the names, and what must hold")
    parser.add_argument("--quick", action="store_true", help="those that show within two seconds, for as long each")
    parser.add_argument(
        "--seconds", type=float, help=f"for each (default: {SECONDS:g}; with --quick {QUICK_SECONDS:g})"
    )
    parser.add_argument("--uvloop", action="store_true", help="the victim runs on uvloop, not on asyncio's own loop")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(ATTACKS):
        parser.error(f"no such attack: {', '.join(sorted(unknown))}; --list has them")
    attacks = [ATTACKS[name] for name in arguments.names] or [
        attack for attack in ATTACKS.values() if attack.quick or not arguments.quick
    ]
    if arguments.list:
        for attack in attacks:
            print(f"{attack.name:27}{attack.must}")
        return 0
    options = Options(
        seconds=arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS),
        baseline=QUICK_BASELINE if arguments.quick else BASELINE,
        loop="uvloop" if arguments.uvloop else "asyncio",
    )
    print(COLUMNS.format(*HEAD))
    # Twice, if need be: what else runs on the machine takes time from all three processes.
    failed = sum(not passes(attack, options) and not passes(attack, options) for attack in attacks)
    print(f"{len(attacks)} attacks, {failed} failed")
    return 1 if failed else 0


def passes(attack: Attack, options: Options) -> bool:
    """Runs it, and prints its line."""
    try:
        before, figures = measure(attack, options)
    except NotMeasured as error:
        print(f"{attack.name:27} FAIL: not measured, as {error}", flush=True)
        return False
    failures = attack.must.failures(figures)
    if before.kept < 100 or before.fresh < 100:
        failures.append(f"before it, {before.kept:.0f} % and {before.fresh:.0f} % were answered")
    verdict = f"FAIL: {', '.join(failures)}" if failures else "PASS"
    print(COLUMNS.format(attack.name, *cells(before, figures)), verdict, flush=True)
    return not failures


def cells(before: Figures, figures: Figures) -> Iterator[str]:
    yield f"{figures.kept:.0f} %"
    yield f"{figures.kept_p99:,.0f}, {before.kept_p99:.0f}"
    yield f"{figures.fresh:.0f} %"
    yield f"{figures.turn:,.0f}"
    yield f"{figures.memory:,.0f}" + ("" if figures.memory_after is None else f", {figures.memory_after:,.0f}")
    yield f"{figures.log_lines:,.1f}, {figures.log_bytes / 1e3:,.0f}"
    yield f"{counted(figures.closed)}; {counted(figures.refused)} "


def counted(errors: dict[str, int]) -> str:
    return ", ".join(f"{number} {name}" for name, number in errors.items()) or "-"


if __name__ == "__main__":
    sys.exit(main())
