"""WebSocket over TCP, with or without TLS, dialed and listened on (libp2p/specs websockets/README.md).

Every write is one binary message; where messages begin and end means nothing, and no extension is agreed to, whatever
is offered. TLS and the HTTP handshake are parts of the pipe: the swarm counts a connection, limits its time and checks
its network from the first byte on.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable
from typing import Final, NoReturn

from ..config import Config
from ..errors import CertificateError, InvalidAddress, ListenError
from ..events import Path
from ..identity import PeerId
from ..multiaddr import Multiaddr
from ..resources.turns import Turns
from . import tls_pipe
from .pipe import BytePipe, PipeReceiver
from .tcp import TcpTransport
from .tls import ServerCertificate, trust
from .transport import CertificateFiles, Connected, TransportListener, nothing_to_close, refuse_certificate

__all__ = ["WebSocketTransport"]

PLAIN: Final = ("ws",)
NAMED: Final = ("tls", "sni", "ws")
"""To dial alone: the name that TLS and HTTP ask for, apart from where the server is."""
FORMS: Final = {PLAIN, ("tls", "ws"), ("wss",), NAMED}
"""What may stand behind TCP's part of an address."""

MAX_HOST: Final = 253
"""Characters of a name (RFC 1035, section 2.3.4)."""


class WebSocketTransport:
    """Dials and listens on ``/ip4|ip6|dns|dns4|dns6/.../tcp/.../ws``, ``.../tls/ws`` and ``.../wss``, which is the same.

    ``authorities``: a file of certificates of authorities that servers are verified by, beside the system's.
    """

    name: Final = "ws"

    def __init__(self, config: Config, turns: Turns, authorities: str | os.PathLike[str] | None = None) -> None:
        self._tcp = TcpTransport(config, turns)
        self._turns = turns
        self._authorities = authorities
        self._trust: ssl.SSLContext | None = None
        self._watches: set[asyncio.Task[NoReturn]] = set()
        """One for each listener's certificate."""

    def supports(self, address: Multiaddr) -> bool:
        return _form(address) in FORMS and self._tcp.supports(_tcp_part(address))

    async def dial(
        self, address: Multiaddr, connected: Connected, *, peer: PeerId | None = None, named: Multiaddr | None = None
    ) -> None:
        """As :meth:`Transport.dial`; raises CertificateError for a file of authorities that cannot be used, too."""
        from .websocket_pipe import client_pipe

        form = _form(address)
        (_, host), (_, port), *rest = (named or address).components
        if form == NAMED:
            _, (_, host), _ = rest
        assert host is not None
        assert port is not None
        host = _ascii(address, host)
        path = Path(_path_name(form), address)

        def websocket(lower: BytePipe) -> PipeReceiver:
            return client_pipe(lower, self._turns, host, int(port), path, connected, secure=form != PLAIN)

        def tls(lower: BytePipe) -> PipeReceiver:
            assert self._trust is not None
            return tls_pipe.client_pipe(lower, self._turns, self._trust, host, path, websocket)

        if form != PLAIN and self._trust is None:
            self._trust = await trust(self._authorities)
        await self._tcp.dial(_tcp_part(address), websocket if form == PLAIN else tls)

    async def listen(
        self,
        address: Multiaddr,
        connected: Connected,
        *,
        certificate: CertificateFiles | None = None,
        exhausted: Callable[[], None] = nothing_to_close,
    ) -> TransportListener:
        from .websocket_pipe import server_pipe

        form = _form(address)
        path = Path(_path_name(form))

        def websocket(lower: BytePipe) -> PipeReceiver:
            return server_pipe(lower, self._turns, path, connected)

        if form == PLAIN:
            refuse_certificate(address, certificate)
            return _Listener(await self._tcp.listen(_tcp_part(address), websocket, exhausted=exhausted), form)
        if form == NAMED:
            raise ListenError(address, "/sni is for dialing only: listen on .../tls/ws")
        if certificate is None:
            raise ListenError(address, "TLS needs a certificate and its private key")
        try:
            shown = await ServerCertificate.load(certificate)
        except CertificateError as error:
            raise ListenError(address, str(error)) from error

        def tls(lower: BytePipe) -> PipeReceiver:
            return tls_pipe.server_pipe(lower, self._turns, shown.context, path, websocket)

        tcp = await self._tcp.listen(_tcp_part(address), tls, exhausted=exhausted)
        watch = asyncio.get_running_loop().create_task(shown.watch())
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)
        return _Listener(tcp, form, watch)

    async def close(self) -> None:
        for watch in self._watches:
            watch.cancel()
        if self._watches:
            await asyncio.wait(self._watches)
        await self._tcp.close()


def _form(address: Multiaddr) -> tuple[str, ...]:
    """The names of what stands behind TCP's part."""
    return tuple(name for name, _ in address.components[2:])


def _tcp_part(address: Multiaddr) -> Multiaddr:
    return Multiaddr.parse("".join(f"/{name}/{value}" for name, value in address.components[:2]))


def _path_name(form: tuple[str, ...]) -> str:
    return "ws" if form == PLAIN else "tls/ws"


def _ascii(address: Multiaddr, host: str) -> str:
    """The host of ``address`` as HTTP and TLS write it. Raises InvalidAddress."""
    try:
        name = host.encode("idna").decode()
    except UnicodeError as error:
        raise InvalidAddress(address, f"{host!r} is not a host name") from error
    if len(name) > MAX_HOST:
        raise InvalidAddress(address, f"a host name of {len(name):,} characters is too long")
    return name


class _Listener:
    """A TCP listener whose addresses end in ``form``; ``watch`` looks after its certificate."""

    def __init__(
        self, tcp: TransportListener, form: tuple[str, ...], watch: asyncio.Task[NoReturn] | None = None
    ) -> None:
        self._tcp = tcp
        self._watch = watch
        self.address = tcp.address.encapsulate(Multiaddr.parse("/" + "/".join(form)))

    def close(self) -> None:
        self._tcp.close()
        if self._watch is not None:
            self._watch.cancel()
