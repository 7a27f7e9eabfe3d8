"""Every target for some time, with a line for each: `make fuzz`. See README.md.

    python -m fuzz [--only NAME]... [--seconds 60 | --quick] [--seed 1] [--keep]
    python -m fuzz --only NAME --input HEX
    python -m fuzz --list

The status is 1 if there is a finding.
"""

from __future__ import annotations

import argparse
import sys

SECONDS = 60.0
QUICK_RUNS = 3000
"""Inputs of each target that --quick tries: the same ones each time."""
QUICK_SECONDS = 3.0
"""After which it tries no more of them."""

LINE = "{:22}{:>11}{:>8}  {}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Fuzzes parsers and machines.")
    parser.add_argument("--only", action="append", metavar="NAME", help="this target (default: all), or several")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for each (default: {SECONDS:g})")
    parser.add_argument("--quick", action="store_true", help=f"at most {QUICK_RUNS} inputs each, always the same")
    parser.add_argument("--seed", type=int, default=1, help="another one makes other inputs (default: 1)")
    parser.add_argument("--keep", action="store_true", help="keep in corpora/ the inputs that reached more")
    parser.add_argument("--input", metavar="HEX", help="try this input alone, and show the traceback")
    parser.add_argument("--list", action="store_true", help="the names of the targets")
    arguments = parser.parse_args()
    if arguments.list or arguments.input is not None:
        from fuzz import table

        targets = table.TARGETS
    else:
        from fuzz import run  # it needs atheris

        targets = run.load()
    names = arguments.only or list(targets)
    if unknown := set(names) - set(targets):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; --list has them")
    if arguments.list:
        print("\n".join(names))
        return 0
    if arguments.input is not None:
        for name in names:
            targets[name].check(bytes.fromhex(arguments.input))
        return 0
    options = run.Options(
        seconds=QUICK_SECONDS if arguments.quick else arguments.seconds,
        runs=QUICK_RUNS if arguments.quick else -1,
        seed=arguments.seed,
        keep=arguments.keep,
    )
    print(LINE.format("target", "inputs", "edges", "finding"), flush=True)
    inputs = findings = 0
    for result in run.fuzz_all((targets[name] for name in names), options):
        print(LINE.format(result.name, f"{result.inputs:,}", result.edges, result.finding), flush=True)
        inputs += result.inputs
        findings += bool(result.finding)
    print(f"{len(names)} targets, {inputs:,} inputs, {findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
