"""Commands that answer requests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shlex
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
from support.waiting import settled

from stronghold_p2p.cli.exec import CommandFailed, Exec
from stronghold_p2p.config import Config
from stronghold_p2p.requests import Request
from stronghold_p2p.requests.codec import CodecName

from .conftest import WAIT, Cli, listening, process, python

MAX_RAW = Config().max_raw_message


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
        asked = cli.json("request", address, "{}", "--timeout", "1")
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


def test_what_a_command_leaves_behind_neither_delays_its_answer_nor_outlives_it(cli: Cli, fifo: Fifo) -> None:
    script = f"exec 3>{fifo.path}; sleep 99 & echo '\"x\"'"
    with listening("--allow-all", "--handler", "exec:" + shlex.join(["sh", "-c", script])) as address:
        assert cli("request", address, "1").line == "x"
        assert fifo.read() == b""


def test_an_endless_answer_ends_at_the_limit(cli: Cli) -> None:
    with listening("--allow-all", "--handler", "exec:cat /dev/zero") as address:
        asked = cli.json("request", address, "1")
    assert (asked.status, asked.line["error"]) == (1, "StreamReset")


# -- one command, in this process ----------------------------------------------------------------------


class Fifo:
    """A pipe by name that a command opens, and all that it starts inherit."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def read(self) -> bytes:
        """What one of them has written; nothing once it was opened, and all of them have ended."""
        ready, _, _ = select.select([self._descriptor], [], [], WAIT)
        assert ready
        return os.read(self._descriptor, 100)

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Fifo]:
    with contextlib.closing(Fifo(tmp_path / "fifo")) as fifo:
        yield fifo


def request(body: Any = 1) -> Request[Any]:
    return cast("Request[Any]", SimpleNamespace(body=body))


def shell(script: str, codec: CodecName = "json") -> Exec:
    """A handler that runs a shell's script."""
    return Exec(["sh", "-c", script], codec=codec, processes=8)


@pytest.mark.parametrize(
    "left",
    [
        "sleep 99 &",
        "sleep 99 >/dev/null &",
        "sleep 99 <&0 &",
        "(sleep 99 & sleep 99 & wait) &",
        "trap '' HUP INT TERM; sleep 99 &",
        "sleep 99 & sleep 99 & sleep 99 &",
        "(exec >&-; sleep 99) &",
    ],
)
async def test_a_group_ends_with_its_command(fifo: Fifo, left: str) -> None:
    assert await shell(f"exec 3>{fifo.path}; {left} echo 2")(request("x" * 500_000)) == 2
    assert fifo.read() == b""


@pytest.mark.parametrize("end", ["exit 3", "cat /dev/zero", "kill -9 $$", "echo no JSON", "exit 0"])
async def test_a_group_ends_with_a_command_that_fails(fifo: Fifo, end: str) -> None:
    with pytest.raises((CommandFailed, ValueError)):
        await shell(f"exec 3>{fifo.path}; sleep 99 & {end}")(request())
    assert fifo.read() == b""


async def test_a_group_ends_with_its_request(fifo: Fifo) -> None:
    answering = asyncio.ensure_future(shell(f"exec 3>{fifo.path}; sleep 99 & echo started >&3; wait")(request()))
    assert await asyncio.to_thread(fifo.read) == b"started\n"
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering
    assert fifo.read() == b""


async def test_a_request_that_ends_while_its_command_starts(monkeypatch: pytest.MonkeyPatch, fifo: Fifo) -> None:
    create = asyncio.create_subprocess_exec
    hold = asyncio.Event()

    async def create_slowly(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await create(*arguments, **options)
        await hold.wait()
        return process

    monkeypatch.setattr("asyncio.create_subprocess_exec", create_slowly)
    answering = asyncio.ensure_future(shell(f"exec 3>{fifo.path}; sleep 99 & echo started >&3; wait")(request()))
    assert await asyncio.to_thread(fifo.read) == b"started\n"
    answering.cancel()
    hold.set()
    with pytest.raises(asyncio.CancelledError):
        await answering
    assert await asyncio.to_thread(fifo.read) == b""


DAEMON = """
import os
if os.fork():
    os.write(1, b'"x"')
else:
    os.setsid()
    open({path!r}, "rb").read()
"""
"""Leaves a process behind in a group of its own, which holds the command's stdin and stdout until the path is closed."""


async def test_what_has_left_the_group_delays_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    handler = Exec([sys.executable, "-c", DAEMON.format(path=str(path))], codec="json", processes=1)
    assert await handler(request("x" * 500_000)) == "x"
    await asyncio.to_thread(path.write_bytes, b"")


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 1_000_000, MAX_RAW])
async def test_an_answer_may_be_as_long_as_a_message(size: int) -> None:
    body = os.urandom(size)
    assert await shell("cat", "raw")(request(body)) == body


async def test_a_longer_answer_is_refused_unread() -> None:
    handler = shell(f"head -c {MAX_RAW + 1} /dev/zero; cat /dev/zero", "raw")
    with pytest.raises(CommandFailed, match="wrote more than a response holds, 16,777,216 bytes"):
        await handler(request(b""))


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_a_longer_text_is_refused_unread(codec: CodecName) -> None:
    blanks = Config().max_json_message - 1
    assert await shell(f"head -c {blanks} /dev/zero | tr '\\0' ' '; printf 1", codec)(request()) == 1
    with pytest.raises(CommandFailed, match="wrote more"):
        await shell(f"head -c {blanks} /dev/zero | tr '\\0' ' '; printf 10", codec)(request())


@pytest.mark.parametrize(
    "script", ["echo 2", "exec <&-; echo 2", "head -c 1 >/dev/null; echo 2", "echo 2; exec >&-; cat >/dev/null"]
)
async def test_how_much_of_the_body_is_read_does_not_matter(script: str) -> None:
    assert await shell(script)(request("x" * 1_000_000)) == 2


async def test_nothing_is_left_open(fifo: Fifo) -> None:
    before = len(os.listdir("/dev/fd"))
    for script in ("echo 1", "exit 1", "cat /dev/zero", "sleep 99 & echo 1"):
        with contextlib.suppress(CommandFailed):
            await shell(script)(request())
    with pytest.raises(FileNotFoundError):
        await Exec(["no-such-command-anywhere"], codec="json", processes=1)(request())
    assert len(os.listdir("/dev/fd")) == before


class HeldProcess:
    """Stands for a command's process that answers when it is let go."""

    started: ClassVar[list[HeldProcess]] = []
    pid = 1 << 30

    def __init__(self, stdout: int) -> None:
        self.go = asyncio.Event()
        self._stdout = os.dup(stdout)
        self.started.append(self)

    @classmethod
    async def create(cls, *_: str, stdout: int, **__: object) -> HeldProcess:
        return cls(stdout)

    async def wait(self) -> int:
        await self.go.wait()
        if self._stdout >= 0:
            os.write(self._stdout, b'"hello"')
            os.close(self._stdout)
            self._stdout = -1
        return 0


async def test_a_limit_on_the_commands_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeldProcess, "started", [])
    monkeypatch.setattr("asyncio.create_subprocess_exec", HeldProcess.create)
    handler = Exec(["command"], codec="json", processes=2)
    calls = [asyncio.ensure_future(handler(request())) for _ in range(3)]
    await settled()
    first, second = HeldProcess.started
    first.go.set()
    await settled()
    _, _, third = HeldProcess.started
    second.go.set()
    third.go.set()
    assert await asyncio.gather(*calls) == ["hello"] * 3
