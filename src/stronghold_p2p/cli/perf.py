"""``perf``: the libp2p project's own benchmark of throughput, with the flags and the output of its harness.

See https://github.com/libp2p/test-plans/tree/master/perf.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Coroutine
from typing import Annotated, Any, Literal

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..identity import Keypair
from ..peer import StrongholdP2p
from ..protocols import perf as protocol
from . import output
from .command import KeyFile, load_key
from .listen import listen_on

__all__ = ["Progress", "multiaddr", "perf"]


def perf(
    *,
    run_server: Annotated[
        bool, typer.Option("--run-server", help="Serve. The identity is the harness's: its private key is public.")
    ] = False,
    server_address: Annotated[str, typer.Option(metavar="HOST:PORT", help="The server's.")] = "127.0.0.1:4001",
    transport: Annotated[Literal["tcp"], typer.Option()] = "tcp",
    upload_bytes: Annotated[int, typer.Option(min=0, metavar="N", help="What to send, first.")] = 0,
    download_bytes: Annotated[int, typer.Option(min=0, metavar="N", help="What to have sent back, then.")] = 0,
    key: KeyFile = None,
) -> Coroutine[Any, Any, None]:
    """Measure /perf/1.0.0 as the libp2p project does: lines of JSON, one a second, and one at the end."""
    address = multiaddr(server_address, transport)
    return _perf(run_server, address, upload_bytes, download_bytes, load_key(key))


async def _perf(
    run_server: bool, address: str, upload_bytes: int, download_bytes: int, keypair: Keypair | None
) -> None:
    server = Keypair(Ed25519PrivateKey.from_private_bytes(bytes(32)))
    if run_server:
        async with StrongholdP2p(keypair=server) as peer:
            peer.handle_stream(protocol.PROTOCOL, protocol.serve)
            output.note("this identity's private key is publicly known: for measurements only")
            await listen_on(peer, [address])
        return
    async with StrongholdP2p(keypair=keypair) as peer:
        start = time.perf_counter()
        progress = Progress(start)
        reporter = asyncio.create_task(_report_each_second(progress))
        try:
            async with await peer.open_stream(f"{address}/p2p/{server.peer_id}", protocol.PROTOCOL) as stream:
                await protocol.measure(stream, upload_bytes, download_bytes, progress.update)
        finally:
            reporter.cancel()
        _print("final", time.perf_counter() - start, upload_bytes, download_bytes)


class Progress:
    """What has been transferred, and how much of it was reported when."""

    def __init__(self, now: float) -> None:
        self._total = self._reported = (0, 0)
        self._reported_at = now

    def update(self, uploaded: int, downloaded: int) -> None:
        """Take what has been transferred so far."""
        self._total = (uploaded, downloaded)

    def report(self, now: float) -> None:
        """Print what has been transferred since the last report."""
        uploaded, downloaded = (total - before for total, before in zip(self._total, self._reported, strict=True))
        _print("intermediary", now - self._reported_at, uploaded, downloaded)
        self._reported, self._reported_at = self._total, now


async def _report_each_second(progress: Progress) -> None:
    while True:
        await asyncio.sleep(1)
        progress.report(time.perf_counter())


def _print(kind: str, seconds: float, uploaded: int, downloaded: int) -> None:
    output.result({"type": kind, "timeSeconds": seconds, "uploadBytes": uploaded, "downloadBytes": downloaded})


def multiaddr(address: str, transport: str) -> str:
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        kind = f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        kind = "dns"
    return f"/{kind}/{host}/{transport}/{port}"
