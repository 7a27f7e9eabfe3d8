from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from support.namespaces import missing_for_hosts, require
from support.nat import missing_for_nat

from stronghold_p2p import Keypair
from stronghold_p2p.cli import demo, networks, process
from stronghold_p2p.cli.process import ProcessFailed

from .conftest import Cli


# As text it is told in test_output.py, on a terminal of another encoding.
@pytest.mark.slow
def test_the_whole_story(cli: Cli) -> None:
    told = cli.json("demo")
    assert told.status == 0, told.out
    steps = {line["step"]: line for line in told.lines}
    assert list(steps) == ["identities", "request", "wire", "rejection", "impostor", "discovery", "relay", "end"]
    assert steps["request"]["response"] == steps["request"]["request"]
    assert steps["wire"]["word_seen"] is False
    assert steps["wire"]["bytes"] > 500  # the handshake alone
    assert (steps["rejection"]["error"], steps["rejection"]["exit_status"]) == ("ProtocolNotSupported", 5)
    assert (steps["impostor"]["error"], steps["impostor"]["exit_status"]) == ("DialError", 3)
    assert steps["identities"]["bob"] in steps["impostor"]["message"]
    assert steps["identities"]["mallory"] in steps["impostor"]["message"]
    assert steps["discovery"] == {"step": "discovery", "found": True, "response": steps["request"]["request"]}
    require(missing_for_nat())
    assert steps["relay"]["met"] is True
    assert steps["relay"]["response"] == steps["request"]["request"]
    assert steps["relay"]["relay"].startswith("/ip4/11.0.1.1/tcp/4001/p2p/")
    assert steps["relay"]["direct"] == "/ip4/11.0.1.2/tcp/4001"


@pytest.mark.slow
@pytest.mark.parametrize("namespace", [("no such command",), ("false",)])
def test_without_multicast_the_story_goes_on(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, namespace: tuple[str, ...]
) -> None:
    @contextlib.asynccontextmanager
    async def listening(*options: str, before: Sequence[str] = ()) -> AsyncIterator[str]:
        if "--mdns" in options:
            raise ProcessFailed("listen: no multicast [here]")
        async with process.listening(*options) as address:
            yield address

    monkeypatch.setattr(demo, "listening", listening)
    monkeypatch.setattr(networks, "NAMESPACE", namespace)
    told = cli.json("demo")
    assert told.status == 0, told.out
    discovery, relay = told.lines[-3:-1]
    assert discovery == {"step": "discovery", "found": False, "message": "listen: no multicast [here]"}
    assert (relay["step"], relay["met"]) == ("relay", False)
    assert relay["message"].startswith("this system has no network namespaces for us")


async def test_without_routers_it_is_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    require(missing_for_hosts())
    monkeypatch.setattr(networks, "ROUTER", "echo there is no nft >&2; exit 127")
    with pytest.raises(ProcessFailed, match="this system has no routers for us: there is no nft"):
        async with networks.homes_behind_routers():
            pytest.fail("there are")


def test_a_secret_on_the_wire_is_noticed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between peers that do not encrypt."""
    peer_id = str(Keypair.generate().peer_id)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    @contextlib.asynccontextmanager
    async def listening(*_: str) -> AsyncIterator[str]:
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
            yield f"/ip4/127.0.0.1/tcp/{server.sockets[0].getsockname()[1]}/p2p/{peer_id}"

    async def run(command: str, *arguments: str) -> tuple[int, Any]:
        if command == "key":
            return 0, {"peer_id": peer_id}
        address, body, *_ = arguments
        reader, writer = await asyncio.open_connection("127.0.0.1", int(address.split("/")[4]))
        writer.write(f"{body}\n".encode())
        response = json.loads(await reader.readline())
        writer.close()
        return 0, response

    monkeypatch.setattr(demo, "listening", listening)
    monkeypatch.setattr(demo, "run", run)
    told = cli.json("demo")
    assert [line.get("step") for line in told.lines] == ["identities", "request", None]
    assert told.lines[-1] == {"error": "DemoFailed", "message": "the wire told the secret"}
    assert told.status == 1
