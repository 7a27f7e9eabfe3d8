"""Commands that find peers, here on the loopback interface alone."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from support.multicast import only_loopback

from stronghold_p2p import (
    Event,
    FirewallRules,
    Keypair,
    Multiaddr,
    NewListener,
    PeerDiscovered,
    PeerExpired,
    StrongholdP2p,
)
from stronghold_p2p.cli import output
from stronghold_p2p.cli.discover import _tell
from stronghold_p2p.discovery import links, mdns

from .conftest import WAIT, Cli

NOBODY = Keypair.generate().peer_id
ADDRESSES = tuple(map(Multiaddr.parse, ("/ip4/192.0.2.7/tcp/4001", "/ip6/2001:db8::7/tcp/4001")))
DIALABLE = [f"{address}/p2p/{NOBODY}" for address in ADDRESSES]


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    only_loopback(monkeypatch)
    monkeypatch.setattr(links, "ANSWER_INTERVAL", 0.01)  # else a peer that has just answered would wait for a second


@pytest.fixture
def announced() -> Iterator[Multiaddr]:
    """The address of a peer that echoes, in a thread of its own."""
    with contextlib.ExitStack() as stack:
        loop = asyncio.new_event_loop()
        stack.callback(loop.close)
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        stack.callback(thread.join)
        stack.callback(loop.call_soon_threadsafe, loop.stop)

        def run(coroutine: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(coroutine, loop).result(WAIT)

        peer: StrongholdP2p[Any, Any] = StrongholdP2p(firewall=FirewallRules.allow_all(), mdns=True)
        peer.on_request(lambda request: request.body)
        run(peer.start())
        stack.callback(lambda: run(peer.close()))
        yield run(peer.listen())


def test_it_prints_peers_and_their_addresses(cli: Cli, announced: Multiaddr, monkeypatch: pytest.MonkeyPatch) -> None:
    show = output.result

    def show_and_end(*result: Any) -> None:
        show(*result)
        raise TimeoutError  # as when the time is up

    monkeypatch.setattr(output, "result", show_and_end)
    found = cli.json("discover", "--seconds", "30")
    assert (found.status, found.err) == (0, "")
    assert found.line == {"event": "discovered", "peer": str(announced.peer_id), "addresses": [str(announced)]}


def test_nobody_is_no_error(cli: Cli) -> None:
    found = cli("discover", "--seconds", "0.1")
    assert (found.status, found.out, found.err) == (0, "no peer has answered within 0.1 s\n", "")
    assert cli.json("discover", "--seconds", "0.1").out == ""


async def events() -> AsyncIterator[Event]:
    yield NewListener(None)  # type: ignore[arg-type]
    yield PeerDiscovered(NOBODY, ADDRESSES)
    yield PeerExpired(NOBODY)


async def test_it_tells_who_comes_and_who_goes(capsys: pytest.CaptureFixture[str]) -> None:
    output.configure(json=False, debug=False)
    found: set[Any] = set()
    await _tell(events(), found)
    assert found == {NOBODY}
    lines = [f"discovered    {DIALABLE[0]}", f"discovered    {DIALABLE[1]}", f"expired       {NOBODY}"]
    assert capsys.readouterr().out.splitlines() == lines


async def test_as_json_it_tells_each_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.configure(json=True, debug=False)
    await _tell(events(), set())
    assert capsys.readouterr().out.splitlines() == [
        f'{{"event":"discovered","peer":"{NOBODY}","addresses":["{DIALABLE[0]}","{DIALABLE[1]}"]}}',
        f'{{"event":"expired","peer":"{NOBODY}"}}',
    ]


@pytest.mark.parametrize("form", ["", "/p2p/"])
def test_a_request_by_peer_id_alone(cli: Cli, announced: Multiaddr, form: str) -> None:
    asked = cli("request", f"{form}{announced.peer_id}", '{"hello":"bob"}')
    assert (asked.status, asked.out, asked.err) == (0, '{"hello":"bob"}\n', "")


def test_a_bench_by_peer_id_alone(cli: Cli, announced: Multiaddr) -> None:
    measured = cli.json("bench", "--target", str(announced.peer_id), "--seconds", "0.01")
    assert measured.line["requests_per_second"] > 0


def test_a_ping_by_peer_id_alone(cli: Cli, announced: Multiaddr) -> None:
    pinged = cli.json("ping", str(announced.peer_id), "--count", "1")
    assert pinged.status == 0
    assert len(pinged.lines) == 2


@pytest.mark.parametrize(
    "command", [("request", str(NOBODY), "1"), ("ping", str(NOBODY))], ids=lambda command: command[0]
)
def test_a_peer_id_that_nobody_answers_for(cli: Cli, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]) -> None:
    monkeypatch.setattr(mdns, "FIND_TIME", 0.1)
    asked = cli.json(*command)
    assert (asked.status, asked.line["error"]) == (3, "DialError")
    assert asked.line["message"].endswith("no address is known, and nobody on the local network answered within 0.1 s")


def test_a_target_that_is_none(cli: Cli) -> None:
    asked = cli.json("request", "12D3KooW", "1")
    assert (asked.status, asked.line["error"]) == (2, "InvalidAddress")
