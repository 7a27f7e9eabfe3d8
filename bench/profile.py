"""Where the time of a request and of a megabyte goes: `make profile`.

    python -m bench.profile [--seconds 5] [--to build/profile]

* Flame graphs (SVG) of the process that asks and of the one that answers, by py-spy, for small requests and for large.
* Instructions for each request, by `valgrind --tool=callgrind`, which counts the same on any day: of the same workload
  twice, once with twice as many requests, so that the start cancels out. Skipped, and said so, without valgrind.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.counts import answer, ask
from bench.systems import ENVIRONMENT, SYSTEMS
from stronghold_p2p import FirewallRules, StrongholdP2p
from stronghold_p2p.requests.codec import CodecName

WORK: dict[str, tuple[str, ...]] = {
    "request": ("--concurrency", "32"),
    "megabyte": ("--size", "1000000", "--concurrency", "4", "--format", "raw"),
}
"""What is profiled, and the options with which a peer measures it."""

FIXED: dict[str, tuple[CodecName, Any, int, int]] = {
    "request": ("json", "x" * 62, 32, 320),
    "megabyte": ("raw", bytes(1_000_000), 4, 8),
}
"""The fixed workload of each: codec, body, requests in flight, requests."""


def draw(name: str, folder: Path, seconds: float) -> None:
    """The flame graphs of both processes."""
    command = SYSTEMS[0].command()

    def recording(side: str) -> list[str]:
        py_spy = str(Path(sys.executable).parent / "py-spy")
        picture = str(folder / f"{name}-{side}.svg")
        return [py_spy, "record", "--rate", "250", "--output", picture, "--", *command]

    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*recording("answers"), "serve"], env=ENVIRONMENT, stdin=pipe, stdout=pipe, text=True
    ) as serving:
        assert serving.stdin is not None
        assert serving.stdout is not None
        line = next(line for line in serving.stdout if line.startswith("{"))
        address = line.partition('"address": "')[2].partition('"')[0]
        options = (*WORK[name], "--seconds", str(seconds))
        subprocess.run([*recording("asks"), "measure", address, *options], env=ENVIRONMENT, check=True)
        serving.stdin.close()
        serving.stdout.read()  # py-spy writes there, too, and draws at the end


def instructions(name: str) -> int:
    """Instructions of both sides together for one request."""
    totals = []
    for times in (1, 2):
        command = [
            "valgrind",
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            sys.executable,
            "-m",
            "bench.profile",
        ]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        done = subprocess.run(
            [*command, "--run", name, str(times)], env=environment, capture_output=True, text=True, check=True
        )
        found = re.search(r"Collected : (\d+)", done.stderr)
        assert found is not None
        totals.append(int(found[1]))
    return (totals[1] - totals[0]) // FIXED[name][3]


async def run(name: str, times: int) -> None:
    """The fixed workload, once or more, in one process."""
    codec, body, in_flight, requests = FIXED[name]
    bob: StrongholdP2p[Any, Any] = StrongholdP2p(firewall=FirewallRules.allow_all(), codec=codec)
    alice: StrongholdP2p[Any, Any] = StrongholdP2p(codec=codec)
    async with bob, alice:
        bob.on_request(answer)
        address = str(await bob.listen())
        for _ in range(times + 1):  # the first time connects and warms up
            await ask(alice, address, body, in_flight, requests)


def main() -> None:
    parser = argparse.ArgumentParser(description="Where the time goes.")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each flame graph (default: 5)")
    parser.add_argument("--to", type=Path, default=Path("build/profile"), help="folder of the flame graphs")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        name, times = arguments.run
        asyncio.run(run(name, int(times)))
        return
    arguments.to.mkdir(parents=True, exist_ok=True)
    for name in WORK:
        draw(name, arguments.to, arguments.seconds)
        print(f"{arguments.to}/{name}-asks.svg and {name}-answers.svg are drawn")
        if shutil.which("valgrind") is None:
            print("instructions are not counted: valgrind is missing")
        else:
            print(f"a {name}, both sides: {instructions(name):,} instructions")


if __name__ == "__main__":
    main()
