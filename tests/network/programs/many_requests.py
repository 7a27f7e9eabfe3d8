"""A program: finds a peer by mDNS, sends it COUNT requests, so many AT_ONCE, and prints how many were answered by their body.

many_requests.py PEER COUNT AT_ONCE
"""

from __future__ import annotations

import asyncio
import json
import sys

from stronghold_p2p import StrongholdP2p


async def main(to: str, count: int, at_once: int) -> None:
    answered = 0
    left = iter(range(count))

    async def ask(peer: StrongholdP2p) -> None:
        nonlocal answered
        for number in left:
            response = await peer.send_request(to, number, timeout=20)
            answered += response == number

    async with StrongholdP2p(mdns=True) as peer:
        await asyncio.gather(*(ask(peer) for _ in range(at_once)))
    print(json.dumps({"event": "done", "answered": answered}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
