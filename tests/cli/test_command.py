"""What holds for every command while something blocks it: a signal ends it, with the status that signals have."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from stronghold_p2p.cli.command import add_command
from stronghold_p2p.identity import Keypair

from .conftest import WAIT, Cli, process, terminal, wait_until_blocked

ADDRESS = f"/ip4/127.0.0.1/tcp/1/p2p/{Keypair.generate().peer_id}"
"""Nobody is dialed: the command blocks before."""


def status_of(command: tuple[str, ...], number: signal.Signals) -> int:
    """What runs until it is stopped has not failed when it is."""
    return 130 if number is signal.SIGINT else 0 if command[0] == "listen" else 143


SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
"""Each is sent once."""


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@SIGNALS
def test_stdin_that_never_ends(number: signal.Signals) -> None:
    with process("request", ADDRESS, "-", stdin=subprocess.PIPE) as request:
        assert request.stdin is not None
        request.stdin.write(" " * 1_000_000)  # more than a pipe holds: it is being read
        request.stdin.flush()
        wait_until_blocked(request)
        request.send_signal(number)
        assert request.wait(WAIT) == status_of(("request",), number)


def test_a_name_that_is_still_looked_up(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = threading.Event(), threading.Event()

    def getaddrinfo(*_: object, **__: object) -> list[Any]:
        asked.set()
        answer.wait(WAIT)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert cli("request", ADDRESS.replace("/ip4/127.0.0.1", "/dns4/host"), "1", "--timeout", "0.05").status == 3
    assert asked.is_set()
    answer.set()


@SIGNALS
@pytest.mark.parametrize(
    "command",
    [
        ("key", "show", "FIFO"),
        ("ping", "ADDR", "--key", "FIFO"),
        ("request", "ADDR", "1", "--key", "FIFO"),
        ("bench", "--key", "FIFO"),
        ("perf", "--key", "FIFO"),
        ("listen", "--allow-all", "--key", "FIFO"),
        ("listen", "--policy", "FIFO"),
    ],
    ids=" ".join,
)
def test_a_pipe_that_nothing_comes_from(fifo: Path, number: signal.Signals, command: tuple[str, ...]) -> None:
    arguments = [{"FIFO": str(fifo), "ADDR": ADDRESS}.get(part, part) for part in command]
    with process(*arguments) as blocked, fifo.open("wb"):
        wait_until_blocked(blocked)  # the other end was opened: it is being read
        blocked.send_signal(number)
        assert blocked.wait(WAIT) == status_of(command, number)


@SIGNALS
def test_a_pipe_that_nobody_opens(fifo: Path, tmp_path: Path, number: signal.Signals) -> None:
    key = tmp_path / "key"
    os.mkfifo(key)
    with process("listen", "--allow-all", "--key", str(key), "--audit", str(fifo)) as blocked:
        with key.open("wb") as file:  # what is opened next is the audit
            file.write(Keypair.generate().to_protobuf())
        wait_until_blocked(blocked)
        blocked.send_signal(number)
        assert blocked.wait(WAIT) == status_of(("listen",), number)


@SIGNALS
@pytest.mark.parametrize("command", [("key", "show"), ("listen", "--allow-all", "--key"), ("ping", ADDRESS, "--key")])
def test_a_passphrase_that_is_not_typed(tmp_path: Path, number: signal.Signals, command: tuple[str, ...]) -> None:
    key = tmp_path / "key.pem"
    Keypair.generate().save(key, passphrase="open sesame")
    with terminal(*command, str(key)) as asked:
        asked.read_until("Passphrase of ")
        assert not asked.echoes
        wait_until_blocked(asked.process)
        asked.process.send_signal(number)
        assert asked.wait() == status_of(command, number)
        assert asked.echoes


def test_a_passphrase_that_is_typed(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    keypair = Keypair.generate()
    keypair.save(key, passphrase="open sesame")
    with terminal("key", "show", str(key)) as asked:
        asked.read_until("Passphrase of ")
        asked.type("open sesame\n")
        assert asked.wait() == 0
        assert str(keypair.peer_id) in asked.shown
        assert "sesame" not in asked.shown


@pytest.mark.parametrize("typed", [b"\x04", b"\n", b"\xff\n"])
def test_a_passphrase_that_is_none(tmp_path: Path, typed: bytes) -> None:
    key = tmp_path / "key.pem"
    Keypair.generate().save(key, passphrase="open sesame")
    with terminal("key", "show", str(key)) as asked:
        asked.read_until("Passphrase of ")
        asked.type(typed)
        assert asked.wait() == 2
        assert "UsageError: the passphrase " in asked.shown


@pytest.fixture
def full() -> Iterator[int]:
    """A pipe that nobody reads, and that holds no more."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writes, b"x")
    os.set_blocking(writes, True)
    yield writes
    os.close(reads)
    os.close(writes)


@SIGNALS
@pytest.mark.parametrize(("flags", "stream"), [((), "stderr"), (("--json",), "stdout")])
def test_an_error_that_nobody_reads(full: int, flags: tuple[str, ...], stream: str, number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = ADDRESS.replace("/tcp/1/", f"/tcp/{server.getsockname()[1]}/")
        streams: dict[str, Any] = {stream: full}
        with process("ping", address, *flags, **streams) as ping:
            connection, _ = server.accept()
            connection.close()  # which is the error
            wait_until_blocked(ping)
            ping.send_signal(number)
            assert ping.wait(WAIT) == status_of(("ping",), number)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As in a terminal; a job in a script's background ignores Ctrl-C."""
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, kept)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_waits_for_what_the_loop_is_at() -> None:
    seen = []

    async def wait() -> None:
        loop = asyncio.get_running_loop()
        answer = loop.create_future()

        def set_answer() -> None:
            signal.raise_signal(signal.SIGINT)
            seen.append(answer.cancelled())
            answer.set_result(None)

        loop.call_soon(set_answer)
        await answer

    assert command_of(wait)([], standalone_mode=False) == 130
    assert seen == [False]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interruptible")
def test_a_second_ctrl_c_ends_it_at_once() -> None:
    seen = []

    async def go_on() -> None:
        signal.raise_signal(signal.SIGINT)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            seen.append("first")
            signal.raise_signal(signal.SIGINT)
            seen.append("never")

    assert command_of(go_on)([], standalone_mode=False) == 130
    assert seen == ["first"]


def command_of(function: Any) -> typer.Typer:
    group = typer.Typer()
    add_command(group, function)
    return group
