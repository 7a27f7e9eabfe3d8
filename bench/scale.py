"""What grows: idle connections and streams, handshakes, latency under half of the load, a relay's memory, and the start.

    python -m bench.scale [--rounds 3] [--json]

A listener in a process of its own answers, and its memory and processor time are read from outside. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from bench import limit
from bench.usage import usage_of, waiting_of
from stronghold_p2p import (
    Config,
    FirewallRules,
    Keypair,
    Multiaddr,
    PeerIdentified,
    RelayServer,
    Request,
    StrongholdP2p,
)
from stronghold_p2p.transport.stream import Stream
from stronghold_p2p.wire.noise import NoiseIdentity
from stronghold_p2p.wire.noise_xx import NoiseKey
from stronghold_p2p.wire.upgrade import MUXERS, Upgrade

Peer = StrongholdP2p[Any, Any]

IN_FLIGHT = 32
IDLE_CONNECTIONS = 2000
IDLE_STREAMS = 64
STREAM_CONNECTIONS = 100
HANDSHAKES = 1024
"""So many, as the system counts processor time in ticks of 10 ms."""
CONNECTIONS = 256
RESERVATIONS = 1000
CIRCUITS = 200
RELAY = RelayServer(
    max_reservations=RESERVATIONS,
    max_reservations_per_network=RESERVATIONS,
    max_reservations_per_minute_per_network=RESERVATIONS,
    max_circuits_per_minute_per_network=CIRCUITS,
    max_seconds=None,
    max_bytes=None,
)
"""As all are on one address."""
DIALS_AT_ONCE = 32
WINDOWS = 3
"""Seconds of which the median one counts, where a neighbour's one would count else."""
BODY = "x" * 62
CONFIG = Config(
    idle_timeout=300,
    connection_timeout=60,
    max_outbound_streams_per_connection=IDLE_STREAMS + 8,
    max_connections_per_peer=2 * DIALS_AT_ONCE,  # one identity shakes hands so many times at once
)
IDLE_PROTOCOL = "/idle/1.0.0"
DEPENDENCIES = (
    "asyncio, cryptography.hazmat.primitives.asymmetric.ec, cryptography.hazmat.primitives.asymmetric.ed25519, "
    "cryptography.hazmat.primitives.asymmetric.rsa, cryptography.hazmat.primitives.asymmetric.x25519, "
    "cryptography.hazmat.primitives.ciphers.aead, cryptography.hazmat.primitives.hashes, "
    "cryptography.hazmat.primitives.kdf.hkdf, cryptography.hazmat.primitives.serialization, "
    "google.protobuf.internal.builder, ifaddr, msgspec"
)
"""What every peer needs of others; a remote's key may be of any type, and must not wait for an import."""
STARTS = {
    "nothing": ("-c", "pass"),
    "dependencies": ("-c", f"import {DEPENDENCIES}"),
    "package": ("-c", "import stronghold_p2p"),
    "library": ("-c", "from stronghold_p2p import StrongholdP2p"),
    "help": ("-m", "stronghold_p2p", "--help"),
}
"""Processes that only start."""


def measure(rounds: int) -> list[dict[str, Any]]:
    """The rows: name, value, unit, goal, reached. What is timed is measured so often, and the worst counts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        rows = []
        works = {idle_connections: 1, idle_streams: 1, handshakes: rounds, latency: rounds, relaying: 1}
        for work, times in works.items():
            print(f"scale: {work.__name__.replace('_', ' ')}", file=sys.stderr)
            rows.append(worst([measure_one(work) for _ in range(times)]))
        return [*rows, *start(rounds)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def measure_one(work: Callable[[int, str], Coroutine[Any, Any, dict[str, Any]]]) -> dict[str, Any]:
    with listener() as (process, address), asyncio.Runner(loop_factory=limit.loop_factory()) as runner:
        return runner.run(work(process, address))


def worst(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row with the highest value, with the lowest one beside it."""
    highest = max(rows, key=lambda row: row["value"])
    if len(rows) == 1:
        return highest
    lowest = min(row["value"] for row in rows)
    return {**highest, "detail": f"the worst of {len(rows)} rounds, the best {lowest}; {highest['detail']}"}


