"""A peer in another language as a program of libp2p's transport test: `python -m interop.harness_peer LANGUAGE`.

It stands for the programs of go-libp2p and rust-libp2p, which no registry has: they are built from their repositories.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from .driver import dial, listening
from .harness import Test


async def main(language: str) -> None:
    test = Test.of(os.environ)
    if test.is_dialer:
        address = await test.listener()
        start = time.perf_counter()
        (line,) = await dial(language, address, "ping")
        test.report(time.perf_counter() - start, line["rtt_ms"] / 1000)  # with the start of the process
    else:
        async with listening(language, *["--ws"] * (test.transport == "ws")) as remote:
            await test.publish(remote.address)
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
