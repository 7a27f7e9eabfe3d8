"""Runs worlds by their numbers, each in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections import Counter
from typing import Any, Final, NamedTuple

from .world import world

REAL_LIMIT: Final = 60
"""Seconds of a processor until a world is ended that does not end by itself: one takes half a second."""

real_time = time.monotonic


def main() -> int:
    arguments = _arguments()
    _be_repeatable()
    world.replace_clocks()
    from .run import prepare, run  # now: the library holds on to the clocks that it finds

    prepare()
    seeds = (
        [arguments.seed] if arguments.seed is not None else range(arguments.first, arguments.first + arguments.seeds)
    )
    counts: Counter[str] = Counter()
    began, failed, worlds, simulated = real_time(), [], 0, 0.0
    for result in _run_all(list(seeds), run, jobs=arguments.jobs, tells=arguments.seed is not None):
        worlds += 1
        counts.update(result["counts"])
        simulated += result["seconds"]
        if result["complaints"]:
            failed.append(result["seed"])
            print(f"world {result['seed']}: make simulate SEED={result['seed']}")
            for complaint in result["complaints"][: None if arguments.seed is not None else 5]:
                print(f"    {complaint}")
            sys.stdout.flush()
            if len(failed) >= arguments.stop_after:
                break
    if arguments.counts:
        for name, count in sorted(counts.items()):
            print(f"{count:9} {name}")
    print(f"{worlds} worlds, {simulated / 3600:.1f} hours in them, {real_time() - began:.0f} s; {len(failed)} failed")
    if arguments.seed is not None and worlds:
        print(f"digest {result['digest']}")
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="this world alone, with all that happens in it")
    parser.add_argument("--seeds", type=int, default=200, help="how many worlds (default: 200)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first one")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="worlds at once (default: one a processor)"
    )
    parser.add_argument("--stop-after", type=int, default=5, metavar="N", help="failed worlds (default: 5)")
    parser.add_argument("--counts", action="store_true", help="say how often what has happened")
    return parser.parse_args()


def _be_repeatable() -> None:
    """Starts this program anew with hashes that are always the same."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "simulation", *sys.argv[1:]])


class _Child(NamedTuple):
    seed: int
    results: int
    """The descriptor that it writes to."""


def _run_all(seeds: list[int], run: Any, *, jobs: int, tells: bool) -> Any:
    """The results, as they come. Each world is a fork of this process, which is the same for each."""
    children: dict[int, _Child] = {}
    waiting = iter(seeds)
    try:
        while True:
            while len(children) < jobs and (seed := next(waiting, None)) is not None:
                reading, writing = os.pipe()
                if (pid := os.fork()) == 0:
                    _live(seed, run, writing, tells=tells)
                os.close(writing)
                children[pid] = _Child(seed, reading)
            if not children:
                return
            pid, status = os.wait()
            child = children.pop(pid)
            with os.fdopen(child.results, "rb") as results:
                written = results.read()
            if written:
                yield json.loads(written)
            else:
                reason = f"its process ended with status {os.waitstatus_to_exitcode(status)}"
                yield {"seed": child.seed, "complaints": [reason], "counts": {}, "seconds": 0.0, "digest": ""}
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _live(seed: int, run: Any, writing: int, *, tells: bool) -> None:
    signal.setitimer(signal.ITIMER_PROF, REAL_LIMIT)
    try:
        result = run(seed, tells=tells)
        result["complaints"] = [complaint[:4000] for complaint in result["complaints"][:10]]
        os.write(writing, json.dumps(result).encode())
    except BaseException:  # noqa: BLE001 - this process must not go on as the other one
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(0)  # what ended by a crash in it must not be cleared away


if __name__ == "__main__":
    sys.exit(main())
