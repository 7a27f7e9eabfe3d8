"""`stronghold-p2p perf` and go-libp2p's own perf program, each with itself and with the other; both have the flags and the
output of libp2p's benchmark.

    python -m bench.programs [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from bench.cases import COMPILED, GIGABYTE, OURS
from bench.systems import COMPILED_PYTHON, PATIENCE, PEERS
from bench.usage import Usage, usage_of
from interop import build

__all__ = ["DIRECTIONS", "GO", "PROGRAMS", "Figures", "Moved", "measure", "ratios"]

GO = "go-libp2p"
PROGRAMS = (OURS, COMPILED, GO)
PAIRS = ((OURS, OURS), (OURS, GO), (GO, OURS), (COMPILED, COMPILED), (COMPILED, GO), (GO, COMPILED), (GO, GO))
"""Who dials, and who listens."""
DIRECTIONS = ("upload", "download")
GOAL = 1.5
"""Of what go's program reaches with itself."""
STRETCH = 2.0


@dataclass(frozen=True)
class Moved:
    """10^9 bytes in one direction."""

    mb_per_second: float
    """From before the dial to the last byte, as the dialer tells."""
    dialer: Usage
    """Without its start."""
    listener: Usage


Figures = Mapping[str, Mapping[tuple[str, str], list[Moved]]]
"""By direction, and by dialer and listener: of each round."""


def measure(rounds: int, programs: tuple[str, ...] = PROGRAMS) -> Figures:
    figures: dict[str, dict[tuple[str, str], list[Moved]]] = {name: defaultdict(list) for name in DIRECTIONS}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}: perf programs", file=sys.stderr)
        for listener in programs:
            with serving(listener) as (address, process):
                for dialer in (one for one, other in PAIRS if other == listener and one in programs):
                    _, start = run(dialer, address)
                    for direction in DIRECTIONS:
                        moved = move(dialer, address, process, direction, start)
                        figures[direction][dialer, listener].append(moved)
    return figures


def ratios(figures: Figures, direction: str, pair: tuple[str, str]) -> list[float]:
    """What two programs reach by what go's reaches with itself in the same round, the worst first; empty if either was not
    measured."""
    measured = figures[direction]
    rounds = zip(measured.get(pair, []), measured.get((GO, GO), []), strict=False)
    return sorted(own.mb_per_second / other.mb_per_second for own, other in rounds)


def move(dialer: str, address: str, listener: int, direction: str, start: Usage) -> Moved:
    """``start``: what the dialer takes to move nothing."""
    before = usage_of(listener)
    seconds, usage = run(dialer, address, f"--{direction}-bytes", str(GIGABYTE))
    return Moved(GIGABYTE / 1e6 / seconds, usage - start, usage_of(listener) - before)


def run(dialer: str, address: str, *options: str) -> tuple[float, Usage]:
    """Runs a program to its end; the seconds that it tells, and what it took."""
    command = (*program(dialer), "--server-address", address, *options)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        patience = threading.Timer(PATIENCE, process.kill)
        patience.start()
        try:
            *_, line = process.stdout
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            usage = usage_of(process.pid)
        except ValueError as error:
            raise SystemExit(f"{dialer}'s perf program printed nothing to {address}") from error
        finally:
            patience.cancel()
    if process.returncode:
        raise SystemExit(f"{dialer}'s perf program failed with status {process.returncode}")
    return json.loads(line)["timeSeconds"], usage


@contextmanager
def serving(listener: str) -> Iterator[tuple[str, int]]:
    """Runs a program's server; gives the address and the process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = (*program(listener), "--run-server", "--server-address", address)
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as process:
        try:
            wait_for(address)
            yield address, process.pid
        finally:
            process.kill()


def wait_for(address: str) -> None:
    host, port = address.split(":")
    end = time.monotonic() + 10
    while True:
        try:
            socket.create_connection((host, int(port))).close()
        except ConnectionRefusedError as error:
            if time.monotonic() > end:
                raise SystemExit(f"no perf program listens at {address}") from error
            time.sleep(0.02)
        else:
            return


@cache
def program(name: str) -> tuple[str, ...]:
    """The command line, after the program was built if need be.

    Raises:
        BuildError: a toolchain is missing, or the build failed.
    """
    if name == GO:
        return tuple(build.BUILDERS["go"](PEERS / "go_perf"))
    return (sys.executable if name == OURS else str(COMPILED_PYTHON), "-m", "stronghold_p2p", "perf")


def main() -> None:
    from bench import report

    parser = argparse.ArgumentParser(description="`stronghold-p2p perf` and go's own program.")
    parser.add_argument("--rounds", type=int, default=3, help="the worst ratio of these counts (default: 3)")
    arguments = parser.parse_args()
    for name in PROGRAMS:
        program(name)  # all are built before anything is measured
    print(report.programmed(measure(arguments.rounds)))


if __name__ == "__main__":
    main()
