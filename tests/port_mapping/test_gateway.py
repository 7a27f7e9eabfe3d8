"""The router, as systems tell it."""

from __future__ import annotations

import sys
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from stronghold_p2p.port_mapping import gateway as module
from stronghold_p2p.port_mapping.gateway import find_gateway, parse_route, parse_routes

HEADER = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"


def hexadecimal(address: str) -> str:
    return f"{int.from_bytes(IPv4Address(address).packed, sys.byteorder):08X}"


def route(destination: str, gateway: str, *, flags: int = 3, metric: int = 0, mask: str = "0.0.0.0") -> str:
    place, by, under = map(hexadecimal, (destination, gateway, mask))
    return f"eth0\t{place}\t{by}\t{flags:04X}\t0\t0\t{metric}\t{under}\t0\t0\t0\n"


@pytest.mark.parametrize(
    ("table", "gateway"),
    [
        ("", None),
        (HEADER, None),
        (HEADER + route("10.0.0.0", "0.0.0.0", flags=1, mask="255.0.0.0"), None),
        (HEADER + route("0.0.0.0", "10.0.0.1"), "10.0.0.1"),
        (HEADER + route("0.0.0.0", "10.0.0.1", metric=600) + route("0.0.0.0", "10.0.0.2", metric=100), "10.0.0.2"),
        (HEADER + route("0.0.0.0", "10.0.0.1", flags=2), None),  # down
        (HEADER + route("0.0.0.0", "0.0.0.0", flags=1), None),  # a point-to-point link
        (HEADER + route("0.0.0.0", "10.0.0.1", mask="128.0.0.0"), None),  # half of everything: a VPN's
        (HEADER + "eth0\t00000000\n" + route("0.0.0.0", "10.0.0.1")[:-30], None),  # cut short
    ],
)
def test_linux(table: str, gateway: str | None) -> None:
    assert parse_routes(table) == (None if gateway is None else IPv4Address(gateway))


MAC = """   route to: default
destination: default
       mask: default
    gateway: {}
  interface: en0
      flags: <UP,GATEWAY,DONE,STATIC,PRCLONING,GLOBAL>
"""


@pytest.mark.parametrize(
    ("text", "gateway"),
    [
        (MAC.format("192.168.1.1"), "192.168.1.1"),
        (MAC.format("link#18"), None),
        (MAC.format("fe80::1%en0"), None),
        ("", None),
    ],
)
def test_macos(text: str, gateway: str | None) -> None:
    assert parse_route(text) == (None if gateway is None else IPv4Address(gateway))


async def test_what_linux_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    table = tmp_path / "route"
    monkeypatch.setattr(module, "ROUTES", table)
    table.write_text(HEADER + route("0.0.0.0", "127.0.0.1"))
    found = await find_gateway()
    assert (found.address, found.local) == (IPv4Address("127.0.0.1"), IPv4Address("127.0.0.1"))
    assert found.port == 5351
    table.write_text(HEADER)
    with pytest.raises(OSError, match="no default route"):
        await find_gateway()


async def test_what_a_command_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(module, "ROUTE_COMMAND", ("echo", MAC.format("127.0.0.1")))
    assert (await find_gateway()).address == IPv4Address("127.0.0.1")
    monkeypatch.setattr(module, "ROUTE_COMMAND", ("/nowhere/route",))
    with pytest.raises(FileNotFoundError):
        await find_gateway()
