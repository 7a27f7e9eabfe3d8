"""The peers that ask, many in a process of its own.

    python -m soak.askers

Reads lines of JSON, and answers each with the figures from the last ``"begin"`` on. ``["come", addresses, peers, life]``
has so many peers come and go, each for about ``life`` seconds; ``["ask", addresses, peers, kind, pause, patience]`` has them stay, and ask one request after the other,
with ``pause`` seconds between; ``["flood", addresses, peers, kind, per_second, patience]`` has so many requests of all together,
whether or not those before are answered. ``"end"`` has what is under way end, and its peers leave.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count, cycle
from typing import Any

from soak.listener import IDLE
from stronghold_p2p import Config, StrongholdError, StrongholdP2p

CONFIG = Config(close_timeout=0.1, idle_timeout=IDLE)

PATIENCE = 20.0
"""Seconds for a request of a peer that comes and goes. None may fail, and other programs take their time, too."""

REQUESTS = 8
"""Of a peer that comes and goes, on the average."""

SIZES = (0, 10, 100, 1_000, 10_000, 100_000)
"""Of bodies, in bytes; the large ones are rare."""

Peer = StrongholdP2p[Any, Any]


class Asked:
    """What became of the requests."""

    def __init__(self) -> None:
        self._numbers = count()
        self._last: dict[Peer, float] = {}
        """When each of those that stay was answered last; never, at first."""
        self.came = 0
        self.begin()

    def begin(self) -> None:
        self.wrong = 0
        self.failed: Counter[str] = Counter()
        self._times: list[float] = []
        self._longest = 0.0
        self._began = time.monotonic()

    async def ask(self, peer: Peer, address: str, patience: float, *, kind: str = "echo", size: int = 10) -> bool:
        """Whether it was answered."""
        body = {"kind": kind, "number": next(self._numbers), "data": "x" * size}
        begin = time.monotonic()
        try:
            answer = await peer.send_request(address, body, timeout=patience)
        except StrongholdError as error:
            self.failed[type(error).__name__] += 1
            return False
        finally:
            self._longest = max(self._longest, time.monotonic() - begin)
        self._times.append(time.monotonic() - begin)
        self.wrong += answer != {"peer": str(peer.peer_id), "body": body}
        return True

    def stays(self, peer: Peer) -> None:
        """From now on it must be answered, again and again."""
        self._last[peer] = -math.inf

    def answered(self, peer: Peer) -> None:
        self._last[peer] = time.monotonic()

    def leaves(self, peer: Peer) -> None:
        del self._last[peer]

    def figures(self) -> dict[str, Any]:
        """Times are in seconds."""
        times, now = sorted(self._times), time.monotonic()
        return {
            "came": self.came,
            "answered": len(times),
            "per_second": len(times) / (now - self._began),
            "wrong": self.wrong,
            "failed": dict(self.failed),
            "p99": times[math.ceil(0.99 * len(times)) - 1] if times else math.inf,
            "longest": self._longest,
            "silent": max((now - last for last in self._last.values()), default=math.inf),
        }


class Askers:
    """All peers of the process, and their requests."""

    def __init__(self) -> None:
        self.asked = Asked()
        self._running: set[asyncio.Task[None]] = set()

    def do(self, what: str, *arguments: Any) -> None:
        doing: dict[str, Callable[..., Coroutine[Any, Any, None]]]
        doing = {"come": self.come, "ask": self.ask, "flood": self.flood}
        self._running.add(asyncio.create_task(doing[what](*arguments)))

    async def end(self) -> None:
        for task in self._running:
            task.cancel()
        for result in await asyncio.gather(*self._running, return_exceptions=True):
            if not isinstance(result, asyncio.CancelledError):
                raise result or AssertionError("nothing ends by itself")
        self._running.clear()

    async def come(self, addresses: Sequence[str], peers: int, life: float) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(peers):
                tasks.create_task(self._come_and_go(addresses, life, first=number / peers))

    async def _come_and_go(self, addresses: Sequence[str], life: float, *, first: float) -> None:
        """Others come all the while: so they are all of different ages."""
        await asyncio.sleep(first * min(life, 10.0))
        while True:
            self.asked.came += 1
            address = random.choice(addresses)
            async with Peer(config=CONFIG) as peer:
                for _ in range(random.randint(1, 2 * REQUESTS)):
                    size = random.choices(SIZES, (32, 16, 8, 4, 2, 1))[0]
                    await self.asked.ask(peer, address, PATIENCE, size=size)
                    await asyncio.sleep(random.uniform(0, 2 * life / REQUESTS))
                if not random.randrange(8):  # it leaves in the middle of a request
                    leaving = asyncio.create_task(self.asked.ask(peer, address, PATIENCE, kind="waits"))
                    await asyncio.sleep(0.001)
                    leaving.cancel()

    async def ask(self, addresses: Sequence[str], peers: int, kind: str, pause: float, patience: float) -> None:
        async with peers_that_stay(peers) as all_peers, asyncio.TaskGroup() as tasks:
            for peer, address in zip(all_peers, cycle(addresses), strict=False):
                tasks.create_task(self._ask_on(peer, address, kind, pause, patience))

    async def flood(self, addresses: Sequence[str], peers: int, kind: str, per_second: float, patience: float) -> None:
        async with peers_that_stay(peers) as all_peers, asyncio.TaskGroup() as tasks:
            begin = time.monotonic()
            for number, (peer, address) in enumerate(zip(cycle(all_peers), cycle(addresses), strict=False)):
                tasks.create_task(self._ask_once(peer, address, kind, patience))
                await asyncio.sleep(max(0.0, begin + number / per_second - time.monotonic()))

    async def _ask_on(self, peer: Peer, address: str, kind: str, pause: float, patience: float) -> None:
        self.asked.stays(peer)
        try:
            while True:
                if await self.asked.ask(peer, address, patience, kind=kind):
                    self.asked.answered(peer)
                await asyncio.sleep(pause)
        finally:
            self.asked.leaves(peer)

    async def _ask_once(self, peer: Peer, address: str, kind: str, patience: float) -> None:
        await self.asked.ask(peer, address, patience, kind=kind)


@asynccontextmanager
async def peers_that_stay(count: int) -> AsyncIterator[list[Peer]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Peer(config=CONFIG)) for _ in range(count)]


async def run() -> None:
    askers = Askers()
    while line := await asyncio.to_thread(sys.stdin.readline):
        match json.loads(line):
            case "begin":
                askers.asked.begin()
            case "end":
                await askers.end()
            case [what, *arguments]:
                askers.do(what, *arguments)
        print(json.dumps(askers.asked.figures()), flush=True)
    await askers.end()


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(run())
