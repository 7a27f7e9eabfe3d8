"""``demo``: the main features on one machine, with a process for every peer."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from . import output
from .networks import homes_behind_routers, network_of_its_own
from .process import ProcessFailed, listening, run, running

__all__ = ["demo"]

NAMES = ("alice", "bob", "carol", "mallory")
SECRET = "treasure"
REQUEST = {"question": f"where is the {SECRET}?"}

DONE, NOT_DIALED, NOT_OFFERED = 0, 3, 5
"""Exit statuses: of a request with a response, one that met a wrong identity, and one that the firewall rejected."""


DIRECT_IN = 20.0
"""Seconds in which alice starts and finds a direct path, which takes her some milliseconds."""


class DemoFailed(Exception):
    """A step of the demo did not go as expected."""


async def demo() -> None:
    """Demonstrate the library in a few seconds.

    Real processes exchange requests. The demo shows the encryption, the firewall, the refusal of a wrong identity, discovery
    on the local network, and how two peers behind routers that only a relay joins come to talk directly.
    """
    start = time.perf_counter()
    tell = _Teller()
    with tempfile.TemporaryDirectory() as folder:
        keys = {name: str(Path(folder) / f"{name}.pem") for name in NAMES}
        made = await asyncio.gather(*(run("key", "new", key) for key in keys.values()))
        peers = {name: key["peer_id"] for name, (_, key) in zip(NAMES, made, strict=True)}
        tell.identities(peers)
        async with (
            listening("--key", keys["bob"], "--allow-all", "--handler", "echo") as bob,
            listening("--key", keys["carol"], "--reject-all") as carol,
            listening("--key", keys["mallory"], "--allow-all") as mallory,
            _wiretap(bob) as (tapped, wire),
        ):

            async def ask(address: str, expected: int) -> Any:
                status, printed = await run("request", address, _json(REQUEST), "--key", keys["alice"])
                _expect(status == expected, f"a request ended with status {status}, not {expected}: {printed}")
                return printed

            response = await ask(tapped, DONE)
            _expect(response == REQUEST, f"{response} is no echo")
            tell.response(response)
            _expect(len(wire) > len(_json(REQUEST)) and SECRET.encode() not in wire, "the wire told the secret")
            tell.wire(bytes(wire))
            tell.rejection(await ask(carol, NOT_OFFERED))
            tell.impostor(await ask(mallory.replace(peers["mallory"], peers["bob"]), NOT_DIALED))
        bob_and_alice = keys["bob"], peers["bob"], keys["alice"]
        discovered, met = await asyncio.gather(_discover(*bob_and_alice), _meet(*bob_and_alice))
        tell.discovery(*discovered)
        tell.relay(*met)
    tell.end(time.perf_counter() - start)


async def _discover(bob: str, peer: str, alice: str) -> tuple[Any, str | None]:
    """Have alice ask bob, of whom she knows the peer id alone; in a network of their own if that may be, else on loopback.
    The response; or why nobody is found on this machine, which may have no multicast."""
    bob_listens = ("/ip4/127.0.0.1/tcp/0", "--key", bob, "--allow-all", "--mdns")
    try:
        async with network_of_its_own() as before, listening(*bob_listens, before=before):
            status, printed = await run("request", peer, _json(REQUEST), "--key", alice, before=before)
    except ProcessFailed as error:
        return None, str(error)
    if status == NOT_DIALED:
        return None, printed["message"]
    _expect((status, printed) == (DONE, REQUEST), f"a request ended with status {status}: {printed}")
    return printed, None


async def _meet(bob: str, peer: str, alice: str) -> tuple[dict[str, Any], str | None]:
    """Have alice and bob, each behind a router that lets nobody in, meet by a relay, and find a direct path. What came of it;
    or why there are no such networks on this machine."""
    try:
        async with (
            homes_behind_routers() as networks,
            running("relay", networks.relay, before=networks.public) as relay,
        ):
            via = (await relay.event("listening"))["address"]
            of_alice, of_bob = networks.homes
            listen = "listen", "/ip4/0.0.0.0/tcp/4001", "--allow-all", "--key"
            async with running(*listen, bob, "--via-relay", via, before=of_bob) as listener:
                await listener.event("listening")
                circuit = f"{via}/p2p-circuit/p2p/{peer}"
                status, printed = await run("request", circuit, _json(REQUEST), "--key", alice, before=of_alice)
                _expect((status, printed) == (DONE, REQUEST), f"a request ended with status {status}: {printed}")
                async with running(*listen, alice, "--keep", circuit, before=of_alice):
                    async with asyncio.timeout(DIRECT_IN):
                        upgraded = await listener.event("path_upgraded")
    except TimeoutError:
        raise DemoFailed(f"alice and bob have found no direct path in {DIRECT_IN:g} s") from None
    except ProcessFailed as error:
        return {}, str(error)
    return {"response": printed, "relay": via, "direct": upgraded["address"]}, None


@contextlib.asynccontextmanager
async def _wiretap(address: str) -> AsyncIterator[tuple[str, bytearray]]:
    """Forward a port of our own to a peer; the address that leads there, and all bytes that passed in either way."""
    _, _, host, _, port, *peer = address.split("/")
    wire = bytearray()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            while data := await reader.read(65_536):
                wire.extend(data)
                writer.write(data)
                await writer.drain()

    async def tap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            remote_reader, remote_writer = await asyncio.open_connection(host, int(port))
            await asyncio.gather(forward(reader, remote_writer), forward(remote_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(tap, host, 0)
    async with server:
        tapped = server.sockets[0].getsockname()[1]
        yield "/".join(("", "ip4", host, "tcp", str(tapped), *peer)), wire


class _Teller:
    """Tells each step, as text in color or as a JSON object."""

    def __init__(self) -> None:
        from rich.console import Console  # slow to import, and only needed here
        from rich.markup import escape

        self._console = Console(highlight=False, soft_wrap=True)
        self._escape = escape

    def identities(self, peers: dict[str, str]) -> None:
        lines = [f"{name:8} [cyan]{peer}[/]" for name, peer in peers.items()]
        self._tell({"step": "identities", **peers}, "Four peers, each with its own key and its own process", *lines)

    def response(self, response: Any) -> None:
        self._tell(
            {"step": "request", "request": REQUEST, "response": response},
            "Alice asks bob, and bob's handler answers",
            f"alice → bob  [green]{_json(REQUEST)}[/]",
            f"bob → alice  [green]{_json(response)}[/]",
        )

    def wire(self, wire: bytes) -> None:
        self._tell(
            {"step": "wire", "bytes": len(wire), "word": SECRET, "word_seen": SECRET.encode() in wire},
            f"The wire between them carried {len(wire):,} bytes; “{SECRET}” is not among them",
            *_hexdump(wire[-64:]),
        )

    def rejection(self, error: dict[str, str]) -> None:
        self._tell(
            {"step": "rejection", **error, "exit_status": NOT_OFFERED},
            "Carol's firewall rejects every request",
            f"alice → carol  [red]{error['error']}[/], exit status {NOT_OFFERED}",
        )

    def impostor(self, error: dict[str, str]) -> None:
        self._tell(
            {"step": "impostor", **error, "exit_status": NOT_DIALED},
            "Mallory answers at an address that should be bob's: alice notices before she says a word",
            f"alice → “bob”  [red]{error['error']}[/], exit status {NOT_DIALED}",
        )

    def discovery(self, response: Any, failure: str | None) -> None:
        if failure is None:
            self._tell(
                {"step": "discovery", "found": True, "response": response},
                "Alice asks for bob by his peer id alone: he is found on the local network",
                f"bob → alice  [green]{_json(response)}[/]",
            )
        else:
            self._tell(
                {"step": "discovery", "found": False, "message": failure},
                "Nobody can be found on the local network from here, so this step is left out",
                self._escape(failure),
                mark="[bold yellow]-[/]",
            )

    def relay(self, met: dict[str, Any], failure: str | None) -> None:
        if failure is None:
            self._tell(
                {"step": "relay", "met": True, **met},
                "Two routers let nobody in: alice and bob meet by a relay, which sees ciphertext, and then find a direct path",
                f"bob → relay → alice  [green]{_json(met['response'])}[/]",
                f"alice ↔ bob          at [cyan]{met['direct']}[/], no longer through the relay",
            )
        else:
            self._tell(
                {"step": "relay", "met": False, "message": failure},
                "There can be no networks behind routers here, so the step with the relay is left out",
                self._escape(failure),
                mark="[bold yellow]-[/]",
            )

    def end(self, seconds: float) -> None:
        self._tell({"step": "end", "seconds": round(seconds, 2)}, f"All of it in {seconds:.1f} seconds")

    def _tell(self, record: dict[str, Any], title: str, *lines: str, mark: str = "[bold green]✓[/]") -> None:
        if output.is_json():
            output.result(record)
            return
        with self._console.capture() as printed:
            self._console.print(f"{mark} [bold]{title}[/]")
            for line in lines:
                self._console.print(f"    {line}")
        output.styled(printed.get())


def _hexdump(data: bytes) -> list[str]:
    rows = [data[at : at + 16] for at in range(0, len(data), 16)]
    return [f"[dim]{row.hex(' '):47}[/]  {''.join(_printable(byte) for byte in row)}" for row in rows]


def _printable(byte: int) -> str:
    return chr(byte) if 0x20 < byte < 0x7F and chr(byte) not in "[]\\" else "·"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise DemoFailed(otherwise)
