"""What is quick to tell of ``listen --workers``: two of them, one in this process, and what may not go with them."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import msgspec
import pytest
from conftest import MakePeer

from stronghold_p2p import FirewallRules, NoResponse
from stronghold_p2p.cli import output
from stronghold_p2p.cli.workers.channel import Setup
from stronghold_p2p.cli.workers.member import Member
from stronghold_p2p.cli.writer import MAX_WAITING
from stronghold_p2p.identity import Keypair

from .conftest import Cli
from .test_workers import TWO, WHO, crew, reach

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems spread no connections")


def test_one_peer_in_two_processes(cli: Cli, tmp_path: Path) -> None:
    key = tmp_path / "bob.pem"
    Keypair.generate().save(key)
    with crew("--allow-all", "--handler", WHO, "--key", str(key)) as bob:
        assert bob.address.endswith(f"/p2p/{Keypair.load(key).peer_id}")
        assert len(bob.pids) == 2
        assert reach(cli, bob.address) == bob.pids
        assert bob.end() == ""
        assert bob.process.returncode == 0


@pytest.mark.parametrize(
    "options",
    [
        ("--allow-all", "--workers", "0"),
        ("--console", *TWO),
        ("--allow-all", *TWO, "--processes", "1", "--handler", "exec:cat"),
        ("--policy", "/dev/stdin", *TWO),
        ("--policy", "FIFO", *TWO),
        ("--allow-all", "--worker", "12345"),
    ],
)
def test_what_cannot_be_combined(cli: Cli, tmp_path: Path, options: tuple[str, ...]) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    told = cli.json("listen", *(str(fifo) if option == "FIFO" else option for option in options))
    assert (told.status, told.line["error"]) == (2, "UsageError")


async def test_nothing_piles_up_while_the_supervisor_is_stopped(make_peer: MakePeer) -> None:
    supervisor, end = socket.socketpair()
    keypair = Keypair.generate()
    supervisor.sendall(msgspec.json.encode(Setup(1, keypair.to_protobuf(), [], None)) + b"\n")
    member = Member(end.detach())
    bob, alice = await make_peer(keypair=member.keypair, firewall=FirewallRules.ask_all()), await make_peer()
    bob.on_request(lambda request: request.body)
    member.ask(bob)
    with supervisor:
        async with member.joined():
            for _ in range(100):
                output.result({"event": "limit", "text": "x" * MAX_WAITING})
            with pytest.raises(NoResponse):
                await alice.send_request(await bob.listen(), None)
            supervisor.setblocking(False)
            read = bytearray()
            while len(read) < MAX_WAITING or not read.endswith(b"\n"):
                read += await asyncio.get_running_loop().sock_recv(supervisor, MAX_WAITING)
    lines = [msgspec.json.decode(line) for line in read.splitlines()]
    assert {line["message"] for line in lines} == {"Printed"}
    assert len(lines) < 4
