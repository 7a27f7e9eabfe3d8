"""Pipes over real sockets: when writers are told to wait, and the end of a connection whose socket is full."""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import sys
from functools import partial
from typing import Any

import pytest
from conftest import MakePeer
from support.connections import ECHO, Host
from support.waiting import until

from stronghold_p2p import Config, Direction, Multiaddr, Path, PeerId
from stronghold_p2p.resources.turns import Turns
from stronghold_p2p.transport.pipe import BytePipe, NullReceiver
from stronghold_p2p.transport.tcp import TcpPipe, TcpTransport
from stronghold_p2p.transport.upgrade import PipeUpgrade

LIMIT = 100_000
PATIENCE = 1000.0


def turns() -> Turns:
    """Of the running loop; they do not end by themselves."""
    return Turns(asyncio.get_running_loop(), PATIENCE)


class Receiver:
    def __init__(self) -> None:
        self.told: list[str] = []

    def data_received(self, data: memoryview) -> None: ...

    def pipe_closed(self, error: Exception | None) -> None:
        self.told.append("closed")

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")


async def dialed(config: Config) -> tuple[TcpPipe, Receiver, socket.socket]:
    """A pipe, who hears of it, and the remote's socket."""
    receiver = Receiver()
    pipes: list[BytePipe] = []

    def connected(pipe: BytePipe) -> Receiver:
        pipes.append(pipe)
        return receiver

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        await TcpTransport(config, turns()).dial(Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}"), connected)
        remote, _ = server.accept()
    (pipe,) = pipes
    assert isinstance(pipe, TcpPipe)
    return pipe, receiver, remote


async def test_writers_wait_for_what_is_over_the_limit_and_not_in_the_socket() -> None:
    pipe, receiver, remote = await dialed(Config(max_send_buffer=LIMIT))
    written = 0
    with remote:
        while not pipe._transport.get_write_buffer_size():
            pipe.write(bytes(10_000))
            written += 10_000
        while pipe._transport.get_write_buffer_size() <= LIMIT:
            assert receiver.told == []
            pipe.write(bytes(10_000))
            written += 10_000
        assert receiver.told == ["pause"]
        pipe.write(bytes(10_000))
        written += 10_000
        assert receiver.told == ["pause"]  # once
        remote.setblocking(False)
        loop = asyncio.get_running_loop()
        while written:
            written -= len(await loop.sock_recv(remote, 1 << 20))
        await until(lambda: len(receiver.told) > 1)
        assert receiver.told == ["pause", "resume"]
        pipe.abort()
        await until(lambda: "closed" in receiver.told)


async def test_what_is_written_after_a_reset_and_before_its_end_is_heard_complains_of_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pipe, receiver, remote = await dialed(Config())
    remote.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    remote.close()
    for _ in range(20):
        pipe.write(b"x")
    await until(lambda: "closed" in receiver.told)
    assert caplog.records == []


async def test_a_connection_that_closes_while_its_socket_is_full_ends_once() -> None:
    config = Config(max_send_buffer=3)  # writers go on when nothing is left: the pipe is closed with an empty buffer
    alice, bob = Host(config), Host(config)
    pipes: list[TcpPipe] = []
    upgrades: list[PipeUpgrade] = []

    def connected(host: Host, expected_peer: PeerId | None, pipe: BytePipe) -> PipeUpgrade:
        assert isinstance(pipe, TcpPipe)
        pipe._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
        pipe._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        pipes.append(pipe)
        upgrades.append(host.upgrade(pipe, expected_peer=expected_peer))
        return upgrades[-1]

    transport = TcpTransport(config, turns())
    listening = await transport.listen(Multiaddr.parse("/ip4/127.0.0.1/tcp/0"), partial(connected, bob, None))
    await transport.dial(listening.address, partial(connected, alice, bob.keypair.peer_id))
    await until(lambda: len(upgrades) == 2)
    listening.close()
    connections = [await upgrade.finished for upgrade in upgrades]
    dialed = [connection.direction is Direction.OUTBOUND for connection in connections].index(True)
    outbound, listener = connections[dialed], pipes[1 - dialed]
    stream = await outbound.open_stream(ECHO)
    await stream.negotiated()
    listener._transport.pause_reading()
    await stream.write(bytes(250_000))
    await until(lambda: outbound.output.congested)
    outbound.close()
    listener._transport.resume_reading()
    await asyncio.gather(*(connection.closed for connection in connections))
    for host in alice, bob:
        assert len(host.closed) == 1
        host.deadlines.close()


async def test_what_tcp_supports() -> None:
    transport = TcpTransport(Config(), turns())
    assert transport.supports(Multiaddr.parse("/ip4/127.0.0.1/tcp/1"))
    for other in "/ip4/127.0.0.1", "/ip4/127.0.0.1/tcp/1/ws", "/ip4/127.0.0.1/udp/1", "/tcp/1":
        assert not transport.supports(Multiaddr.parse(other))


async def test_the_path_of_each_end() -> None:
    paths: list[Path] = []

    def connected(pipe: BytePipe) -> NullReceiver:
        paths.append(pipe.path)
        pipe.abort()
        return NullReceiver()

    transport = TcpTransport(Config(), turns())
    listening = await transport.listen(Multiaddr.parse("/ip4/127.0.0.1/tcp/0"), connected)
    await transport.dial(listening.address, connected)
    await until(lambda: len(paths) == 2)
    listening.close()
    assert set(paths) == {Path("tcp", listening.address), Path("tcp", None)}


def test_a_wildcard_on_a_machine_without_an_interface() -> None:
    """In a network namespace of its own, where no interface is up."""
    script = """
import asyncio
from stronghold_p2p import StrongholdP2p

async def main():
    async with StrongholdP2p() as peer:
        address = await peer.listen("/ip4/0.0.0.0/tcp/0")
        (listener,) = peer.listeners
        assert address == listener.address, address
        assert listener.addresses == (), listener
        await peer.stop_listening(address)
        assert not peer.listeners

asyncio.run(main())
"""
    unshared = ["unshare", "--map-root-user", "--net", sys.executable, "-c", script]
    try:
        done = subprocess.run(unshared, check=False, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("unshare is missing")
    if "unshare" in done.stderr:
        pytest.skip(done.stderr)
    assert (done.returncode, done.stderr) == (0, "")


async def test_neither_end_waits_to_send_a_little(make_peer: MakePeer) -> None:
    """Without TCP_NODELAY an answer waits for the acknowledgement of what was sent before."""
    alice, bob = await make_peer(), await make_peer()
    await alice.connect(await bob.listen())
    await until(lambda: bob.connections)
    for peer in (alice, bob):
        assert peer._parts.swarm is not None
        [connection] = peer._parts.swarm.connections
        pipe: Any = connection._pipe
        connected = pipe._transport.get_extra_info("socket")
        assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
