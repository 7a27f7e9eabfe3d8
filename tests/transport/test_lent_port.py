"""Dials from the port of a listener, on one machine; ``tests/network/test_nat.py`` has them through NAT."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from support.compiled import replaces_parts
from support.waiting import begun, settled, until

from stronghold_p2p import Config, Multiaddr
from stronghold_p2p.resources.turns import Turns
from stronghold_p2p.transport import lent_port
from stronghold_p2p.transport.pipe import BytePipe, NullReceiver
from stronghold_p2p.transport.tcp import TcpPipe, TcpTransport
from stronghold_p2p.transport.transport import DialOptions, ListenOptions

pytestmark = pytest.mark.skipif(not lent_port.LENDS, reason="this system does not lend ports")

LOOPBACK = {"ip4": "127.0.0.1", "ip6": "::1"}
WILDCARD = {"ip4": "0.0.0.0", "ip6": "::"}


class Alice:
    """Dials and listens."""

    def __init__(self) -> None:
        self.transport = TcpTransport(Config(), Turns(asyncio.get_running_loop(), 1000.0))
        self.accepted: list[BytePipe] = []
        self.pipes: list[TcpPipe] = []
        """Those that she has dialed."""

    async def listen(self, address: str, *, reuse_port: bool = False) -> Any:
        return await self.transport.listen(
            Multiaddr.parse(address), self._accepted, ListenOptions(reuse_port=reuse_port)
        )

    async def dial(self, remote: socket.socket, *, from_listen_port: bool = True) -> int:
        """The port from which she has dialed ``remote``."""
        ip, port, *_ = remote.getsockname()
        await self.transport.dial(
            Multiaddr.of_tcp(ip, port), self._dialed, DialOptions(from_listen_port=from_listen_port)
        )
        return port_of(self.pipes[-1].local_address)

    def _accepted(self, pipe: BytePipe) -> NullReceiver:
        self.accepted.append(pipe)
        return NullReceiver()

    def _dialed(self, pipe: BytePipe) -> NullReceiver:
        assert isinstance(pipe, TcpPipe)
        self.pipes.append(pipe)
        return NullReceiver()

    async def close(self) -> None:
        for pipe in (*self.pipes, *self.accepted):
            pipe.abort()
        await self.transport.close()
        await settled()


@pytest.fixture
async def alice() -> AsyncIterator[Alice]:
    made = Alice()
    yield made
    await made.close()


@pytest.fixture
def remote() -> Iterator[socket.socket]:
    """A listening socket."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def port_of(address: Multiaddr | None) -> int:
    assert address is not None
    return int(address.components[1][1] or "")


@pytest.mark.parametrize("hosts", [LOOPBACK, WILDCARD])
@pytest.mark.parametrize("family", ["ip4", "ip6"])
async def test_a_dial_leaves_from_where_we_listen(alice: Alice, family: str, hosts: dict[str, str]) -> None:
    listener = await alice.listen(f"/{family}/{hosts[family]}/tcp/0")
    kind = socket.AF_INET if family == "ip4" else socket.AF_INET6
    with socket.create_server((LOOPBACK[family], 0), family=kind) as remote:
        assert await alice.dial(remote) == port_of(listener.address)
        connection, source = remote.accept()
        connection.close()
        assert source[:2] == (LOOPBACK[family], port_of(listener.address))
    assert alice.pipes[0]._transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    listener.close()


async def test_the_listener_accepts_all_the_while(alice: Alice, remote: socket.socket) -> None:
    listener = await alice.listen("/ip4/127.0.0.1/tcp/0")
    where = ("127.0.0.1", port_of(listener.address))
    with socket.create_connection(where):
        await until(lambda: len(alice.accepted) == 1)
        await alice.dial(remote)
        with socket.create_connection(where):
            await until(lambda: len(alice.accepted) == 2)
    listener.close()


async def test_a_shared_port_stays_shared(alice: Alice, remote: socket.socket) -> None:
    listener = await alice.listen("/ip4/127.0.0.1/tcp/0", reuse_port=True)
    await alice.dial(remote)
    other = await alice.listen(str(listener.address), reuse_port=True)
    listener.close()
    other.close()


async def test_no_program_that_wants_it_for_itself_gets_the_port(alice: Alice, remote: socket.socket) -> None:
    listener = await alice.listen("/ip4/127.0.0.1/tcp/0")
    await alice.dial(remote)
    for ip in "127.0.0.1", "0.0.0.0":
        with pytest.raises(OSError, match="in use") as caught:
            socket.create_server((ip, port_of(listener.address)))  # with SO_REUSEADDR
        assert caught.value.errno == errno.EADDRINUSE
    listener.close()