def row(name: str, value: float, unit: str, goal: str, *, reached: bool, detail: str = "") -> dict[str, Any]:
    return {
        "name": name,
        "value": round(value, 2),
        "unit": unit,
        "goal": goal,
        "reached": reached,
        "detail": detail,
    }


# -- the works -----------------------------------------------------------------------------------------


async def idle_connections(process: int, address: str) -> dict[str, Any]:
    async with dialers(address, 50):
        before = rss(process)
        async with dialers(address, IDLE_CONNECTIONS):
            kib = (rss(process) - before) / IDLE_CONNECTIONS / 1024
    name = f"memory of an idle connection, of {IDLE_CONNECTIONS:,}, in the listener"
    return row(name, kib, "KiB", "under 30", reached=kib < 30)


async def idle_streams(process: int, address: str) -> dict[str, Any]:
    async with dialers(address, STREAM_CONNECTIONS) as peers:
        before = rss(process)
        streams: list[Stream] = []
        for peer in peers:
            opened = [await peer.open_stream(address, IDLE_PROTOCOL) for _ in range(IDLE_STREAMS)]
            await asyncio.gather(*(stream.negotiated() for stream in opened))
            streams += opened
        kib = (rss(process) - before) / len(streams) / 1024
        for stream in streams:
            stream.reset()  # else each peer would wait for them when it closes
    return row(f"an idle stream, of {IDLE_STREAMS} on each connection", kib, "KiB", "under 4", reached=kib < 4)


