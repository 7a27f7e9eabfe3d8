from __future__ import annotations

import json

import pytest

from stronghold_p2p.cli.bench import _body

from .conftest import Cli, process


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["json", "msgpack", "raw"])
def test_figures_against_a_process_of_its_own(cli: Cli, codec: str) -> None:
    options = ("--size", "1000", "--concurrency", "4", "--seconds", "0.1", "--codec", codec)
    ran = cli.json("bench", *options)
    assert ran.status == 0
    figures = ran.line
    assert figures["requests_per_second"] > 0
    assert 0 < figures["p50_us"] <= figures["p99_us"]
    assert figures["mb_per_second"] == pytest.approx(figures["requests_per_second"] * 2000 / 1e6, rel=0.01)
    assert (figures["size"], figures["concurrency"], figures["codec"]) == (1000, 4, codec)
    assert figures["loop"] in ("asyncio", "uvloop")
    assert figures["connect_ms"] > 0


def test_figures_of_a_target_for_people(cli: Cli, echo: str) -> None:
    ran = cli("bench", "--target", echo, "--seconds", "0.05")
    assert ran.status == 0
    assert "64 bytes as json, 32 in flight" in ran.out
    assert "latency" in ran.out


def test_a_target_that_listens_for_websockets(cli: Cli) -> None:
    with process("listen", "/ip4/127.0.0.1/tcp/0/ws", "--allow-all", "--json") as listener:
        assert listener.stdout is not None
        target = json.loads(listener.stdout.readline())["address"]
        assert cli.json("bench", "--target", target, "--seconds", "0.05").line["requests_per_second"] > 0


def test_a_target_that_refuses(cli: Cli, echo: str) -> None:
    ran = cli.json("bench", "--target", echo, "--codec", "raw", "--seconds", "0.05")
    assert (ran.status, ran.line["error"]) == (5, "ProtocolNotSupported")


@pytest.mark.parametrize("size", [2, 3, 31, 32, 33, 64, 256, 257, 258, 65_538, 65_539, 65_540, 1_000_000])
def test_bodies_have_the_size_that_is_told(size: int) -> None:
    import msgspec

    body, told = _body(size, "json")
    assert len(msgspec.json.encode(body)) == told == size
    body, told = _body(size, "msgpack")
    assert len(msgspec.msgpack.encode(body)) == told
    assert size - 2 <= told <= size
    body, told = _body(size, "raw")
    assert len(body) == told == size


@pytest.mark.parametrize("codec", ["json", "msgpack", "raw"])
def test_a_size_over_the_limit_is_refused_before_it_is_made(cli: Cli, codec: str) -> None:
    ran = cli.json("bench", "--size", str(10**18), "--codec", codec)
    assert (ran.status, ran.line["error"]) == (2, "UsageError")
