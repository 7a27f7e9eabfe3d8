"""Faults at the bytes of a handshake and a request, in a process of its own: clocks are replaced before the library is
imported."""

from __future__ import annotations

import argparse
import sys

from simulation.world import world

ROUTES = ("tcp", "websocket", "tls", "circuit", "to a relay")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("routes", nargs="*", metavar="route", help=f"those alone (default: {' '.join(ROUTES)})")
    parser.add_argument("--stride", type=int, default=1, help="each fault at every N-th byte, some less often")
    arguments = parser.parse_args()
    world.replace_clocks()
    from .cases import prepare, run  # now: the library holds on to the clocks that it finds

    complaints: list[str] = []
    prepare(complaints)
    for route in arguments.routes or ROUTES:
        cases = run(route, arguments.stride, complaints)
        print(f"{route}: {cases.totals[True]} bytes to the listener, {cases.totals[False]} to the dialer")
        for outcome, count in sorted(cases.counts.items()):
            print(f"{count:6} {outcome}")
    print("\n".join(complaints[:50]))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
