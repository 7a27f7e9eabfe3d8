"""A custom protocol: streams with backpressure in both directions, on the same connection as requests."""

import asyncio

from stronghold_p2p import FirewallRules, Rule, Stream, StrongholdP2p

SHOUT = "/shout/1.0.0"


async def shout(stream: Stream) -> None:
    async with stream:
        while data := await stream.read():
            await stream.write(data.upper())


async def main() -> None:
    # A stream passes the firewall as a request does, by its protocol id.
    rules = FirewallRules(inbound=Rule.restricted(allow={SHOUT}))
    async with StrongholdP2p(firewall=rules) as bob, StrongholdP2p() as alice:
        bob.handle_stream(SHOUT, shout)
        address = await bob.listen()
        async with await alice.open_stream(address, SHOUT) as stream:
            for word in (b"end ", b"to ", b"end"):
                await stream.write(word)
            await stream.close_write()
            while data := await stream.read():
                print(data.decode(), end="")
            print()


if __name__ == "__main__":
    asyncio.run(main())
