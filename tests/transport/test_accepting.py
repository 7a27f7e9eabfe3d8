"""Listening and accepting: floods, and a system without descriptors."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
import threading
from asyncio.subprocess import PIPE
from typing import Any

import pytest
from support.waiting import begun, settled, until

from stronghold_p2p import Config, ListenError, Multiaddr
from stronghold_p2p.logs import SparingLog
from stronghold_p2p.resources.turns import Turns
from stronghold_p2p.transport import accepting
from stronghold_p2p.transport.accepting import AT_ONCE, Acceptor
from stronghold_p2p.transport.pipe import BytePipe, NullReceiver, PipeReceiver
from stronghold_p2p.transport.tcp import TcpPipe, TcpTransport

ANY_PORT = Multiaddr.parse("/ip4/127.0.0.1/tcp/0")


class Listening:
    """A listening socket that fails as it is told, and accepts otherwise."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setblocking(False)
        self.errors: list[int] = []
        self.calls = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def accept(self) -> Any:
        self.calls += 1
        if self.errors:
            number = self.errors.pop()
            raise OSError(number, "told so")
        return self._socket.accept()

    def dial(self) -> socket.socket:
        return socket.create_connection(self._socket.getsockname())

    def close(self) -> None:
        self._socket.close()


class Timers:
    """Those of the loop: they strike when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.set: list[tuple[float, Any]] = []
        monkeypatch.setattr(asyncio.get_running_loop(), "call_later", self._call_later)

    def _call_later(self, delay: float, callback: Any, *args: object) -> asyncio.TimerHandle:
        loop = asyncio.get_running_loop()
        handle = asyncio.TimerHandle(0.0, callback, args, loop)
        self.set.append((delay, handle))
        return handle

    def strike(self) -> float:
        """The only one; returns when it was due."""
        ((delay, handle),) = self.set
        self.set.clear()
        assert not handle.cancelled()
        handle._run()
        return delay


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is logged, a second after whatever was logged before."""
    monkeypatch.setattr(accepting, "log", SparingLog(logging.WARNING, "no connection can be accepted: %s"))
    return caplog


async def test_without_descriptors_it_tells_waits_and_accepts_again(
    quiet: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted: list[socket.socket] = []
    told = 0

    def exhausted() -> None:
        nonlocal told
        told += 1

    listening = Listening()
    acceptor = Acceptor([listening], accepted.append, exhausted)  # type: ignore[list-item]
    timers = Timers(monkeypatch)
    listening.errors = [errno.EMFILE] * 9
    with listening.dial():
        await until(lambda: timers.set)
        delays = []
        for failed in range(1, 10):
            await settled()  # it does not read meanwhile
            assert (told, listening.calls, accepted) == (failed, failed, [])
            delays.append(timers.strike())
            await until(lambda: timers.set or accepted)
        assert delays == [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.1, 0.1]
        assert len(accepted) == 1
        assert accepted[0].getblocking() is False
    assert [record.getMessage() for record in quiet.records] == ["no connection can be accepted: told so"]
    listening.errors = [errno.EMFILE]
    with listening.dial():
        await until(lambda: timers.set)
    assert [delay for delay, _ in timers.set] == [0.001]  # anew, since it went well in between
    acceptor.close()
    assert timers.set[0][1].cancelled()
    accepted[0].close()


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPERM])
async def test_a_connection_that_cannot_be_accepted_is_no_reason_to_close_others(
    quiet: pytest.LogCaptureFixture, number: int
) -> None:
    accepted: list[socket.socket] = []
    listening = Listening()
    listening.errors = [number]
    acceptor = Acceptor([listening], accepted.append, lambda: pytest.fail("exhausted"))  # type: ignore[list-item]
    with listening.dial():
        await until(lambda: accepted)
    acceptor.close()
    accepted[0].close()
    assert len(quiet.records) == (number == errno.EPERM)


async def test_a_flood_is_accepted_in_many_turns() -> None:
    counts: list[int] = []
    accepted: list[socket.socket] = []
    listening = Listening()
    flood = [listening.dial() for _ in range(2 * AT_ONCE + 1)]
    acceptor = Acceptor([listening], accepted.append, lambda: None)  # type: ignore[list-item]
    while len(accepted) < len(flood):
        await asyncio.sleep(0)
        counts.append(len(accepted))
    assert max(after - before for before, after in zip([0, *counts], counts, strict=False)) == AT_ONCE
    acceptor.close()
    for connection in (*flood, *accepted):
        connection.close()


FEW_DESCRIPTORS = """
import asyncio, logging, os, resource, sys
from stronghold_p2p import Config, FirewallRules, StrongholdP2p

async def main():
    config = Config(connection_timeout=1000)
    async with StrongholdP2p(firewall=FirewallRules.allow_all(), config=config) as bob:
        address = await bob.listen()
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 20, free + 20))
        print(address, flush=True)
        await asyncio.to_thread(sys.stdin.readline)

logging.basicConfig(format="%(message)s")
asyncio.run(main())
"""