@pytest.mark.parametrize("elsewhere", ["/ip6/::1/tcp/0", "/ip4/127.0.0.2/tcp/0"])
async def test_of_several_listeners_the_first_that_fits_lends(
    alice: Alice, remote: socket.socket, elsewhere: str
) -> None:
    listeners = [await alice.listen(address) for address in (elsewhere, "/ip4/0.0.0.0/tcp/0", "/ip4/127.0.0.1/tcp/0")]
    assert await alice.dial(remote) == port_of(listeners[1].address)
    listeners[1].close()
    assert await alice.dial(remote) == port_of(listeners[2].address)
    listeners[2].close()
    assert await alice.dial(remote) != port_of(listeners[0].address)
    listeners[0].close()


async def test_a_second_connection_to_the_same_remote_has_another_port(alice: Alice, remote: socket.socket) -> None:
    listener = await alice.listen("/ip4/127.0.0.1/tcp/0")
    ports = [await alice.dial(remote), await alice.dial(remote)]
    assert ports[0] == port_of(listener.address) != ports[1]
    listener.close()


@pytest.mark.parametrize("by_remote", [True, False])
async def test_a_remote_is_dialed_again_at_once(alice: Alice, remote: socket.socket, by_remote: bool) -> None:
    """Though the system remembers the connection before, at the end that has closed it first."""
    listener = await alice.listen("/ip4/127.0.0.1/tcp/0")
    await alice.dial(remote)
    connection, _ = remote.accept()
    if by_remote:
        connection.close()
        alice.pipes[0].close()
    else:
        alice.pipes[0].close()
        await settled()
        connection.close()
    await settled()
    await alice.dial(remote)
    remote.accept()[0].close()
    listener.close()


async def test_a_port_is_listened_on_again_while_what_was_dialed_from_it_lives(
    alice: Alice, remote: socket.socket
) -> None:
    listener = await alice.listen("/ip4/127.0.0.1/tcp/0")
    port = await alice.dial(remote)
    listener.close()
    again = await alice.listen(f"/ip4/127.0.0.1/tcp/{port}")
    with socket.create_connection(("127.0.0.1", port)):
        await until(lambda: alice.accepted)
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert await alice.dial(other) == port
    again.close()


async def test_a_dial_on_this_machine_has_a_port_of_its_own_unless_told(alice: Alice, remote: socket.socket) -> None:
    listener = await alice.listen("/ip4/127.0.0.1/tcp/0")
    assert await alice.dial(remote, from_listen_port=False) != port_of(listener.address)
    listener.close()


@replaces_parts
async def test_a_system_that_lends_no_port(
    alice: Alice, remote: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lent_port, "LENDS", False)
    listener = await alice.listen("/ip4/127.0.0.1/tcp/0")
    assert await alice.dial(remote) != port_of(listener.address)
    listener.close()


async def test_a_remote_that_does_not_listen(alice: Alice) -> None:
    listener = await alice.listen("/ip4/127.0.0.1/tcp/0")
    remote = socket.create_server(("127.0.0.1", 0))
    address = Multiaddr.of_tcp(*remote.getsockname())
    remote.close()
    with pytest.raises(ConnectionRefusedError):
        await alice.transport.dial(address, alice._dialed, DialOptions(from_listen_port=True))
    listener.close()


async def test_a_dial_that_is_given_up_leaves_nothing_open(alice: Alice) -> None:
    listener = await alice.listen("/ip4/127.0.0.1/tcp/0")
    with socket.create_server(("127.0.0.1", 0), backlog=0) as remote, socket.create_connection(remote.getsockname()):
        dial = await begun(alice.dial(remote))  # there is no room for it
        await settled()
        assert not dial.done()
        dial.cancel()
        await settled()
        assert dial.cancelled()
    listener.close()  # and a socket that is not closed would be noticed


def test_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        alice = Alice()
        listener = await alice.listen("/ip4/127.0.0.1/tcp/0")
        with socket.create_server(("127.0.0.1", 0)) as remote:
            assert await alice.dial(remote) == port_of(listener.address)
            assert await alice.dial(remote) != port_of(listener.address)
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
            dial = await begun(alice.dial(full))
            dial.cancel()
            await asyncio.wait([dial])
        listener.close()
        for pipe in alice.pipes:
            pipe.abort()
        await alice.transport.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
