"""Firewall rules by direction, as a default and for single peers."""

import asyncio
from typing import Any

from stronghold_p2p import (
    Direction,
    FirewallRules,
    NotPermitted,
    ProtocolNotSupported,
    Request,
    Rule,
    StrongholdP2p,
)


async def main() -> None:
    async with StrongholdP2p() as alice, StrongholdP2p() as mallory:
        rules = FirewallRules(inbound=Rule.REJECT_ALL, peers={alice.peer_id: (Rule.ALLOW_ALL, None)})
        async with StrongholdP2p(firewall=rules) as bob:

            @bob.on_request
            def answer(request: Request[Any]) -> str:
                return f"hello {request.body}"

            address = await bob.listen()
            print(await alice.send_request(address, "alice"))
            try:
                await mallory.send_request(address, "mallory")
            except ProtocolNotSupported:  # under REJECT_ALL the protocol is not even offered
                print("bob has nothing for mallory")

            alice.set_peer_rule(bob.peer_id, Rule.REJECT_ALL, direction=Direction.OUTBOUND)
            try:
                await alice.send_request(address, "alice, again")
            except NotPermitted:  # decided here: nothing was sent
                print("alice may no longer send requests to bob")


if __name__ == "__main__":
    asyncio.run(main())
