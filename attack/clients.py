"""The honest ones, in a process of their own: small requests on a standing connection, and from new identities.

    python -m attack.clients CODEC FRESH_PER_SECOND direct|relayed

Reads one line, the victim's address as JSON, and answers with one once it is connected. Then, for each line that it reads,
it prints what became of the requests that were begun since the one before, as JSON; requests that are under way are waited
for, so that the slow ones count.

"relayed": the victim is a relay, and the requests go through it to peers of this process.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from itertools import count
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stronghold_p2p import Config, FirewallRules, Keypair, Request, StrongholdError, StrongholdP2p

__all__ = ["FRESH", "HOST", "keypair"]

FRESH = 512
"""Identities of new connections; after so many they come again."""

HOST = 1 + FRESH
"""The number of the one that is reached through the victim."""

PATIENCE = 2.0
"""Seconds for a request, with the dial."""

KEPT_PER_SECOND = 100.0

BODY = "x" * 62
CONFIG = Config(close_timeout=0.1)

Peer = StrongholdP2p[Any, Any]


class Answer(NamedTuple):
    """What became of a request."""

    seconds: float
    answered: bool


def keypair(number: int) -> Keypair:
    """Of the standing connection (0), of a new one (from 1), or of :data:`HOST`. The same in every process: a victim knows whom it allows."""
    return Keypair(Ed25519PrivateKey.from_private_bytes(sha256(b"honest %d" % number).digest()))


class Clients:
    """Requests at even intervals, whether or not those before are answered: what stalls is seen by all that were due."""

    def __init__(self, victim: str, codec: Any, *, relayed: bool) -> None:
        self._victim = victim
        self._codec = codec
        self._relayed = relayed
        self._kept: list[asyncio.Task[Answer]] = []
        self._fresh: list[asyncio.Task[Answer]] = []

    @asynccontextmanager
    async def answering(self, identity: Keypair | None = None) -> AsyncIterator[str]:
        """Where requests are answered: by the victim, or by a peer that is reached through it."""
        if not self._relayed:
            yield self._victim
            return
        async with Peer(keypair=identity, config=CONFIG, codec=self._codec, firewall=FirewallRules.allow_all()) as peer:
            peer.on_request(answer)
            yield str(await peer.listen_via_relay(self._victim))

    async def keep(self, peer: Peer, address: str, per_second: float) -> None:
        """On the standing connection."""
        while True:
            self._kept.append(asyncio.create_task(self._ask(peer, address)))
            await asyncio.sleep(1 / per_second)

    async def come(self, per_second: float) -> None:
        """Each from the next identity."""
        for number in count():
            self._fresh.append(asyncio.create_task(self._ask_once(1 + number % FRESH)))
            await asyncio.sleep(1 / per_second)

    async def figures(self) -> dict[str, float]:
        """Of the requests that were begun since the last call."""
        begun, self._kept, self._fresh = (self._kept, self._fresh), [], []
        kept, fresh = [[await task for task in tasks] for tasks in begun]
        times = sorted(answer.seconds for answer in kept)
        return {
            "kept": share(kept),
            "kept_p99": 1e3 * times[math.ceil(0.99 * len(times)) - 1],
            "fresh": share(fresh),
        }

    async def _ask_once(self, number: int) -> Answer:
        begin = time.perf_counter()
        try:
            async with (
                Peer(keypair=keypair(number), config=CONFIG, codec=self._codec) as peer,
                self.answering() as address,
            ):
                return await self._ask(peer, address)
        except StrongholdError:  # the victim gives no reservation
            return Answer(time.perf_counter() - begin, answered=False)

    async def _ask(self, peer: Peer, address: str) -> Answer:
        begin = time.perf_counter()
        answered = False
        with suppress(StrongholdError):
            answered = await peer.send_request(address, BODY, timeout=PATIENCE) == BODY
        return Answer(time.perf_counter() - begin, answered)


def share(answers: list[Answer]) -> float:
    """Of those that were answered, in percent."""
    return 100 * sum(answer.answered for answer in answers) / len(answers)


async def answer(request: Request[Any]) -> Any:
    return request.body


async def run(victim: str, codec: Any, per_second: float, *, relayed: bool) -> None:
    clients = Clients(victim, codec, relayed=relayed)
    async with (
        Peer(keypair=keypair(0), config=CONFIG, codec=codec) as peer,
        clients.answering(keypair(HOST)) as address,
    ):
        await peer.send_request(address, BODY)
        sending = [
            asyncio.create_task(clients.keep(peer, address, KEPT_PER_SECOND)),
            asyncio.create_task(clients.come(per_second)),
        ]
        print(json.dumps("ready"), flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await clients.figures()), flush=True)
        for task in sending:
            task.cancel()


if __name__ == "__main__":
    if line := sys.stdin.readline():
        asyncio.run(run(json.loads(line), sys.argv[1], float(sys.argv[2]), relayed=sys.argv[3] == "relayed"))
