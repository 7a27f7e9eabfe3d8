"""Two peers and who lies between them, in a simulated world: each fault alone, and what must hold then."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from support.certificates import Authority

from simulation.loop import Loop, replace_system
from simulation.network import Endpoint, Machine, Network
from simulation.process import Process
from simulation.world import world
from stronghold_p2p import (
    Config,
    ConnectionClosed,
    ConnectionEstablished,
    Direction,
    FirewallDecision,
    FirewallRules,
    PeerId,
    RelayServer,
    Request,
    RequestHandled,
    Rule,
    StrongholdError,
    StrongholdP2p,
)

from .fault import Fault, Kind
from .middle import FaultyRelay, Middle, Proxy

__all__ = ["prepare", "run"]

Peer = StrongholdP2p[Any, Any]

PORT: Final = 4001

AT_ANY_RATE: Final[dict[str, Any]] = {
    f"max_{what}_per_minute_per_{whom}": 10**9 for what in ("reservations", "circuits") for whom in ("peer", "network")
}

SIZES: Final = {20: 1, 100_000: 4999}
"""Of the texts in bodies, in bytes, and which of their bytes meet a fault: one of so many."""

THROTTLED: Final = 1000
"""Bytes at most of a text that throttled connections bring in time."""

BITS: Final = (0xFF, 0x01, 0x20, 0x80)
"""Changed in turn: those of case, sign and parity among them."""

SELDOM: Final = {Kind.STALL: 5, Kind.DELAY: 5, Kind.THROTTLE: 40}
"""Faults that meet only one byte of so many: they take longer, and what comes of them changes less from byte to byte."""

ENDS: Final = {Kind.CUT, Kind.HALF_CLOSE}
"""Those that end the connection: the next request needs another, and gets it."""

AT_ONCE: Final = 1.0
"""Seconds until a request has ended whose connection has."""

SLACK: Final = 0.5
"""Seconds by which a request may end after its time."""

GONE_WITHIN: Final = 60.0
"""Seconds until nothing is left of a connection that one end has closed, whatever the other one hears of that."""

REQUEST_TIMEOUT: Final = Config().request_timeout

LOOKS_EVERY: Final = 0.5
"""Seconds."""

PATIENT: Final = Config(idle_timeout=100_000.0)
"""Of a relay, and who dials through it: their connection stays."""


class Asker:
    """A peer, and the program around it: it asks, answers, and looks at what comes."""

    def __init__(
        self,
        name: str,
        network: Network,
        ip: str,
        complaints: list[str],
        config: Config,
        **parts: Any,
    ) -> None:
        self.name = name
        self.machine = Machine(network, name, ip)
        self.process = Process(self.machine)
        self.handled: Counter[int] = Counter()
        self.connected = asyncio.Event()
        self._complaints = complaints
        self._open: Counter[str] = Counter()
        """What it was told the beginning of, and no end."""
        self.peer: Peer = self.process.call(self._make, {"config": config, **parts})

    def _make(self, parts: dict[str, Any]) -> Peer:
        peer: Peer = StrongholdP2p(firewall=FirewallRules(inbound=Rule.ALLOW_ALL), **parts)
        peer.on_request(self._answer)
        return peer

    async def start(self) -> None:
        events = self.peer.events(buffer=100_000, decisions=True)
        self._watching = self.process.start(self._watch(events))
        await self.process.start(self.peer.start())

    async def _answer(self, request: Request[Any]) -> Any:
        number = request.body["number"]
        self.handled[number] += 1
        size = len(request.body["text"])
        if size not in SIZES or request.body != question(number, size):
            self._complaints.append(f"{self.name} was asked {request.body!r:.100}")
        await asyncio.sleep(0)
        return answer(number, size)

    async def _watch(self, events: Any) -> None:
        async for event in events:
            match event:
                case ConnectionEstablished():
                    self._open["connections"] += 1
                    self.connected.set()
                case ConnectionClosed():
                    self._open["connections"] -= 1
                case FirewallDecision(allowed=True, direction=Direction.INBOUND):
                    self._open["requests"] += 1
                case RequestHandled():
                    self._open["requests"] -= 1

    def state(self) -> dict[str, int]:
        """What it has, by kinds, in numbers."""
        swarm = self.peer._parts.swarm
        assert swarm is not None
        self.process.tasks -= {task for task in self.process.tasks if task.done()}
        return {
            "connections": len(swarm.connections),
            "dials": len(swarm._dialer.dials),
            "upgrades": len(swarm._upgrading),
            "bytes": swarm.memory.used,
            "sockets": len(self.process.sockets),
            "tasks": len(self.process.tasks),
            **{f"{what} without an end": count for what, count in self._open.items()},
        }


class Cases:
    """The dialer asks the listener by one route, and again, and the listener the dialer as soon as they are connected."""

    def __init__(self, route: str, authority: Authority, complaints: list[str]) -> None:
        self.complaints = complaints
        self.counts: Counter[str] = Counter()
        self._route = route
        self._network = Network()
        self._network.delay, self._network.jitter, self._network.loss = 0.0005, 0.0, 0.0
        self._network.segment = self._network.window = 1 << 20
        self._numbers = 0
        self._size = next(iter(SIZES))
        self._authority = authority
        self._dialer = Asker(
            "the dialer", self._network, "11.0.0.1", self.complaints, PATIENT, authorities=authority.file
        )
        self._listener = Asker("the listener", self._network, "11.0.0.2", self.complaints, Config())
        self._relay: PeerId | None = None
        """That the dialer connects to anew for each fault."""
        self._askers = [self._dialer, self._listener]
        self._middle: Middle
        self.totals: dict[bool, int] = {}
        """Bytes of a handshake and a request each way, to the listener or not."""

    async def run(self, stride: int) -> None:
        """Each fault at each ``stride``-th byte, no two of them at the same."""
        await self._start()
        await self._case(None)
        self._quiet = {asker: asker.state() for asker in self._askers}
        for self._size, seldom in SIZES.items():
            await self._case(None)
            kinds = [kind for kind in Kind if self._size <= THROTTLED or kind is not Kind.THROTTLE]
            for kind, to_listener in itertools.product(kinds, self.totals):
                for fault in self._faults(kind, to_listener, stride * seldom):
                    await self._case(fault)
                await self._case(None)
                gc.collect()  # tells of what cannot be cleared away
        for asker in self._askers:
            await asker.process.start(asker.peer.close())

    def _faults(self, kind: Kind, to_listener: bool, stride: int) -> Iterator[Fault]:
        step = stride * SELDOM.get(kind, 1)
        first = tuple(Kind).index(kind) % step
        for offset in range(first, self.totals[to_listener], step):
            yield Fault(kind, to_listener, offset, BITS[offset // step % len(BITS)])

    async def _start(self) -> None:
        await asyncio.gather(self._dialer.start(), self._listener.start())
        middle = Machine(self._network, "the middle", "11.0.0.3")
        listener, process = self._listener, Process(middle)
        at = f"/ip4/{middle.ip}/tcp/{PORT}"
        match self._route:
            case "tcp" | "websocket" | "tls":
                kind = {"tcp": "", "websocket": "/ws", "tls": "/tls/ws"}[self._route]
                certificate = self._authority.issue(middle.ip) if self._route == "tls" else None
                address = f"/ip4/0.0.0.0/tcp/{PORT}{kind}"
                await listener.process.start(listener.peer.listen(address, certificate=certificate))
                self._middle = proxy = Proxy(Endpoint(listener.machine.ip, PORT))
                await process.start(proxy.listen(PORT))
                self._address = f"{at}{kind}/p2p/{listener.peer.peer_id}"
            case "circuit":
                relay: Peer = process.call(lambda: StrongholdP2p(config=PATIENT))
                await process.start(relay.start())
                await process.start(relay.listen(f"/ip4/0.0.0.0/tcp/{PORT}"))
                self._middle = process.call(FaultyRelay, relay)
                await self._listen_via(f"{at}/p2p/{relay.peer_id}", f"{at}/p2p/{relay.peer_id}")
            case "to a relay":
                forwards = RelayServer(**AT_ANY_RATE)
                asker = Asker("the relay", self._network, "11.0.0.4", self.complaints, Config(), relay=forwards)
                self._askers.append(asker)
                await asker.start()
                await asker.process.start(asker.peer.listen(f"/ip4/0.0.0.0/tcp/{PORT}"))
                self._middle = proxy = Proxy(Endpoint(asker.machine.ip, PORT))
                await process.start(proxy.listen(PORT))
                self._relay = asker.peer.peer_id
                await self._listen_via(
                    f"/ip4/{asker.machine.ip}/tcp/{PORT}/p2p/{asker.peer.peer_id}", f"{at}/p2p/{asker.peer.peer_id}"
                )

    async def _listen_via(self, relay: str, dialed: str) -> None:
        """``dialed``: the relay as the dialer reaches it."""
        listener = self._listener
        await listener.process.start(listener.peer.listen_via_relay(relay))
        self._address = f"{dialed}/p2p-circuit/p2p/{listener.peer.peer_id}"

    # -- one of them -----------------------------------------------------------------------------

    async def _case(self, fault: Fault | None) -> None:
        self._middle.fault = fault
        self._what = f"{self._route}, {fault or 'no fault'}"
        dialer, listener = self._dialer, self._listener
        listener.connected.clear()
        back = listener.process.start(self._ask_back(fault))
        answered = await dialer.process.start(self._ask(dialer, self._address, listener, fault))
        again = await dialer.process.start(self._ask(dialer, self._address, listener, fault))
        if not answered and not again and fault is not None and fault.kind in ENDS:
            self._complain("the next request was not answered either")
        if not listener.connected.is_set():
            back.cancel()
        await asyncio.wait({back})
        if fault is None:
            self.totals = {to_listener: way.come for to_listener, way in self._middle.ways.items()}
        await asyncio.sleep(0.1)  # identify ends
        await dialer.process.start(dialer.peer.disconnect(listener.peer.peer_id))
        if self._relay is not None:
            await dialer.process.start(dialer.peer.disconnect(self._relay))
        if fault is None:
            await asyncio.sleep(2.0)
            return
        if self._middle.ways[fault.to_listener].come <= fault.offset:
            self.counts["never there"] += 1
        await self._nothing_is_left()
        for asker in self._askers:
            if asker.handled and max(asker.handled.values()) > 1:
                self._complain(f"{asker.name} has handled a request more than once")
            asker.handled.clear()

    async def _ask_back(self, fault: Fault | None) -> None:
        await self._listener.connected.wait()
        await self._ask(self._listener, self._dialer.peer.peer_id, self._dialer, fault)

    async def _ask(self, asker: Asker, to: Any, asked: Asker, fault: Fault | None) -> bool:
        """Whether there was an answer."""
        self._numbers += 1
        number = self._numbers
        began = world.now
        try:
            got = await asker.peer.send_request(to, question(number, self._size))
        except StrongholdError as error:
            outcome = type(error).__name__
            if fault is None or fault.kind in {Kind.DELAY, Kind.THROTTLE}:
                self._complain(f"{asker.name} got no answer: {error!r}")
        else:
            outcome = "answered"
            if got != answer(number, self._size):
                self._complain(f"{asker.name} was answered {got!r:.100}")
            if not asked.handled[number]:
                self._complain(f"{asker.name} was answered by nobody")
        took = world.now - began
        limit = AT_ONCE if fault is not None and fault.kind in ENDS else REQUEST_TIMEOUT + SLACK
        if took > limit:
            self._complain(f"the request of {asker.name} ended after {took:.3f} s: {outcome}")
        self.counts[f"{fault.kind.value if fault else 'no fault'}: {outcome}"] += 1
        return outcome == "answered"

    async def _nothing_is_left(self) -> None:
        began = world.now
        while left := [
            f"{asker.name}: {what} {count} instead of {quiet[what]}"
            for asker, quiet in self._quiet.items()
            for what, count in asker.state().items()
            if count != quiet[what]
        ]:
            if world.now - began > GONE_WITHIN:
                self._complain(f"left, {', '.join(left)}")
                return
            await asyncio.sleep(LOOKS_EVERY)

    def _complain(self, text: str) -> None:
        self.complaints.append(f"{self._what}: {text}")


def question(number: int, size: int) -> dict[str, Any]:
    return {"number": number, "text": "a" * size}


def answer(number: int, size: int) -> dict[str, Any]:
    return {"answers": number, "text": "z" * size}


def run(route: str, stride: int, complaints: list[str]) -> Cases:
    """All of one route, as :meth:`Cases.run`."""
    world.begin(1)
    world.cost = 0.0
    loop = Loop()
    asyncio.set_event_loop(loop)
    return loop.run_until_complete(_run(route, stride, complaints))


async def _run(route: str, stride: int, complaints: list[str]) -> Cases:
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(repr(context)))
    with tempfile.TemporaryDirectory() as folder:
        cases = Cases(route, Authority(Path(folder)), complaints)
        await cases.run(stride)
    return cases


def prepare(complaints: list[str]) -> None:
    """Once in a process, before :func:`run`."""
    logging.getLogger().addHandler(_Log(complaints))
    sys.unraisablehook = lambda what: complaints.append(
        f"nobody could be told of {what.exc_value!r} in {what.object!r}"
    )
    replace_system()
    gc.collect()
    gc.freeze()
    gc.disable()  # what is collected may do something, which is then done by whoever computes at that moment


class _Log(logging.Handler):
    """Takes errors that are logged for complaints, and all that asyncio says."""

    def __init__(self, complaints: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._complaints = complaints

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.name == "asyncio":
            self._complaints.append(f"logged: {record.getMessage()}")
