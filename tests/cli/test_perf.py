from __future__ import annotations

import itertools
import json
import socket
from typing import Any

import pytest
from conftest import MakePeer

from stronghold_p2p import FirewallRules
from stronghold_p2p.cli import perf
from stronghold_p2p.protocols import perf as protocol

from .conftest import Cli, process

SERVER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
"""The peer id that every implementation's harness knows."""


def test_the_client_measures_the_server(cli: Cli) -> None:
    with process("perf", "--run-server", "--server-address", "127.0.0.1:0", "--json") as server:
        assert server.stdout is not None
        address = json.loads(server.stdout.readline())["address"]
        assert address.endswith(f"/p2p/{SERVER}")
        port = address.split("/")[4]
        ran = cli("perf", "--server-address", f"127.0.0.1:{port}", "--upload-bytes", "100000", "--download-bytes", "7")
    assert ran.status == 0
    final = ran.lines[-1]
    assert final.pop("timeSeconds") > 0
    assert final == {"type": "final", "uploadBytes": 100_000, "downloadBytes": 7}


def test_the_server_says_that_its_key_is_public() -> None:
    with process("perf", "--run-server", "--server-address", "[::1]:0") as server:
        assert server.stdout is not None
        assert "publicly known" in server.stdout.readline()


def test_a_server_that_cannot_listen_says_nothing_else(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ran = cli("perf", "--run-server", "--server-address", f"127.0.0.1:{server.getsockname()[1]}")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("ListenError: ")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:", "127.0.0.1:http", ":4001", "127.0.0.1:65536"])
def test_a_bad_address(cli: Cli, address: str) -> None:
    ran = cli.json("perf", "--server-address", address)
    assert (ran.status, ran.line["error"]) == (2, "UsageError")
    assert ran.line["message"] == f"--server-address: expected HOST:PORT, got {address!r}"


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("192.0.2.7:4001", "/ip4/192.0.2.7/tcp/4001"),
        ("[2001:db8::7]:4001", "/ip6/2001:db8::7/tcp/4001"),
        ("peer.example:4001", "/dns/peer.example/tcp/4001"),
    ],
)
def test_host_and_port(given: str, address: str) -> None:
    assert perf.multiaddr(given, "tcp") == address


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    printed: list[dict[str, Any]] = []
    monkeypatch.setattr("stronghold_p2p.cli.output.result", printed.append)
    return printed


def test_each_line_tells_what_came_since_the_last_one(reports: list[dict[str, Any]]) -> None:
    progress = perf.Progress(now=100.0)
    for now, *transferred in ((101, 10, 0), (102, 15, 0), (103, 15, 0), (104.5, 15, 8)):
        progress.update(*transferred)
        progress.report(now)
    assert [tuple(report.values()) for report in reports] == [
        ("intermediary", 1, 10, 0),
        ("intermediary", 1, 5, 0),
        ("intermediary", 1, 0, 0),
        ("intermediary", 1.5, 0, 8),
    ]


async def test_all_lines_together_tell_of_every_byte(reports: list[dict[str, Any]], make_peer: MakePeer) -> None:
    """Of a real transfer, each step of which has its line: go-libp2p's harness, too, prints what each interval moved."""
    server, client = await make_peer(firewall=FirewallRules.allow_all()), await make_peer()
    server.handle_stream(protocol.PROTOCOL, protocol.serve)
    progress = perf.Progress(now=0.0)
    times = itertools.count(1.0)

    def report(uploaded: int, downloaded: int) -> None:
        progress.update(uploaded, downloaded)
        progress.report(next(times))

    async with await client.open_stream(await server.listen(), protocol.PROTOCOL) as stream:
        await protocol.measure(stream, 700_001, 900_001, report)
    assert len(reports) > 4
    assert all(line["uploadBytes"] + line["downloadBytes"] > 0 and line["timeSeconds"] == 1 for line in reports)
    assert sum(line["uploadBytes"] for line in reports) == 700_001
    assert sum(line["downloadBytes"] for line in reports) == 900_001
