"""What a fixed workload takes, in counts: the guard against becoming slower unnoticed. Never times.

    python -m bench.counts [--record]

All peers run in one process, on one plain asyncio loop over loopback TCP, so that nothing depends on the machine's mood.
A count that grew beyond its tolerance fails the run; one that shrank as much asks to be recorded anew. Counts differ
between versions of Python: they hold for the one that recorded them, and others are refused.

Calls stand for allocations too, which Python does not tell: what is made is made by a call. Large ones cost more than a call,
if their memory is given back to the system: so page faults are counted as well, of bulk transfers on uvloop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

import uvloop

from stronghold_p2p import Config, FirewallRules, Keypair, RelayServer, Rule, StrongholdP2p
from stronghold_p2p.protocols import perf
from stronghold_p2p.requests.codec import CodecName

CONFIG = Config(turn_time=60.0)
"""Counting makes everything ten times as slow: no turn may be over for that."""

RECORDED = Path(__file__).resolve().parent / "counts.json"
PYTHON = ".".join(map(str, sys.version_info[:2]))
TOLERANCE = 0.05
"""As a share. What one read brings depends a little on the kernel."""

TAKES_TURNS, TURNS = "64 bytes, 32 in flight, relayed", ("Noise messages", "callbacks of the loop", "system calls")
TOLERANCE_OF_TURNS = 0.3
"""Where three peers take turns, who is first decides what a read brings: 1.02 to 1.09 Noise messages and 1.09 to 1.23 system
calls a request in eight runs of the same code."""

WORK: tuple[tuple[str, CodecName, Any, int, int], ...] = (
    ("64 bytes, one at a time", "json", "x" * 62, 1, 640),
    ("64 bytes, 32 in flight", "json", "x" * 62, 32, 6400),
    ("1 MB raw, one at a time", "raw", bytes(1_000_000), 1, 32),
    (TAKES_TURNS, "json", "x" * 62, 32, 6400),
)
"""Name, codec, body, requests in flight, requests."""

MAX_FAULTS = 5000
"""Minor page faults for each GB, once warm: every page anew would be 244,000. How many there are depends on how the messages
under way happen to lie, so nothing else is recorded."""

RELAY = RelayServer(max_seconds=None, max_bytes=None)

KINDS = {
    "socket.send": "system calls",
    "socket.recv_into": "system calls",
    "epoll.poll": "system calls",
    "ChaCha20Poly1305.encrypt": "Noise messages",
    "ChaCha20Poly1305.encrypt_into": "Noise messages",
}
"""What calls of C functions count as, by their qualified names: coroutines have a ``send``, too."""

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


async def measure_faults() -> dict[str, float]:
    """By bulk transfer, both peers together: minor page faults for each GB."""
    bob: StrongholdP2p[Any, Any] = StrongholdP2p(firewall=FirewallRules.allow_all(), codec="raw")
    alice: StrongholdP2p[Any, Any] = StrongholdP2p(codec="raw")
    async with bob, alice:
        bob.on_request(answer)
        bob.handle_stream(perf.PROTOCOL, perf.serve)
        address = str(await bob.listen())

        async def messages(size: int) -> None:
            await ask(alice, address, bytes(1_000_000), 4, size // 2_000_000)

        async def stream(size: int) -> None:
            async with await alice.open_stream(address, perf.PROTOCOL) as opened:
                await perf.measure(opened, size // 2, size // 2)

        transfers: dict[str, Callable[[int], Awaitable[None]]] = {"1 MB raw, 4 in flight": messages, "perf": stream}
        found = {}
        for name, transfer in transfers.items():
            await transfer(200_000_000)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            await transfer(500_000_000)
            found[name] = 2.0 * (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
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
            if kind := KINDS.get(argument.__qualname__):
                counts[kind] += 1

    return profile


def compare(recorded: Counts, measured: Counts) -> tuple[list[str], list[str]]:
    """What has grown beyond the tolerance, and what has shrunk by as much."""
    grown, shrunk = [], []
    for work, counts in recorded.items():
        for kind, before in counts.items():
            now = measured.get(work, {}).get(kind, 0.0)
            line = f"{work}: {kind}: {now:g} a request, recorded were {before:g}"
            tolerance = TOLERANCE_OF_TURNS if work == TAKES_TURNS and kind in TURNS else TOLERANCE
            if now > before * (1 + tolerance):
                grown.append(line)
            elif now < before * (1 - tolerance):
                shrunk.append(line)
    return grown, shrunk


def main() -> int:
    parser = argparse.ArgumentParser(description="What a fixed workload takes, in counts, against what was recorded.")
    parser.add_argument("--record", action="store_true", help="record what is counted now")
    record = parser.parse_args().record
    measured = asyncio.run(measure())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        faults = runner.run(measure_faults())
    if record:
        RECORDED.write_text(json.dumps({"python": PYTHON, "counts": measured}, indent=2) + "\n")
    recorded = json.loads(RECORDED.read_text())
    if recorded["python"] != PYTHON:
        print(f"the counts were recorded by Python {recorded['python']}; this is {PYTHON}", file=sys.stderr)
        return 2
    for work, counts in measured.items():
        print(work, *(f"{count:>10,.2f}  {kind}" for kind, count in counts.items()), sep="\n")
    print("minor page faults of 1 GB", *(f"{count:>10,.0f}  {name}" for name, count in faults.items()), sep="\n")
    grown, shrunk = compare(recorded["counts"], measured)
    grown += [
        f"{name}: {count:g} page faults, allowed are {MAX_FAULTS}"
        for name, count in faults.items()
        if count > MAX_FAULTS
    ]
    print(*(f"GROWN   {line}" for line in grown), *(f"shrunk  {line}" for line in shrunk), sep="\n")
    if shrunk and not grown:
        print("some shrank: record them, with --record")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
