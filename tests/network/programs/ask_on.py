"""A program: asks a peer on the local network again and again, by its id alone, and prints what came of each request.

ask_on.py PEER
"""

from __future__ import annotations

import asyncio
import json
import sys

from stronghold_p2p import StrongholdError, StrongholdP2p

PAUSE = 0.1
"""Seconds between two requests."""

TIMEOUT = 2.0
"""Seconds for each."""


async def main(to: str) -> None:
    async with StrongholdP2p(mdns=True) as peer:
        await peer.listen("/ip4/0.0.0.0/tcp/0")
        while True:
            try:
                await peer.send_request(to, "still there?", timeout=TIMEOUT)
            except StrongholdError as error:
                line = {"event": "failed", "error": type(error).__name__, "message": str(error)}
            else:
                line = {"event": "answered"}
            print(json.dumps(line), flush=True)
            await asyncio.sleep(PAUSE)


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)