async def handshakes(process: int, address: str) -> dict[str, Any]:
    """The listener's time for a handshake by that of its bare cryptography; also with all that follows it, the remote's
    identity and ours, a first request and the end."""
    identity = NoiseIdentity(Keypair.generate(), X25519PrivateKey.generate(), MUXERS)

    async def shake_hands() -> None:
        for _ in range(HANDSHAKES // DIALS_AT_ONCE):
            await shake_hands_once(address, identity)

    async def connect() -> None:
        async with dialers(address, CONNECTIONS):
            pass

    async def spent(work: Callable[[], Coroutine[Any, Any, None]], concurrency: int, count: int) -> float:
        before = usage_of(process).processor_seconds
        await asyncio.gather(*(work() for _ in range(concurrency)))
        async with dialers(address, 1):
            pass  # by now the listener has done the rest, too
        return (usage_of(process).processor_seconds - before) / count

    await connect()
    handshake = await spent(shake_hands, DIALS_AT_ONCE, HANDSHAKES)
    connection = await spent(connect, 1, CONNECTIONS)
    bare = bare_handshake()
    return row(
        "accepting a handshake / its bare signatures and key exchanges",
        handshake / bare,
        "times",
        "at most 2",
        reached=handshake <= 2 * bare,
        detail=f"{1 / handshake:,.0f}/s of {1 / bare:,.0f}/s; with identify and a first request {connection / bare:.2f} times",
    )


async def latency(process: int, address: str) -> dict[str, Any]:
    """Requests at even intervals, at half of the highest rate, whether or not those before are answered; each is a task,
    at the highest rate, too. Whatever begins them never sleeps: either process has a processor of its own, if there are
    two."""
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(process, processors[:1])
    os.sched_setaffinity(0, processors[-1:])
    gc.freeze()
    try:
        async with dialers(address, 1) as [peer]:
            await offer_load(peer, address, None, 0.5)
            half = len(await offer_load(peer, address, None, 1)) / 2
            before = waiting_of(process) + waiting_of(os.getpid())
            windows = [await offer_load(peer, address, half, 1) for _ in range(WINDOWS)]
            waited = (waiting_of(process) + waiting_of(os.getpid()) - before) / WINDOWS
    finally:
        gc.unfreeze()
        os.sched_setaffinity(0, processors)
    percentiles = []
    for latencies in windows:
        latencies.sort()
        median, p99 = (latencies[math.ceil(share * len(latencies)) - 1] for share in (0.5, 0.99))
        percentiles.append((p99 / median, p99, median))
    ratio, p99, median = statistics.median_low(percentiles)
    return row(
        "p99 / median, at half of the highest rate",
        ratio,
        "times",
        "under 5",
        reached=ratio < 5,
        detail=f"{p99 * 1e6:,.0f} us / {median * 1e6:,.0f} us at {half:,.0f}/s; the worst of {WINDOWS} s {max(percentiles)[0]:.0f}; "
        f"in {waited * 1e3:.0f} ms of each second one of both processes waited for others to leave its processor",
    )


async def relaying(process: int, address: str) -> dict[str, Any]:
    """The listener as a relay, and its peak: reservations, and between some of those who have one circuits on which bodies
    of several sizes are always under way."""
    sizes = (62, 16_384, 262_144)
    async with dialers(address, RESERVATIONS) as peers:
        circuits = [await peer.listen_via_relay(address) for peer in peers]
        for peer in peers[:CIRCUITS]:
            peer.on_request(answer)

        async def ask(number: int) -> None:
            source, circuit = peers[CIRCUITS + number], circuits[number]
            await source.send_request(circuit, BODY)  # all stand before the load begins
            standing.release()
            await loaded.wait()
            while time.perf_counter() < end:
                await source.send_request(circuit, "x" * sizes[number % len(sizes)])

        standing, loaded = asyncio.Semaphore(0), asyncio.Event()
        tasks = [asyncio.create_task(ask(number)) for number in range(CIRCUITS)]
        for _ in tasks:
            await standing.acquire()
        end = time.perf_counter() + 5
        loaded.set()
        await asyncio.gather(*tasks)
        megabytes = peak_rss(process) / 1e6
    name = f"memory of a relay with {RESERVATIONS:,} reservations and {CIRCUITS} circuits at work, at most"
    return row(name, megabytes, "MB", "under 300", reached=megabytes < 300)


def start(rounds: int) -> list[dict[str, Any]]:
    """Processes that only start, in turn, their modules compiled as installed ones are."""
    with tempfile.TemporaryDirectory() as cache:
        run_starts(cache, 1)  # compiles
        counts = {name: modules_of(cache, STARTS[name][1]) for name in ("nothing", "dependencies", "library")}
        measured = [start_rows(run_starts(cache, 5), counts) for _ in range(rounds)]
    return [worst(list(rows)) for rows in zip(*measured, strict=True)]


def start_rows(seconds: dict[str, float], counts: dict[str, int]) -> tuple[dict[str, Any], ...]:
    ms = {name: value * 1e3 for name, value in seconds.items()}
    library, shown = ms["library"] / ms["dependencies"], ms["help"] / ms["nothing"]
    own = (ms["library"] - ms["dependencies"]) / ms["nothing"]
    return (
        row(
            "import of the library / import of its dependencies",
            library,
            "times",
            "at most 2",
            reached=library <= 2,
            detail=f"{ms['library']:.0f} ms, {counts['library']} modules / {ms['dependencies']:.0f} ms, "
            f"{counts['dependencies']}; the difference is {own:.1f} times python -c pass ({ms['nothing']:.0f} ms, "
            f"{counts['nothing']}); before a name is used it takes {ms['package']:.0f} ms",
        ),
        row(
            "stronghold-p2p --help / python -c pass",
            shown,
            "times",
            "at most 6",
            reached=shown <= 6,
            detail=f"{ms['help']:.0f} ms / {ms['nothing']:.0f} ms",
        ),
    )


# -- details -------------------------------------------------------------------------------------------


@asynccontextmanager
async def dialers(address: str, count: int) -> AsyncIterator[list[Peer]]:
    """So many peers, each connected, identified and answered once."""
    async with AsyncExitStack() as stack:
        rules = FirewallRules.allow_all()
        peers = [await stack.enter_async_context(Peer(config=CONFIG, firewall=rules)) for _ in range(count)]
        waiting = iter(peers)

        async def connect() -> None:
            for peer in waiting:
                events = peer.events()
                await peer.send_request(address, BODY)
                while not isinstance(await anext(events), PeerIdentified):
                    pass

        await asyncio.gather(*(connect() for _ in range(DIALS_AT_ONCE)))
        gc.collect()
        yield peers


async def offer_load(peer: Peer, address: str, per_second: float | None, seconds: float) -> list[float]:
    """Begins a task for each request, so many a second at even intervals; None: as many as keep IN_FLIGHT on their way.

    Returns the seconds that each took from when it was due."""
    latencies: list[float] = []
    tasks: set[asyncio.Task[None]] = set()
    clock = time.perf_counter

    async def request(due: float) -> None:
        await peer.send_request(address, BODY)
        latencies.append(clock() - due)

    begin = now = clock()
    sent = 0
    while now < begin + seconds:
        while len(tasks) < IN_FLIGHT if per_second is None else begin + sent / per_second <= now:
            task = asyncio.create_task(request(now if per_second is None else begin + sent / per_second))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        await asyncio.sleep(0)
        now = clock()
    await asyncio.gather(*tasks)
    return latencies


async def shake_hands_once(address: str, identity: NoiseIdentity) -> None:
    """Connects as far as a multiplexed connection, and leaves."""
    (_, host), (_, port) = Multiaddr.parse(address).without_peer().components
    reader, writer = await asyncio.open_connection(host, port)
    upgrade = Upgrade(identity, initiator=True, ephemeral=NoiseKey(X25519PrivateKey.generate()))
    while not upgrade.done:
        writer.write(upgrade.data_to_send())
        received = await reader.read(65536)
        upgrade.receive_data(received) if received else upgrade.receive_eof()
    writer.write(upgrade.data_to_send())
    writer.close()
    await writer.wait_closed()


def bare_handshake(rounds: int = 300) -> float:
    """Seconds of what a listener must compute for each handshake of Noise XX: a key, three exchanges, a signature checked;
    its own signature serves for all."""
    static, remote = X25519PrivateKey.generate(), X25519PrivateKey.generate().public_key()
    identity = Ed25519PrivateKey.generate()
    message = bytes(56)
    signature = identity.sign(message)
    begin = time.process_time()
    for _ in range(rounds):
        ephemeral = X25519PrivateKey.generate()
        ephemeral.public_key().public_bytes_raw()
        ephemeral.exchange(remote)
        ephemeral.exchange(remote)
        static.exchange(remote)
        identity.public_key().verify(signature, message)
    return (time.process_time() - begin) / rounds


def run_starts(cache: str, times: int) -> dict[str, float]:
    """The median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in STARTS}
    for _ in range(times):
        for name, arguments in STARTS.items():
            begin = time.perf_counter()
            run_python(cache, *arguments)
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(measured) for name, measured in seconds.items()}


def modules_of(cache: str, code: str) -> int:
    return int(run_python(cache, "-c", f"{code}; import sys; print(len(sys.modules))"))


def run_python(cache: str, *arguments: str) -> bytes:
    """What it prints; ``cache``: where compiled modules are."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return subprocess.run([sys.executable, *arguments], env=environment, check=True, stdout=subprocess.PIPE).stdout


def rss(process: int) -> int:
    """Bytes of memory that a process has."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()


def peak_rss(process: int) -> int:
    """The most that it has had so far."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


@contextmanager
def listener() -> Iterator[tuple[int, str]]:
    """A listener in a process of its own: its id, and its address."""
    command = [sys.executable, "-m", "bench.scale", "--listen"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.pid, process.stdout.readline().strip()
        finally:
            process.stdin.close()


async def answer(request: Request[Any]) -> Any:
    return request.body


async def listen() -> None:
    async def hold(stream: Stream) -> None:
        await stream.read()

    async with Peer(firewall=FirewallRules.allow_all(), config=CONFIG, relay=RELAY) as peer:
        peer.on_request(answer)
        peer.handle_stream(IDLE_PROTOCOL, hold)
        gc.collect()
        gc.freeze()  # as `stronghold-p2p listen` does
        print(await peer.listen(), flush=True)
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    parser = argparse.ArgumentParser(description="Many peers, idle memory, handshakes, latency, start.")
    parser.add_argument("--rounds", type=int, default=3, help="the worst of these counts where time is (default: 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON object, the rows by name")
    parser.add_argument("--listen", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.listen:
        with asyncio.Runner(loop_factory=limit.loop_factory()) as runner:
            runner.run(listen())
        return
    rows = measure(arguments.rounds)
    if arguments.json:
        print(json.dumps({line["name"]: line for line in rows}))
        return
    for line in rows:
        verdict = "reached" if line["reached"] else "not reached"
        print(f"{line['name']}: {line['value']} {line['unit']} (goal: {line['goal']}; {verdict}) {line['detail']}")


if __name__ == "__main__":
    main()
