"""What a fixed workload takes, in counts: the guard against becoming slower unnoticed. Never times.

    python -m bench.counts [--record]

All peers run in one process, on one plain asyncio loop over loopback TCP, so that nothing depends on the machine's mood.
A count that grew beyond its tolerance fails the run; one that shrank as much asks to be recorded anew. Counts differ
between versions of Python: they hold for the one that recorded them, and others are refused.

Calls stand for allocations too, which Python does not tell: what is made is made by a call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from stronghold_p2p import Config, FirewallRules, Keypair, RelayServer, Rule, StrongholdP2p
from stronghold_p2p.requests.codec import CodecName

CONFIG = Config(turn_time=60.0)
"""Counting makes everything ten times as slow: no turn may be over for that."""

RECORDED = Path(__file__).resolve().parent / "counts.json"
PYTHON = ".".join(map(str, sys.version_info[:2]))
TOLERANCE = 0.03
"""As a share. What one read brings depends a little on the kernel."""

WORK: tuple[tuple[str, CodecName, Any, int, int], ...] = (
    ("64 bytes, one at a time", "json", "x" * 62, 1, 640),
    ("64 bytes, 32 in flight", "json", "x" * 62, 32, 6400),
    ("1 MB raw, one at a time", "raw", bytes(1_000_000), 1, 32),
    ("64 bytes, 32 in flight, relayed", "json", "x" * 62, 32, 6400),
)
"""Name, codec, body, requests in flight, requests."""

RELAY = RelayServer(max_seconds=None, max_bytes=None)

KINDS = {
    "send": "system calls",
    "recv_into": "system calls",
    "poll": "system calls",
    "encrypt": "Noise messages",
    "encrypt_into": "Noise messages",
}
"""What calls of C functions count as, by their names."""

Counts = dict[str, dict[str, float]]
"""By work and by what is counted: how many for each request."""

CALLBACK = asyncio.Handle._run.__code__


async def measure() -> Counts:
    """What each work takes once connected, identified and warm."""
    me = Keypair.generate()
    rules = FirewallRules(inbound=Rule.REJECT_ALL, peers={me.peer_id: (Rule.ALLOW_ALL, None)})
    found: Counts = {}
    for name, codec, body, in_flight, requests in WORK:
        bob: StrongholdP2p[Any, Any] = StrongholdP2p(firewall=rules, codec=codec, config=CONFIG)
        alice: StrongholdP2p[Any, Any] = StrongholdP2p(keypair=me, codec=codec, config=CONFIG)
        relay: StrongholdP2p[Any, Any] = StrongholdP2p(relay=RELAY, config=CONFIG)
        async with bob, alice, relay:
            bob.on_request(answer)
            if name.endswith("relayed"):
                address = str(await bob.listen_via_relay(await relay.listen()))
            else:
                address = str(await bob.listen())
            await ask(alice, address, body, in_flight, requests)
            counts: Counter[str] = Counter()
            sys.setprofile(counter(counts))
            try:
                await ask(alice, address, body, in_flight, requests)
            finally:
                sys.setprofile(None)
        found[name] = {kind: round(count / requests, 3) for kind, count in sorted(counts.items())}
    return found


async def answer(request: Any) -> Any:
    return request.body


async def ask(peer: StrongholdP2p[Any, Any], address: str, body: Any, in_flight: int, requests: int) -> None:
    async def one_after_the_other() -> None:
        for _ in range(requests // in_flight):
            await peer.send_request(address, body)

    await asyncio.gather(*(one_after_the_other() for _ in range(in_flight)))


def counter(counts: Counter[str]) -> Any:
    """A profile function that counts."""

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            counts["calls of Python"] += 1
            if frame.f_code is CALLBACK:
                counts["callbacks of the loop"] += 1
        elif event == "c_call":
            counts["calls of C"] += 1
            if kind := KINDS.get(argument.__name__):
                counts[kind] += 1

    return profile


def compare(recorded: Counts, measured: Counts) -> tuple[list[str], list[str]]:
    """What has grown beyond the tolerance, and what has shrunk by as much."""
    grown, shrunk = [], []
    for work, counts in recorded.items():
        for kind, before in counts.items():
            now = measured.get(work, {}).get(kind, 0.0)
            line = f"{work}: {kind}: {now:g} a request, recorded were {before:g}"
            if now > before * (1 + TOLERANCE):
                grown.append(line)
            elif now < before * (1 - TOLERANCE):
                shrunk.append(line)
    return grown, shrunk


def main() -> int:
    parser = argparse.ArgumentParser(description="What a fixed workload takes, in counts, against what was recorded.")
    parser.add_argument("--record", action="store_true", help="record what is counted now")
    record = parser.parse_args().record
    measured = asyncio.run(measure())
    if record:
        RECORDED.write_text(json.dumps({"python": PYTHON, "counts": measured}, indent=2) + "\n")
    recorded = json.loads(RECORDED.read_text())
    if recorded["python"] != PYTHON:
        print(f"the counts were recorded by Python {recorded['python']}; this is {PYTHON}", file=sys.stderr)
        return 2
    for work, counts in measured.items():
        print(work, *(f"{count:>10,.2f}  {kind}" for kind, count in counts.items()), sep="\n")
    grown, shrunk = compare(recorded["counts"], measured)
    print(*(f"GROWN   {line}" for line in grown), *(f"shrunk  {line}" for line in shrunk), sep="\n")
    if shrunk and not grown:
        print("some shrank: record them, with --record")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
