"""A peer for the pages in this folder, which it also serves. You decide at the terminal what is signed.

python serve.py                   # after `npm ci` and `npm run build`
python serve.py --relay ADDRESS   # reached through this relay alone: the second page
"""

import argparse
import asyncio
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct

from stronghold_p2p import Config, FirewallRequest, FirewallRules, Request, Rule, StrongholdP2p


class Ping(Struct):  # "Ping"
    pass


class Sign(Struct):  # {"Sign": {"text": "..."}}
    text: str


class Erase(Struct):  # "Erase"
    pass


Command = Ping | Sign | Erase
ANSWERS = "yes, no or never"  # never: nor anything else that this peer asks from now on


class Page(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass  # the terminal is for the questions


async def main(folder: Path, relay: str | None) -> None:
    if not (folder / "index.html").exists():
        sys.exit(f"There is no page in {folder}. Build it: npm ci && npm run build")
    bob = StrongholdP2p[Command, str](
        request_type=Command,
        response_type=str,
        firewall=FirewallRules(inbound=Rule.ASK),
        config=Config(firewall_timeout=60),  # people read before they answer
    )
    key = Ed25519PrivateKey.generate()
    lines, terminal = asyncio.StreamReader(), asyncio.Lock()

    @bob.on_firewall_request
    async def decide(question: FirewallRequest) -> None:
        match question.view:
            case Ping():
                question.approve()
            case Sign(text):
                async with terminal:
                    print(f"Sign {text!r} for {question.peer}? {ANSWERS}", flush=True)
                    answer = (await lines.readline()).strip()
                if answer == b"yes":
                    question.approve()
                elif answer == b"never":
                    question.set_rule(Rule.REJECT_ALL)
                else:
                    question.reject()
            case _:
                question.reject()

    @bob.on_request
    def answer(request: Request[Command]) -> str:
        match request.body:
            case Ping():
                return "pong"
            case Sign(text):
                return key.sign(text.encode()).hex()
        raise AssertionError("the firewall passes nothing else")

    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Page, directory=folder))
    Thread(target=server.serve_forever, daemon=True).start()
    async with bob:
        if relay is None:
            page, address = "", await bob.listen("/ip4/127.0.0.1/tcp/0/ws")
        else:
            page, address = "relay.html", await bob.listen_via_relay(relay)
        print(f"Open http://127.0.0.1:{server.server_port}/{page}#{address}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A peer for the pages in this folder.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent / "dist", help="the built pages")
    parser.add_argument(
        "--relay", metavar="ADDRESS", help="listen through this relay alone, of which pages use WebSocket"
    )
    arguments = parser.parse_args()
    try:
        asyncio.run(main(arguments.folder, arguments.relay))
    except KeyboardInterrupt:
        pass
