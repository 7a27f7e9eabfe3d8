"""Interactive approval: bob has no inbound rule, so you decide about each peer that sends a request.

python examples/approval.py                    # answer yourself
python examples/approval.py ping ask yes no    # answers given in advance
"""

import asyncio
import sys

from msgspec import Struct

from stronghold_p2p import Config, FirewallRequest, NoResponse, ProtocolNotSupported, Request, Rule, StrongholdP2p

PATIENCE = Config(firewall_timeout=60, request_timeout=120)  # people read before they answer


class Ping(Struct):
    pass


class Message(Struct):
    text: str


RULES = {"yes": Rule.ALLOW_ALL, "no": Rule.REJECT_ALL, "ping": Rule.restricted(allow={Ping}), "ask": Rule.ASK}
answers = iter(sys.argv[1:])


async def choose(question: str, *choices: str) -> str:
    while True:
        print(f"{question} ({'/'.join(choices)})")
        answer = next(answers, None) or await asyncio.to_thread(input)
        if answer in choices:
            return answer


async def main() -> None:
    bob = StrongholdP2p[Ping | Message, str](request_type=Ping | Message, response_type=str, config=PATIENCE)

    @bob.on_firewall_request
    async def decide(question: FirewallRequest) -> None:
        who = names[question.peer]
        if question.kind == "peer":  # its first request: choose its rule
            question.set_rule(RULES[await choose(f"May {who} ask you?", *RULES)])
            return
        match await choose(f"May {who} send you a {question.type}?", "yes", "hour", "no"):
            case "yes":
                question.approve()
            case "hour":  # this type, and no other
                question.approve_type(for_=3600)
            case "no":
                question.reject(reason="not now")

    @bob.on_request
    def answer(request: Request[Ping | Message]) -> str:
        return "pong" if isinstance(request.body, Ping) else f"you said {request.body.text!r}"

    alice = StrongholdP2p[Ping | Message, str](request_type=Ping | Message, response_type=str, config=PATIENCE)
    carol = StrongholdP2p[Ping | Message, str](request_type=Ping | Message, response_type=str, config=PATIENCE)
    names = {alice.peer_id: "alice", carol.peer_id: "carol"}
    async with bob, alice, carol:
        address = await bob.listen()
        for peer in (alice, carol):
            for request in (Ping(), Message("hello")):
                try:
                    outcome = await peer.send_request(address, request)
                except (NoResponse, ProtocolNotSupported):  # ProtocolNotSupported under REJECT_ALL
                    outcome = "rejected"
                print(f"{names[peer.peer_id]}: {type(request).__name__} -> {outcome}")


if __name__ == "__main__":
    asyncio.run(main())
