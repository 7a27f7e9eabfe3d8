"""One question to a router, over UDP."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from .gateway import Gateway
from .pcp import MAX_MESSAGE

__all__ = ["WAITS", "ask"]

T = TypeVar("T")

WAITS: Final = (0.25, 0.5, 1.0, 2.0)
"""Seconds after each time that a question is sent: RFC 6886, section 3.1, up to where a router next to us is not there.
PCP begins with 3 s (RFC 6887, section 8.1.1), which is for providers' routers far away."""

JITTER: Final = 0.1
"""The part by which each wait is longer or shorter (RFC 6887, section 8.1.1)."""


async def ask(gateway: Gateway, request: bytes, read: Callable[[bytes], T | None], waits: Sequence[float]) -> T:
    """What ``read`` makes of the first datagram of ``gateway`` of which it does not make None.

    Nothing is heard before or after the question, nor from elsewhere.

    Raises:
        TimeoutError: no answer.
        OSError: the gateway cannot be reached, or nothing serves its port.
    """
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind((str(gateway.local), 0))  # a new port: whoever is not on the path cannot know it
        sock.connect((str(gateway.address), gateway.port))  # sends nothing; what others send is dropped by the system
        for wait in waits:
            await loop.sock_sendall(sock, request)
            try:
                async with asyncio.timeout(wait * random.uniform(1 - JITTER, 1 + JITTER)):
                    while True:
                        answer = read(await loop.sock_recv(sock, MAX_MESSAGE + 1))
                        if answer is not None:
                            return answer
                        await asyncio.sleep(0)  # a flood of others must not keep the loop here
            except TimeoutError:
                continue
    raise TimeoutError