async def test_a_newcomer_gets_in_though_others_hold_all_descriptors() -> None:
    """They say nothing, and are more than the process has descriptors. What it logs are lines, a second apart."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FEW_DESCRIPTORS, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    assert process.stdout is not None
    address = Multiaddr.parse((await process.stdout.readline()).decode().strip())
    silent = [socket.create_connection(endpoint(address)) for _ in range(60)]
    reader, writer = await asyncio.open_connection(*endpoint(address))
    writer.write(HELLO)
    assert await reader.readexactly(len(HELLO)) == HELLO
    writer.close()
    for one in silent:
        one.close()
    _, logged = await process.communicate(b"\n")
    assert process.returncode == 0
    lines = logged.decode().splitlines()
    assert lines
    known = ("no connection can be accepted: too many open files", "is reached: ")
    assert all(any(each in line for each in known) for line in lines), logged


@pytest.mark.parametrize("address", ["/ip4/127.0.0.1/tcp/0", "/dns4/localhost/tcp/0"])
async def test_no_end_of_a_connection_holds_back_what_is_written(address: str) -> None:
    """As Nagle's algorithm does."""
    pipes: list[BytePipe] = []

    def connected(pipe: BytePipe) -> NullReceiver:
        pipes.append(pipe)
        return NullReceiver()

    transport = TcpTransport(Config(), turns())
    listener = await transport.listen(Multiaddr.parse(address), connected)
    await transport.dial(listener.address, connected)
    await until(lambda: len(pipes) == 2)
    listener.close()
    for pipe in pipes:
        assert isinstance(pipe, TcpPipe)
        assert pipe._transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        pipe.abort()
    await settled()


# -- listening -------------------------------------------------------------------------------------------


async def test_one_address_of_a_name_that_cannot_be_listened_on_is_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    made = resolved_to(monkeypatch, ("127.0.0.1", 0), taken.getsockname())
    with pytest.raises(ListenError) as caught:
        await TcpTransport(Config(), turns()).listen(Multiaddr.parse("/dns4/bob.example/tcp/0"), connected)
    assert caught.value.reason == "address already in use"
    assert [one.fileno() for one in made] == [-1, -1]
    taken.close()


async def test_a_family_that_the_system_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may have such an address, beside others."""
    made = resolved_to(monkeypatch, ("::1", 0, 0, 0), ("127.0.0.1", 0), unsupported=socket.AF_INET6)
    listener = await TcpTransport(Config(), turns()).listen(Multiaddr.parse("/dns/bob.example/tcp/0"), connected)
    assert str(listener.address).startswith("/ip4/127.0.0.1/tcp/")
    assert len(made) == 1
    listener.close()
    assert made[0].fileno() == -1
    with pytest.raises(ListenError, match="not supported"):
        await TcpTransport(Config(), turns()).listen(Multiaddr.parse("/ip6/::1/tcp/0"), connected)


async def test_listening_that_is_cancelled_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer.wait())
    made = sockets_made(monkeypatch)
    listening = await begun(
        TcpTransport(Config(), turns()).listen(Multiaddr.parse("/dns4/bob.example/tcp/0"), connected)
    )
    listening.cancel()
    await settled()
    assert listening.cancelled()
    assert not made
    answer.set()


async def test_what_is_accepted_as_the_transport_closes_is_closed() -> None:
    transport = TcpTransport(Config(), turns())
    listener = await transport.listen(ANY_PORT, connected)
    with socket.create_connection(endpoint(listener.address)) as remote:
        await until(lambda: transport._accepted)
        listener.close()
        await transport.close()
        assert not transport._accepted
        await settled()
        assert remote.recv(1) == b""


# -- by hand ---------------------------------------------------------------------------------------------

HELLO = b"\x13/multistream/1.0.0\n"


def turns() -> Turns:
    return Turns(asyncio.get_running_loop(), 1000.0)


def connected(pipe: BytePipe) -> PipeReceiver:
    return NullReceiver()


def endpoint(address: Multiaddr) -> tuple[str, int]:
    (_, host), (_, port), *_ = address.components
    return host or "", int(port or 0)


def sockets_made(monkeypatch: pytest.MonkeyPatch, unsupported: int | None = None) -> list[socket.socket]:
    made: list[socket.socket] = []
    make = socket.socket

    def noticed(family: int = -1, *arguments: Any, **more: Any) -> socket.socket:
        if family == unsupported:
            raise OSError(errno.EAFNOSUPPORT, "address family not supported by protocol")
        made.append(make(family, *arguments, **more))
        return made[-1]

    monkeypatch.setattr(socket, "socket", noticed)
    return made


def resolved_to(
    monkeypatch: pytest.MonkeyPatch, *addresses: tuple[Any, ...], unsupported: int | None = None
) -> list[socket.socket]:
    """Has any name stand for ``addresses``; returns the sockets that are made from now on."""

    def resolve(*_: object, **__: object) -> list[Any]:
        families = {2: socket.AF_INET, 4: socket.AF_INET6}
        return [(families[len(address)], socket.SOCK_STREAM, 0, "", address) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return sockets_made(monkeypatch, unsupported)
