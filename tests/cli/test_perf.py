from __future__ import annotations

import json
from typing import Any

import pytest

from stronghold_p2p.cli import perf

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


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:", "127.0.0.1:http", ":4001", "127.0.0.1:65536"])
def test_a_bad_address(cli: Cli, address: str) -> None:
    ran = cli.json("perf", "--server-address", address)
    assert (ran.status, ran.line["error"]) == (2, "InvalidAddress")


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


def test_each_report_tells_what_came_since_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[dict[str, Any]] = []
    monkeypatch.setattr("stronghold_p2p.cli.output.result", reports.append)
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
