"""The victim, in a process of its own, which measures itself.

    python -m attack.victim TERMS LOOP

TERMS is a :class:`Victim` as JSON, LOOP is asyncio or uvloop. Prints its addresses: for TCP on 127.0.0.1 and ::1, and for
WebSocket on ::1, without TLS and with it. Then, for each line that it reads, it prints what happened since the one before, as JSON. A thread does
that: a loop that is stalled answers nothing.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from attack.clients import FRESH, keypair
from attack.terms import Firewall, Victim
from bench import limit
from stronghold_p2p import (
    ConnectionClosed,
    FirewallRequest,
    FirewallRequestOpened,
    FirewallRules,
    InboundConnectionFailed,
    Multiaddr,
    PeerId,
    RelayServer,
    Request,
    Rule,
    StrongholdError,
    StrongholdP2p,
)

ADDRESSES = ("/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0", "/ip6/::1/tcp/0/ws")
MEGABYTE = "x" * 1_000_000

READING_TIME = 0.5
"""Seconds in which a person reads a question and answers it."""

HANDLING_TIME = 0.1
"""Seconds that a slow request takes."""

TICK = 0.005
"""Seconds between two looks at the loop."""

Peer = StrongholdP2p[Any, Any]


class Turns:
    """How long the loop keeps what is due waiting: at most the rest of the turn that is under way, and the reads before
    timers in the next.

    Late is only what this process has computed meanwhile: the machine has fewer processors than processes. All its threads
    count, as one that does not let go of the interpreter stalls the loop like the loop itself.
    """

    def __init__(self) -> None:
        self._longest = 0.0
        self._loop = asyncio.get_running_loop()
        self._begin()

    def longest(self) -> float:
        """The longest wait since the last call, in seconds, and be it that of right now."""
        longest, self._longest = max(self._longest, self._late()), 0.0
        return longest

    def _begin(self) -> None:
        self._due = time.monotonic() + TICK
        self._computed = time.process_time()
        self._loop.call_later(TICK, self._look)

    def _late(self) -> float:
        return min(time.monotonic() - self._due, time.process_time() - self._computed)

    def _look(self) -> None:
        self._longest = max(self._longest, self._late())
        self._begin()


class Memory:
    """What /proc tells of this process; its files are opened before descriptors run out."""

    def __init__(self) -> None:
        self._status = os.open("/proc/self/status", os.O_RDONLY)
        self._clear = os.open("/proc/self/clear_refs", os.O_WRONLY)

    def figures(self) -> dict[str, float]:
        """What is resident now, and the peak since the last call, in 10^6 bytes."""
        text = os.pread(self._status, 8192, 0).decode()
        values = dict(line.split(":", 1) for line in text.splitlines())
        os.write(self._clear, b"5")  # the peak begins anew (proc(5))
        return {
            "memory": int(values["VmRSS"].split()[0]) * 1024 / 1e6,
            "memory_peak": int(values["VmHWM"].split()[0]) * 1024 / 1e6,
        }


class Person:
    """Answers one question at a time."""

    def __init__(self, peer: Peer, honest: set[PeerId]) -> None:
        self._questions = peer.firewall_requests()
        self._honest = honest
        self._shown = 0
        self._opened: dict[int, int] = {}
        """How many had been shown when an honest one was open, by its id."""
        self.shown_after = 0

    def opened(self, event: FirewallRequestOpened) -> None:
        if event.peer in self._honest:
            self._opened[event.id] = self._shown

    async def answer(self) -> None:
        async for question in self._questions:
            self._shown += 1
            if question.id in self._opened:
                self.shown_after = max(self.shown_after, self._shown - self._opened.pop(question.id))
            await asyncio.sleep(READING_TIME)
            question.approve() if question.peer in self._honest else question.reject()


class Watch:
    """All that is measured."""

    def __init__(self, person: Person | None) -> None:
        self._person = person
        self._turns = Turns()
        self._memory = Memory()
        self._closed: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()

    async def events(self, peer: Peer) -> None:
        async for event in peer.events(buffer=100_000):
            match event:
                case ConnectionClosed(connection, StrongholdError() as error) if is_attacker(connection.address):
                    self._closed[type(error).__name__] += 1
                case InboundConnectionFailed(address, error) if is_attacker(address):
                    self._refused[type(error).__name__] += 1
                case FirewallRequestOpened() if self._person is not None:
                    self._person.opened(event)

    def tell(self) -> None:
        """Until stdin ends."""
        while sys.stdin.readline():
            print(json.dumps(self._figures()), flush=True)

    def _figures(self) -> dict[str, Any]:
        """What happened since the last call."""
        figures = {
            "turn": 1e3 * self._turns.longest(),
            "closed": dict(self._closed),
            "refused": dict(self._refused),
            "shown_after": self._person.shown_after if self._person else 0,
            **self._memory.figures(),
        }
        self._closed.clear()
        self._refused.clear()
        return figures


def is_attacker(address: Multiaddr) -> bool:
    """Honest ones are on 127.0.0.1."""
    return address.components[0] != ("ip4", "127.0.0.1")


async def answer(request: Request[Any]) -> Any:
    if request.body == "slow":
        await asyncio.sleep(HANDLING_TIME)
    return MEGABYTE if request.body == "big" else request.body


async def iterate(peer: Peer) -> None:
    async for request in peer.requests():
        await request.respond(await answer(request))


def approve_honest(honest: set[PeerId], question: FirewallRequest) -> None:
    """What a program answers."""
    if question.peer in honest:
        question.approve()


def rules(firewall: Firewall, kept: PeerId, fresh: list[PeerId]) -> FirewallRules:
    allowed: dict[Firewall, list[PeerId]] = {"ask strangers": [kept, *fresh], "ask newcomers": [kept]}
    return FirewallRules(
        inbound=Rule.ALLOW_ALL if firewall == "allow" else Rule.ASK,
        peers=dict.fromkeys(allowed.get(firewall, ()), (Rule.ALLOW_ALL, None)),
    )


@contextmanager
def certificate() -> Iterator[tuple[str, str]]:
    """The files of a chain and its key. With RSA, whose signatures are dear to make and cheap to ask for."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "victim")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
    ).sign(key, hashes.SHA256())
    with tempfile.NamedTemporaryFile() as chain, tempfile.NamedTemporaryFile() as private:
        chain.write(signed.public_bytes(Encoding.PEM))
        private.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        chain.flush()
        private.flush()
        yield chain.name, private.name


