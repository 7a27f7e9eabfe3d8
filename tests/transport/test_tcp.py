"""Pipes over real sockets: when what is written leaves, and when writers are told to wait."""

from __future__ import annotations

import asyncio
import socket

from support.waiting import until

from stronghold_p2p import Config, Multiaddr
from stronghold_p2p.transport.pipe import BytePipe
from stronghold_p2p.transport.tcp import TcpPipe, TcpTransport

LIMIT = 100_000


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


async def test_writers_wait_for_what_is_over_the_limit_and_not_in_the_socket() -> None:
    receiver = Receiver()
    pipes: list[BytePipe] = []

    def connected(pipe: BytePipe) -> Receiver:
        pipes.append(pipe)
        return receiver

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        await TcpTransport(Config(max_send_buffer=LIMIT)).dial(Multiaddr.parse(f"/ip4/127.0.0.1/tcp/{port}"), connected)
        remote, _ = server.accept()
    pipe = pipes[0]
    assert isinstance(pipe, TcpPipe)
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
