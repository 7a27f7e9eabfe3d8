"""Where commands listen, and what an address takes."""

from __future__ import annotations

import gc
from asyncio import get_running_loop
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from ..multiaddr import Multiaddr
from ..peer import StrongholdP2p
from . import output
from .command import UsageError

__all__ = [
    "Announce",
    "Certificate",
    "CertificateKey",
    "Place",
    "TrustedProxy",
    "check_that_none_listens",
    "listen_on",
    "places",
    "serve",
    "with_port",
]

Certificate = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The certificate chain for /tls/ws addresses, as PEM.")
]
CertificateKey = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The private key of that certificate, as PEM.")
]
TrustedProxy = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NETWORK",
        help="Believe the reverse proxies in NETWORK, such as 10.0.0.0/8, for whom they forward a WebSocket. Repeatable.",
    ),
]
Announce = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ADDR",
        help="Tell other peers this address, too: of a port that a router forwards, or of a reverse proxy. Repeatable.",
    ),
]


class Place(NamedTuple):
    """An address to listen on, with what it takes."""

    address: Multiaddr | str
    certificate: tuple[Path, Path] | None = None
    trusted_proxies: Sequence[str] = ()


def places(
    addresses: Sequence[str], certificate: Path | None, key: Path | None, trusted_proxies: Sequence[str] | None
) -> list[Place]:
    """Raises UsageError for options that no address takes."""
    parsed = [Multiaddr.parse(address) for address in addresses]
    names = [{name for name, _ in address} for address in parsed]
    files = None if certificate is None or key is None else (certificate, key)
    if files is None and certificate is not key:
        raise UsageError("--certificate and --certificate-key go together")
    if files is not None and not any(found & {"tls", "wss"} for found in names):
        raise UsageError("--certificate is for addresses with TLS, such as /ip4/0.0.0.0/tcp/443/tls/ws")
    if trusted_proxies and not any(found & {"ws", "wss"} for found in names):
        raise UsageError("--trusted-proxy is for WebSockets, such as /ip4/127.0.0.1/tcp/8080/ws")
    return [
        Place(
            address, files if found & {"tls", "wss"} else None, trusted_proxies or () if found & {"ws", "wss"} else ()
        )
        for address, found in zip(parsed, names, strict=True)
    ]


async def listen_on(
    peer: StrongholdP2p[Any, Any], places: Sequence[Place], announce: Sequence[str] = (), *, reuse_port: bool = False
) -> None:
    """Listens on all of them, or raises; all are there for as long as the peer, and so is what they ``announce``."""
    for address, certificate, trusted_proxies in places:
        await peer.listen(
            address,
            certificate=certificate,
            trusted_proxies=trusted_proxies,
            announce=announce,
            reuse_port=reuse_port,
        )
        announce = ()


async def check_that_none_listens(peer: StrongholdP2p[Any, Any], places: Sequence[Place]) -> None:
    """Before ports are shared, which whoever had them before may do, too. Raises as :func:`listen_on`."""
    for address, certificate, trusted_proxies in places:
        if "/tcp/0/" not in f"{address}/":
            alone = await peer.listen(address, certificate=certificate, trusted_proxies=trusted_proxies)
            await peer.stop_listening(alone)


def with_port(given: Multiaddr, bound: Multiaddr) -> str:
    """The address that was given, with the port that it was bound to."""
    port = bound.components[1][1]
    return "".join(
        f"/{name}" if value is None else f"/{name}/{port if name == 'tcp' else value}" for name, value in given
    )


async def serve(peer: StrongholdP2p[Any, Any], *, begun: Callable[[], object] = lambda: None) -> None:
    """Prints where the peer can be dialed, calls ``begun``, and lets it run until Ctrl-C or SIGTERM cancels it."""
    for listener in peer.listeners:
        for dialable in listener.addresses or (listener.address,):
            output.result({"event": "listening", "address": str(dialable)}, f"listening on  {dialable}")
    begun()
    await output.shown()
    output.release()  # a script may have wanted the address alone
    gc.collect()
    gc.freeze()  # what the start has made stays: a full collection would halt every request for some 15 ms to look at it
    await get_running_loop().create_future()
