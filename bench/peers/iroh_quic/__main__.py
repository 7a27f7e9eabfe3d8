"""iroh from Python: QUIC between two endpoints that know each other's addresses, a bidirectional stream a request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Any

import iroh
from common import Request, answer, coded, main

MAX_MESSAGE = 17 * 2**20


@asynccontextmanager
async def bound(alpns: list[bytes]) -> AsyncIterator[Any]:
    """An endpoint without relays and look-ups: there are only the addresses that it is given."""
    iroh.iroh_ffi.uniffi_set_event_loop(asyncio.get_running_loop())
    options = iroh.EndpointOptions(preset=iroh.preset_minimal(), bind_addr="127.0.0.1:0", alpns=alpns)
    endpoint = await iroh.Endpoint.bind(options)
    try:
        yield endpoint
    finally:
        await endpoint.close()


@asynccontextmanager
async def serve() -> AsyncIterator[str]:
    async with bound([b"json", b"raw"]) as endpoint:
        tasks: set[asyncio.Task[None]] = set()

        def spawn(work: Any) -> None:
            task = asyncio.create_task(work)
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        async def accept() -> None:
            while True:
                accepting = await (await endpoint.accept_next()).accept()
                spawn(serve_connection(await accepting.connect()))

        async def serve_connection(connection: Any) -> None:
            form = connection.alpn().decode()
            with suppress(iroh.IrohError):  # the dialer has closed it
                while True:
                    spawn(serve_stream(await connection.accept_bi(), form))

        async def serve_stream(stream: Any, form: str) -> None:
            body = await stream.recv().read_to_end(MAX_MESSAGE)
            await stream.send().write_all(answer(body, form))
            await stream.send().finish()

        spawn(accept())
        try:
            yield f"{endpoint.bound_sockets()[0]} {endpoint.id()}"
        finally:
            for task in tasks:
                task.cancel()


@asynccontextmanager
async def dial(address: str, form: str) -> AsyncIterator[Request]:
    socket, remote = address.split()
    target = iroh.EndpointAddr(iroh.EndpointId.from_string(remote), None, [socket])
    async with bound([]) as endpoint:
        connection: Any = None

        async def exchange(body: bytes) -> bytes:
            nonlocal connection
            if connection is None:
                connection = await endpoint.connect(target, form.encode())
            stream = await connection.open_bi()
            await stream.send().write_all(body)
            await stream.send().finish()
            response: bytes = await stream.recv().read_to_end(MAX_MESSAGE)
            return response

        yield coded(exchange, form)
        if connection is not None:
            connection.close(0, b"")


if __name__ == "__main__":
    main(serve, dial, {"iroh": version("iroh")})
