from __future__ import annotations

import asyncio
import shlex
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from stronghold_p2p.cli.listen import Exec
from stronghold_p2p.identity import Keypair
from stronghold_p2p.requests import Request

from .conftest import WAIT, Cli, listening, process


def python(code: str) -> str:
    """An ``exec`` handler that runs ``code``."""
    return "exec:" + shlex.join([sys.executable, "-c", code])


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


def test_a_command_answers(cli: Cli) -> None:
    code = "import json, sys; json.dump({'sum': sum(json.load(sys.stdin))}, sys.stdout)"
    with listening("--allow-all", "--handler", python(code)) as address:
        assert cli("request", address, "[1, 2, 39]").line == {"sum": 42}


def test_a_command_answers_raw_bytes(cli: Cli) -> None:
    code = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])"
    with listening("--allow-all", "--codec", "raw", "--handler", python(code)) as address:
        assert cli("request", address, "abc", "--codec", "raw").out == "cba"


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "print('no JSON')"])
def test_a_command_that_fails_is_a_failed_handler(cli: Cli, code: str) -> None:
    with listening("--allow-all", "--handler", python(code)) as address:
        asked = cli.json("request", address, "{}")
    assert (asked.status, asked.line["error"]) == (1, "StreamReset")


def test_a_command_that_is_gone_is_a_failed_handler(cli: Cli, tmp_path: Path) -> None:
    command = tmp_path / "command"
    command.touch(0o700)
    with listening("--allow-all", "--handler", f"exec:{command}") as address:
        command.unlink()
        asked = cli.json("request", address, "{}")
    assert (asked.status, asked.line["error"]) == (1, "StreamReset")


def test_a_command_that_is_slower_than_the_requester_waits(cli: Cli) -> None:
    with listening("--allow-all", "--handler", "exec:sleep 60") as address:
        asked = cli.json("request", address, "{}", "--timeout", "0.2")
    assert (asked.status, asked.line["error"]) == (4, "RequestTimeout")


def test_a_command_ends_with_its_request() -> None:
    """The handler's command blocks on a socket of ours, which closes when the command is killed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(WAIT)
        port = server.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port})).recv(1)"
        with (
            listening("--allow-all", "--handler", python(code)) as address,
            process("request", address, "{}", "--json") as request,
        ):
            command, _ = server.accept()
            request.send_signal(signal.SIGINT)
            assert request.wait(WAIT) == 130
            with command:
                command.settimeout(WAIT)
                assert command.recv(1) == b""


def test_a_command_that_does_not_read_its_stdin(cli: Cli) -> None:
    with listening("--allow-all", "--handler", "exec:echo 1") as address:
        assert [cli("request", address, f'"{"x" * 100_000}"').line for _ in range(5)] == [1] * 5


class HeldProcess:
    """Stands for a command's process that answers when it is let go; it is its own stdin and stdout."""

    started: ClassVar[list[HeldProcess]] = []
    returncode = 0

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.stdin = self.stdout = self
        self.body = b""
        self.started.append(self)

    @classmethod
    async def create(cls, *_: str, **__: object) -> HeldProcess:
        return cls()

    def write(self, body: bytes) -> None:
        self.body = body

    async def drain(self) -> None: ...

    def close(self) -> None: ...

    async def read(self) -> bytes:
        await self.go.wait()
        return self.body

    async def wait(self) -> int:
        return self.returncode


async def test_a_limit_on_the_commands_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeldProcess, "started", [])
    monkeypatch.setattr("asyncio.create_subprocess_exec", HeldProcess.create)
    handler = Exec(["command"], raw=False, processes=2)
    request = SimpleNamespace(body="hello")
    calls = [asyncio.ensure_future(handler(cast("Request[Any]", request))) for _ in range(3)]
    await until_idle()
    first, second = HeldProcess.started
    first.go.set()
    await until_idle()
    _, _, third = HeldProcess.started
    second.go.set()
    third.go.set()
    assert await asyncio.gather(*calls) == ["hello"] * 3


async def until_idle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)
