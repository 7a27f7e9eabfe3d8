"""The peer that is asked, in a process of its own.

    python -m soak.listener TERMS

TERMS is :class:`Terms` as JSON. Prints its addresses. Then, for each line that it reads, it prints its figures.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import resource
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attack.victim import Memory
from bench.limit import loop_factory
from stronghold_p2p import Config, FirewallRules, Keypair, RelayServer, Request, StrongholdP2p

__all__ = ["FAILED_HANDLER", "IDLE", "STALL", "WORKERS", "Terms", "keypair"]

COMPUTING = 0.002
"""Seconds that a request "computes": the peer serves 500 a second at most, whatever they cost it otherwise."""

WORKERS = 4
WAITING = 0.008
"""Seconds that a request "waits"; of so many workers, each with one at a time: as many a second."""

STALL = 2.0
"""Seconds for which a request "blocks" the loop."""

IDLE = 60.0
"""Seconds until idle connections are closed: peers stay connected between their requests."""

FAILED_HANDLER = 2.0
"""Seconds after which a handler that does not return has failed."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What is started."""

    name: str
    """Its identity comes of it: whoever is started again is the same peer."""
    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    relay: bool = False
    via: str | None = None
    """The address of a relay through which it listens, and by no other way."""
    state: str | None = None
    """A state file, to which it keeps bans as fast as they are written."""
    workers: int | None = None
    """So many tasks iterate over the requests; else there is a handler."""
    descriptors: int | None = None
    """It may have so many files and sockets open."""
    loop: str = "asyncio"


def keypair(name: str) -> Keypair:
    return Keypair(Ed25519PrivateKey.from_private_bytes(sha256(name.encode()).digest()))


async def answer(request: Request[Any]) -> Any:
    """What a request gets: who asked, and what; after as long as its kind takes."""
    match request.body["kind"]:
        case "computes":
            until = time.thread_time() + COMPUTING
            while time.thread_time() < until:
                pass
        case "waits":
            await asyncio.sleep(WAITING)
        case "blocks":
            time.sleep(STALL)  # noqa: ASYNC251 - as a user's handler that does not know better
        case "never":
            await asyncio.Event().wait()
    return {"peer": str(request.peer), "body": request.body}


async def work(requests: AsyncIterator[Request[Any]]) -> None:
    """As one of several."""
    async for request in requests:
        await request.respond(await answer(request))


class Listening:
    """A peer that runs, and what it tells of itself."""

    def __init__(self, peer: StrongholdP2p[Any, Any]) -> None:
        self._peer = peer
        self._memory = Memory()
        self._banned = 0

    async def ban_for_ever(self) -> None:
        for number in count():
            await self._peer.ban_peer(keypair(f"banned {number}").peer_id)
            self._banned = number + 1

    async def tell(self) -> None:
        """Until stdin ends."""
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(self._figures(collect=json.loads(line) == "settled")), flush=True)

    def _figures(self, *, collect: bool) -> dict[str, float]:
        """``collect``: also how many objects there are, which takes a while."""
        return {
            **self._memory.figures(),
            "connections": len(self._peer.connections),
            "streams": sum(connection.streams for connection in self._peer.connections),
            "tasks": len(asyncio.all_tasks()),
            "descriptors": len(os.listdir("/proc/self/fd")) if collect else 0,
            "objects": len(gc.get_objects()) if collect and gc.collect() is not None else 0,
            "banned": self._banned,
        }


async def run(terms: Terms) -> None:
    peer = StrongholdP2p[Any, Any](
        keypair=keypair(terms.name),
        firewall=FirewallRules.allow_all(),
        config=Config(handler_timeout=FAILED_HANDLER + STALL, idle_timeout=IDLE),
        state=terms.state,
        relay=RelayServer() if terms.relay else None,
    )
    async with peer, asyncio.TaskGroup() as tasks:
        background = []
        if terms.workers is None:
            peer.on_request(answer)
        else:
            requests = peer.requests()
            background += [tasks.create_task(work(requests)) for _ in range(terms.workers)]
        if terms.via is None:
            addresses = [str(await peer.listen(address)) for address in terms.listen]
        else:
            addresses = [str(await peer.listen_via_relay(terms.via))]
        listening = Listening(peer)
        if terms.descriptors is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (terms.descriptors, terms.descriptors))
        print(json.dumps(addresses), flush=True)
        if terms.state is not None:
            background.append(tasks.create_task(listening.ban_for_ever()))
        await listening.tell()
        for task in background:
            task.cancel()


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")  # to stderr, where nothing may stand
    arguments = Terms(**json.loads(sys.argv[1]))
    with asyncio.Runner(loop_factory=loop_factory(arguments.loop)) as runner:
        runner.run(run(arguments))
