"""Commands in this process, peers that listen in processes of their own, and questions to a peer in this one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from conftest import MakePeer
from support.commands import CommandProcess, StartedAnew

from stronghold_p2p import Direction, FirewallRules, Multiaddr, PeerId, Rule, StrongholdError, StrongholdP2p
from stronghold_p2p.cli import run
from stronghold_p2p.firewall.rules import Subject

Peer = StrongholdP2p[Any, Any]

WAIT = 60
"""Seconds after which a process has failed; none waits for them."""


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """What it printed, each line as JSON."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def line(self) -> Any:
        """The only line that it printed."""
        (line,) = self.lines
        return line


class Cli:
    """Runs commands in this process, as ``main`` does."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Ran:
        with _signals_kept():
            status = run(arguments)
        out, err = self._capsys.readouterr()
        return Ran(status, out, err)

    def json(self, *arguments: str) -> Ran:
        return self(*arguments, "--json")


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Commands own their process, and so its signals; here they do not."""
    kept = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, kept)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.delenv("STRONGHOLD_P2P_PASSPHRASE", raising=False)
    return Cli(capsys)


@contextlib.contextmanager
def process(*arguments: str, anew: bool = False, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own, which is interrupted at the end if it still runs; ``anew`` if it is to start Python."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    start = StartedAnew if anew else CommandProcess
    with start(*arguments, text=True, **{**streams, **options}) as started:
        try:
            yield started
        finally:
            if started.poll() is None:
                started.send_signal(signal.SIGINT)
            try:
                started.wait(WAIT)
            except subprocess.TimeoutExpired:
                os.killpg(started.pid, signal.SIGKILL)
                raise


def wait_until_blocked(process: subprocess.Popen[str]) -> None:
    """Until it waits in the kernel; what it waits for, something before must have told."""
    state = ["ps", "-o", "stat=", "-p", str(process.pid)]
    while not subprocess.run(state, capture_output=True, text=True, check=True).stdout.startswith(("S", "I")):
        pass


def python(code: str) -> str:
    """An ``exec`` handler that runs ``code``."""
    return "exec:" + shlex.join([sys.executable, "-c", code])


@contextlib.contextmanager
def listening(*arguments: str, **options: Any) -> Iterator[str]:
    """``listen`` in a process of its own; the address it can be dialed at."""
    with process("listen", *arguments, "--json", **options) as listener:
        assert listener.stdout is not None
        event = json.loads(listener.stdout.readline())
        assert event["event"] == "listening"
        yield event["address"]


@pytest.fixture(scope="session")
def echo() -> Iterator[str]:
    """The address of a peer that echoes."""
    with listening("--allow-all", "--handler", "echo") as address:
        yield address


class Terminal:
    """A command on a terminal of its own: stdin, stdout and stderr."""

    def __init__(self, process: subprocess.Popen[str], master: int) -> None:
        self.process = process
        self._master = master
        self.shown = ""
        """All that was printed so far, with line ends as terminals have them."""

    @property
    def echoes(self) -> bool:
        """Whether what is typed is shown."""
        return bool(termios.tcgetattr(self._master)[3] & termios.ECHO)

    def type(self, text: str | bytes) -> None:
        os.write(self._master, text.encode() if isinstance(text, str) else text)

    def read_until(self, what: str, *, after: str = "") -> str:
        """All that was printed up to ``what``, from the first ``after`` on."""
        while what not in self.shown[(start := max(self.shown.find(after), 0)) :]:
            self._read()
        return self.shown[start : self.shown.index(what, start) + len(what)]

    def wait(self) -> int:
        """Its exit status, once all that it prints is read."""
        with contextlib.suppress(OSError):  # the other side has closed it
            while True:
                self._read()
        return self.process.wait(WAIT)

    def _read(self) -> None:
        ready, _, _ = select.select([self._master], [], [], WAIT)
        assert ready, self.shown
        self.shown += os.read(self._master, 65_536).decode()


@contextlib.contextmanager
def terminal(*arguments: str, **options: Any) -> Iterator[Terminal]:
    """A command on a pseudo-terminal that is its controlling one."""
    master, slave = os.openpty()
    try:
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
        with process(*arguments, controlled=True, **{**streams, **options}) as started:
            os.close(slave)
            yield Terminal(started, master)
    finally:
        os.close(master)


@pytest.fixture
async def bob(make_peer: MakePeer) -> Peer:
    bob = await make_peer(firewall=FirewallRules(inbound=Rule.ASK))
    bob.on_request(lambda request: request.body)
    await bob.listen()
    return bob


@pytest.fixture
async def alice(make_peer: MakePeer) -> Peer:
    return await make_peer()


def send(alice: Peer, bob: Peer, body: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(alice.send_request(bob.listeners[0].address, body, timeout=WAIT))


def asked(bob: Peer, peer: PeerId, address: str) -> asyncio.Task[bool]:
    """A request from an address from which no test can send one."""

    async def decide() -> bool:
        subject = Subject(peer, Direction.INBOUND, None, "view")
        return (await bob._parts.approvals.decide(subject, Multiaddr.parse(address), 1)).allowed

    return asyncio.create_task(decide())


async def failed(request: asyncio.Task[Any]) -> StrongholdError:
    with pytest.raises(StrongholdError) as caught:
        await request
    return caught.value
