"""The event loop that commands run on: uvloop's, if that is installed."""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Any

from .worker import Worker

__all__ = ["LOOP", "new_event_loop"]

try:
    import uvloop
except ImportError:
    LOOP, _new_event_loop = "asyncio", asyncio.new_event_loop
else:
    LOOP, _new_event_loop = "uvloop", uvloop.new_event_loop


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop that ends though a name is still looked up: the system may take twenty seconds to give that up."""
    loop = _new_event_loop()
    loop.getaddrinfo = _getaddrinfo  # type: ignore[method-assign]
    return loop


async def _getaddrinfo(host: Any, port: Any, **options: Any) -> Any:
    worker = Worker("name")  # its own: one that hangs must not hold up others
    found = worker.submit(partial(socket.getaddrinfo, host, port, **options))
    worker.stop()
    return await asyncio.wrap_future(found)
