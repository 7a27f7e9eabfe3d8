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

from ..firewall.rules import FirewallRules, Rule
from ..identity import Keypair
from ..peer import StrongholdP2p
from ..protocols import perf as protocol
from . import output
from .command import KeyFile, PassphraseFile, UsageError, load_key
from .listening import Place, listen_on, serve
from .story import running

__all__ = ["Progress", "multiaddr", "perf"]


def perf(
    *,
    run_server: Annotated[
        bool,
        typer.Option("--run-server", help="Run the server, under the well-known identity of the libp2p benchmark."),
    ] = False,
    server_address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the server listens.")
    ] = "127.0.0.1:4001",
    transport: Annotated[Literal["tcp"], typer.Option(help="The transport.")] = "tcp",
    upload_bytes: Annotated[int, typer.Option(min=0, metavar="N", help="Bytes to upload.")] = 0,
    download_bytes: Annotated[int, typer.Option(min=0, metavar="N", help="Bytes to download, after the upload.")] = 0,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
) -> Coroutine[Any, Any, None]:
    """Measure throughput with libp2p's perf protocol, /perf/1.0.0.

    Prints a line of JSON each second with the transfer since the previous line, and one with the totals at the end.
    """
    address = multiaddr(server_address, transport)
    keypair = None if run_server else load_key(key, passphrase_file)
    return _perf(run_server, address, upload_bytes, download_bytes, keypair)


async def _perf(
    run_server: bool, address: str, upload_bytes: int, download_bytes: int, keypair: Keypair | None
) -> None:
    server = Keypair(Ed25519PrivateKey.from_private_bytes(bytes(32)))
    if run_server:
        rules = FirewallRules(inbound=Rule.restricted(allow={protocol.PROTOCOL}))
        async with running(StrongholdP2p(keypair=server, firewall=rules)) as peer:
            peer.handle_stream(protocol.PROTOCOL, protocol.serve)
            await listen_on(peer, [Place(address)])
            output.note("the private key of this identity is publicly known: use it for measurements only")
            await serve(peer)
        return
    async with running(StrongholdP2p(keypair=keypair)) as peer:
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
    if not host or not port.isdecimal() or int(port) > 0xFFFF:
        raise UsageError(f"--server-address: expected HOST:PORT, got {address!r}")
    host = host.removeprefix("[").removesuffix("]")
    try:
        kind = f"ip{ipaddress.ip_address(host).version}"
    except ValueError:
        kind = "dns"
    return f"/{kind}/{host}/{transport}/{port}"
