from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from stronghold_p2p.identity import Keypair

from .conftest import WAIT, Cli, process


def test_it_prints_who_it_is_and_where(tmp_path: Path) -> None:
    key = tmp_path / "bob.pem"
    Keypair.generate().save(key)
    addresses = ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0")
    with process("listen", *addresses, "--allow-all", "--key", str(key)) as listener:
        assert listener.stdout is not None
        lines = [listener.stdout.readline().split() for _ in range(3)]
    peer_id = str(Keypair.load(key).peer_id)
    assert lines[0] == ["peer", "id", peer_id]
    assert all(line[-1].endswith(f"/p2p/{peer_id}") for line in lines[1:])
    assert lines[1] != lines[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_in_order_when_interrupted(number: signal.Signals) -> None:
    with process("listen", "--allow-all", "--json") as listener:
        assert listener.stdout is not None
        listener.stdout.readline()
        listener.send_signal(number)
        out, err = listener.communicate(timeout=WAIT)
    assert (listener.returncode, out, err) == (130, "", "")


def test_a_port_in_use(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        told = cli.json("listen", "--allow-all", f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}")
    assert (told.status, told.line["error"]) == (1, "ListenError")


def test_a_bad_address(cli: Cli) -> None:
    told = cli.json("listen", "--allow-all", "/ip4/localhost/tcp/0")
    assert (told.status, told.line["error"]) == (2, "InvalidAddress")
