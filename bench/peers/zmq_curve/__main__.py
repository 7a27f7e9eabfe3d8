"""ZeroMQ with CURVE: DEALER to ROUTER, an id before each body, on asyncio."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import uvloop
import zmq
import zmq.asyncio
from common import Request, answer, coded, main


@asynccontextmanager
async def serve() -> AsyncIterator[str]:
    context = zmq.asyncio.Context()
    router = context.socket(zmq.ROUTER)
    public, secret = zmq.curve_keypair()
    router.curve_server, router.curve_publickey, router.curve_secretkey = True, public, secret
    port = router.bind_to_random_port("tcp://127.0.0.1")

    async def run() -> None:
        while True:
            identity, number, form, body = await router.recv_multipart()
            await router.send_multipart([identity, number, answer(body, form.decode())])

    task = asyncio.create_task(run())
    try:
        yield f"tcp://127.0.0.1:{port} {public.decode()}"
    finally:
        task.cancel()
        context.destroy(linger=0)


@asynccontextmanager
async def dial(address: str, form: str) -> AsyncIterator[Request]:
    context = zmq.asyncio.Context()
    try:
        async with dial_from(context, address, form) as request:
            yield request
    finally:
        context.destroy(linger=0)


@asynccontextmanager
async def dial_from(context: zmq.asyncio.Context, address: str, form: str) -> AsyncIterator[Request]:
    endpoint, key = address.split()
    dealer = context.socket(zmq.DEALER)
    dealer.curve_publickey, dealer.curve_secretkey = zmq.curve_keypair()
    dealer.curve_serverkey = key.encode()
    connected = False
    numbers = itertools.count()
    waiting: dict[bytes, asyncio.Future[bytes]] = {}
    loop = asyncio.get_running_loop()
    kind = form.encode()

    async def receive() -> None:
        while True:
            number, body = await dealer.recv_multipart()
            waiting.pop(number).set_result(body)

    async def exchange(body: bytes) -> bytes:
        nonlocal connected
        if not connected:
            dealer.connect(endpoint)
            connected = True
        number = next(numbers).to_bytes(8)
        waiting[number] = response = loop.create_future()
        await dealer.send_multipart([number, kind, body])
        return await response

    task = asyncio.create_task(receive())
    try:
        yield coded(exchange, form)
    finally:
        task.cancel()
        dealer.close(linger=0)


def shared_context() -> zmq.asyncio.Context:
    """For many sockets: each context has a thread of its own."""
    context = zmq.asyncio.Context()
    context.set(zmq.MAX_SOCKETS, context.get(zmq.SOCKET_LIMIT))
    return context


if __name__ == "__main__":
    versions = {"pyzmq": zmq.__version__, "libzmq": zmq.zmq_version(), "uvloop": uvloop.__version__}
    main(serve, dial, versions, dial_many=partial(dial_from, shared_context()))
