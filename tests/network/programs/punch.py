"""A program: one of the peers that a relay joins, which look for a direct path meanwhile. Prints what becomes of that.

punch.py relay ADDRESS: a line of input has it print how many circuits there are.
punch.py bob RELAY: answers through the relay; a line of input has it print how many requests came, and how many of them twice.
punch.py alice CIRCUIT: asks on and on, until a line of input; then it prints what became of the requests.
punch.py alice-by-relay CIRCUIT: the same, and no direct path will do.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from stronghold_p2p import (
    FirewallRules,
    HolePunchFailed,
    PathUpgraded,
    PeerIdentified,
    RelayServer,
    Request,
    StrongholdError,
    StrongholdP2p,
    wiring,
)
from stronghold_p2p.protocols.hole_punching import HolePunching

AT_ONCE = 8
"""Requests of Alice."""

Peer = StrongholdP2p[Any, Any]


def tell(event: str, **values: object) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


async def line_of_input() -> None:
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    loop.add_reader(sys.stdin, came.set)
    await came.wait()
    loop.remove_reader(sys.stdin)
    if not sys.stdin.readline():
        await asyncio.Event().wait()  # until we are interrupted


async def tell_of_paths(peer: Peer) -> None:
    async for event in peer.events():
        match event:
            case PathUpgraded(connection, before):
                tell("path_upgraded", address=str(connection.address), relay=str(before.relay))
            case HolePunchFailed(_, error, attempt, last):
                tell("hole_punch_failed", message=str(error), attempt=attempt, last=last)
            case PeerIdentified():
                tell("identified", peer=str(event.peer))
            case _:
                pass


async def relay(address: str) -> None:
    async with Peer(relay=RelayServer()) as peer:
        tell("listening", address=str(await peer.listen(address)))
        while True:
            await line_of_input()
            status = peer.relay_status
            assert status is not None
            tell("circuits", count=status.circuits)


async def bob(via: str) -> None:
    handled: Counter[object] = Counter()

    async def echo(request: Request[Any]) -> Any:
        handled[request.body] += 1
        await asyncio.sleep(0.01)
        return request.body

    async with Peer(firewall=FirewallRules.allow_all()) as peer, asyncio.TaskGroup() as tasks:
        peer.on_request(echo)
        tasks.create_task(tell_of_paths(peer))
        await peer.listen("/ip4/0.0.0.0/tcp/4001")
        tell("listening", address=str(await peer.listen_via_relay(via)))
        while True:
            await line_of_input()
            tell("handled", count=len(handled), twice=sum(count > 1 for count in handled.values()))


async def alice(circuit: str, *, by_relay: bool = False) -> None:
    errors: list[str] = []
    answered = number = 0
    over = False

    async def ask_on(peer: Peer) -> None:
        nonlocal answered, number
        while not over:
            number += 1
            body = number
            try:
                response = await peer.send_request(circuit, body, timeout=10)
            except StrongholdError as error:
                errors.append(f"{type(error).__name__}: {error}")
            else:
                answered += response == body

    async with Peer() as peer:
        if by_relay:
            peer.set_relay_mode("only")
        telling = asyncio.create_task(tell_of_paths(peer))
        await peer.listen("/ip4/0.0.0.0/tcp/4001")
        asking = [asyncio.create_task(ask_on(peer)) for _ in range(AT_ONCE)]
        try:
            await line_of_input()
        finally:
            over = True
        await asyncio.wait(asking)
        tell(
            "done",
            sent=number,
            answered=answered,
            errors=errors,
            relays=[str(one.path.relay) for one in peer.connections],
        )
        await line_of_input()
    await telling


ROLES: dict[str, Callable[[str], Coroutine[Any, Any, None]]] = {
    "relay": relay,
    "bob": bob,
    "alice": alice,
    "alice-by-relay": partial(alice, by_relay=True),
}

if __name__ == "__main__":
    # Short, in networks without a delay.
    vars(wiring)["HolePunching"] = partial(HolePunching, pause=0.1, dial_timeout=1.0)
    role, argument = sys.argv[1:]
    try:
        asyncio.run(ROLES[role](argument))
    except KeyboardInterrupt:
        sys.exit(130)
