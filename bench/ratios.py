"""The library's speed as a share of the limit of this machine, both measured in turn in one run.

Absolute figures differ by machine, and with what else it does; their ratio hardly does. Each row is the median of
several rounds of `stronghold-p2p bench` (the public `send_request`, codec and firewall included) right after `limit.py`.

    python -m bench.ratios [--rounds 3] [--seconds 2] [--json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from bench import limit


@dataclass(frozen=True)
class Case:
    """What `bench` is to measure, the figure of `limit.py` that judges it, and the share that is to be reached."""

    name: str
    options: str
    figure: str
    limit: str
    goal: float


CASES = (
    Case("64 bytes, 32 in flight", "--concurrency 32", "requests_per_second", "requests_per_second", 0.15),
    Case("64 bytes, one at a time", "--concurrency 1", "requests_per_second", "requests_per_second_one_at_a_time", 0.2),
    Case(
        "1 MB raw, 4 in flight",
        "--size 1000000 --concurrency 4 --codec raw",
        "mb_per_second",
        "bulk_mb_per_second",
        0.3,
    ),
)
CONNECT_GOAL_MS = 10


def bench(options: str, seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "stronghold_p2p", "bench", "--json", "--seconds", str(seconds), *options.split()]
    figures: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return figures


def measure(rounds: int, seconds: float) -> dict[str, Any]:
    """For each case the medians of the limit, of the library and of their ratio; and the median time to connect."""
    found: dict[Case, list[tuple[float, float]]] = {case: [] for case in CASES}
    connected = []
    for _ in range(rounds):
        for case, pairs in found.items():
            most = limit.measure(case.limit, limit.default_loop(), seconds)
            figures = bench(case.options, seconds)
            pairs.append((most, figures[case.figure]))
            connected.append(figures["connect_ms"])
    rows = [
        {
            "case": case.name,
            "limit": statistics.median(most for most, _ in pairs),
            "reached": statistics.median(reached for _, reached in pairs),
            "unit": case.figure,
            "ratio": round(statistics.median(reached / most for most, reached in pairs), 3),
            "goal": case.goal,
        }
        for case, pairs in found.items()
    ]
    return {"rows": rows, "connect_ms": statistics.median(connected), "loop": limit.default_loop()}


def main() -> None:
    parser = argparse.ArgumentParser(description="The library's speed as a share of the limit of this machine.")
    parser.add_argument("--rounds", type=int, default=3, help="the medians are of these (default: 3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement (default: 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    measured = measure(arguments.rounds, arguments.seconds)
    if arguments.json:
        print(json.dumps(measured))
        return
    print(f"medians of {arguments.rounds} rounds, on {measured['loop']}")
    print(f"{'':24}{'limit':>12}{'reached':>12}  {'':20}{'ratio':>6}{'goal':>6}")
    for row in measured["rows"]:
        unit = row["unit"].replace("_per_second", "/s").replace("mb/", "MB/")
        print(
            f"{row['case']:24}{row['limit']:>12,.0f}{row['reached']:>12,.0f}  {unit:20}{row['ratio']:>6}{row['goal']:>6}"
        )
    print(f"connected in {measured['connect_ms']} ms (goal: under {CONNECT_GOAL_MS} ms)")


if __name__ == "__main__":
    main()