async def run(terms: Victim) -> None:
    kept, *fresh = (keypair(number).peer_id for number in range(1 + FRESH))
    honest = {kept, *fresh}
    relay = RelayServer() if terms.relay else None
    peer = Peer(firewall=rules(terms.firewall, kept, fresh), codec=terms.codec, relay=relay, mdns=terms.mdns)
    async with asyncio.TaskGroup() as tasks, peer:  # the iterations end with the peer
        person = None
        if terms.firewall == "ask all":
            peer.on_firewall_request(partial(approve_honest, honest))
        elif terms.firewall != "allow":
            person = Person(peer, honest)
            tasks.create_task(person.answer())
        if terms.iterates:
            tasks.create_task(iterate(peer))
        else:
            peer.on_request(answer)
        watch = Watch(person)
        tasks.create_task(watch.events(peer))
        addresses = [str(await peer.listen(address)) for address in ADDRESSES]
        with certificate() as files:
            addresses.append(str(await peer.listen("/ip6/::1/tcp/0/tls/ws", certificate=files)))
        gc.collect()
        gc.freeze()  # as `stronghold-p2p listen` does
        print(json.dumps(addresses), flush=True)
        if terms.descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (terms.descriptors, terms.descriptors))
        await asyncio.to_thread(watch.tell)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")  # to stderr, which is counted
    with asyncio.Runner(loop_factory=limit.loop_factory(sys.argv[2])) as runner:
        runner.run(run(Victim(**json.loads(sys.argv[1]))))
