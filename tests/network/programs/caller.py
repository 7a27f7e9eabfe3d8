"""A program: listens on port 4001, and does what the lines of its input say, each ["connect", ADDRESS] or ["listen", ADDRESS],
which ends the listener before. Prints for each what is known then.
"""

from __future__ import annotations

import asyncio
import json
import sys

from stronghold_p2p import Multiaddr, PeerIdentified, StrongholdP2p


async def main() -> None:
    async with StrongholdP2p() as peer:
        events = peer.events(when_full="drop_oldest")
        await peer.listen("/ip4/0.0.0.0/tcp/4001")
        print('"ready"', flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            what, text = json.loads(line)
            observed = None
            if what == "listen":
                await peer.stop_listening()
                await peer.listen(text)
            else:
                await peer.connect(text)
                async for event in events:
                    if isinstance(event, PeerIdentified) and event.peer == Multiaddr.parse(text).peer_id:
                        observed = str(event.observed_address)
                        break
            print(json.dumps({"observed": observed, "nat": peer.nat_kind and peer.nat_kind.value}), flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)
