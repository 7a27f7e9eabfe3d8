"""A complete program: one peer sends a request to another."""

import asyncio
from typing import Any

from stronghold_p2p import FirewallRules, Request, StrongholdP2p


async def main() -> None:
    async with StrongholdP2p(firewall=FirewallRules.allow_all()) as bob, StrongholdP2p() as alice:

        @bob.on_request
        async def answer(request: Request[Any]) -> Any:
            return {"echo": request.body}

        address = await bob.listen("/ip4/127.0.0.1/tcp/0")
        print(await alice.send_request(address, {"hello": "bob"}, timeout=5))


if __name__ == "__main__":
    asyncio.run(main())
