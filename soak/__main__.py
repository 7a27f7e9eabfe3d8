"""Load on a peer, for a long time or too much of it, while processes die: `make soak`. See README.md.

    python -m soak [NAME...] [--quick] [--seconds 600] [--peers 2000] [--uvloop] [--list]

The status is 1 if what must hold did not.
"""

from __future__ import annotations

import argparse
import sys

from attack.terms import NotMeasured
from soak.processes import Processes
from soak.scenarios import SCENARIOS
from soak.terms import Findings, Options, Scenario

SECONDS, QUICK_SECONDS = 600.0, 6.0
PEERS, QUICK_PEERS = 2000, 100


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m soak", description="Load on a peer, and what must hold.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="these alone (default: all)")
    parser.add_argument("--list", action="store_true", help="the names")
    parser.add_argument("--quick", action="store_true", help="those that show within seconds, with few peers")
    parser.add_argument(
        "--seconds",
        type=float,
        help=f"of churn, and at most of others (default: {SECONDS:g}; quick: {QUICK_SECONDS:g})",
    )
    parser.add_argument("--peers", type=int, help=f"of churn, at once (default: {PEERS}; quick: {QUICK_PEERS})")
    parser.add_argument("--uvloop", action="store_true", help="the listener runs on uvloop, not on asyncio's own loop")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; --list has them")
    scenarios = [SCENARIOS[name] for name in arguments.names] or [
        scenario for scenario in SCENARIOS.values() if scenario.quick or not arguments.quick
    ]
    if arguments.list:
        for scenario in scenarios:
            print(f"{scenario.name:18}{scenario.what}")
        return 0
    options = Options(
        seconds=arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS),
        peers=arguments.peers or (QUICK_PEERS if arguments.quick else PEERS),
        loop="uvloop" if arguments.uvloop else "asyncio",
    )
    failed = sum(not passes(scenario, options) for scenario in scenarios)
    print(f"{len(scenarios)} scenarios, {failed} failed")
    return 1 if failed else 0


def passes(scenario: Scenario, options: Options) -> bool:
    """Runs it, and prints its line."""
    findings = Findings()
    with Processes() as processes:
        try:
            scenario.run(processes, options, findings)
        except NotMeasured as error:
            findings.failures.append(f"not measured, as {error}")
        strange = [line for line in processes.logged() if not any(each in line for each in scenario.allowed)]
    findings.must(not strange, f"{len(strange)} lines on stderr: {strange[-8:]}")
    verdict = f"FAIL: {'; '.join(findings.failures)}" if findings.failures else "PASS"
    print(f"{scenario.name:18}{'; '.join(findings.figures)}  {verdict}", flush=True)
    return not findings.failures


if __name__ == "__main__":
    sys.exit(main())
