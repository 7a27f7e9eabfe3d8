"""Typed requests: a union of structs is encoded like a Rust enum by serde, so Rust peers understand it."""

import asyncio

from msgspec import Struct

from stronghold_p2p import FirewallRules, Request, StrongholdP2p


class Get(Struct):  # {"Get": {"name": "..."}}
    name: str


class Put(Struct):  # {"Put": {"name": "...", "value": ...}}
    name: str
    value: int


class Count(Struct):  # "Count"
    pass


Command = Get | Put | Count


async def main() -> None:
    bob = StrongholdP2p[Command, int](request_type=Command, response_type=int, firewall=FirewallRules.allow_all())
    alice = StrongholdP2p[Command, int](request_type=Command, response_type=int)
    values: dict[str, int] = {}

    @bob.on_request
    def answer(request: Request[Command]) -> int:
        match request.body:
            case Get(name):
                return values[name]
            case Put(name, value):
                values[name] = value
        return len(values)

    async with bob, alice:
        address = await bob.listen()
        for command in (Put("answer", 42), Get("answer"), Count()):
            print(command, "->", await alice.send_request(address, command))


if __name__ == "__main__":
    asyncio.run(main())
