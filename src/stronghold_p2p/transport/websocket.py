"""WebSocket over TCP, with or without TLS, dialed and listened on (libp2p/specs websockets/README.md).

Every write is one binary message; where messages begin and end means nothing, and no extension is agreed to, whatever
is offered. TLS and the HTTP handshake are parts of the pipe: the swarm counts a connection, limits its time and checks
its network from the first byte on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, NoReturn

from ..config import Config
from ..errors import CertificateError, InvalidAddress, ListenError, WebSocketError
from ..events import Path
from ..logs import SparingLog
from ..multiaddr import Component, Multiaddr
from ..resources.turns import Turns
from . import tls_pipe
from .either_pipe import EitherPipe, Serve
from .forwarding import Network, client_of, is_trusted, parse_networks
from .pipe import BytePipe, PipeReceiver
from .resolver import ascii_host
from .tcp import TcpPipe, TcpTransport
from .tls import ServerCertificate, trust
from .transport import (
    DIAL_PLAINLY,
    LISTEN_PLAINLY,
    Connected,
    DialOptions,
    ListenOptions,
    TransportListener,
    refuse_certificate,
)

if TYPE_CHECKING:
    from .websocket_handshake import Handshake

__all__ = ["WebSocketTransport"]

log_proxy = SparingLog(logging.WARNING, "the trusted proxy at %s did not say for whom it forwards: %s")

PLAIN: Final = ("ws",)
NAMED: Final = ("tls", "sni", "ws")
"""To dial alone: the name that TLS and HTTP ask for, apart from where the server is."""
FORMS: Final = {PLAIN, ("tls", "ws"), ("wss",), NAMED}
"""What may stand behind TCP's part of an address."""


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
        self._ports: set[_Port] = set()

    def supports(self, address: Multiaddr) -> bool:
        return _form(address) in FORMS and self._tcp.supports(_tcp_part(address))

    async def dial(self, address: Multiaddr, connected: Connected, options: DialOptions = DIAL_PLAINLY) -> None:
        """As :meth:`Transport.dial`; raises CertificateError for a file of authorities that cannot be used, too."""
        from .websocket_pipe import client_pipe

        form = _form(address)
        (_, host), (_, port), *rest = (options.named or address).components
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
        self, address: Multiaddr, connected: Connected, options: ListenOptions = LISTEN_PLAINLY
    ) -> TransportListener:
        form = _form(address)
        if form == NAMED:
            raise ListenError(address, "/sni is for dialing only: listen on .../tls/ws")
        try:
            proxies = parse_networks(options.trusted_proxies)
        except ValueError as error:
            raise ListenError(address, f"a trusted proxy is not a network: {error}") from error
        shown = None
        if form == PLAIN:
            refuse_certificate(address, options.certificate)
        elif options.certificate is None:
            raise ListenError(address, "TLS needs a certificate and its private key")
        else:
            try:
                shown = await ServerCertificate.load(options.certificate)
            except CertificateError as error:
                raise ListenError(address, str(error)) from error
        port = await self._serve(address, self._server(proxies, shown), connected, options)
        watch = None
        if shown is not None:
            watch = asyncio.get_running_loop().create_task(shown.watch())
            self._watches.add(watch)
            watch.add_done_callback(self._watches.discard)
        return _Listener(port.tcp, form, partial(self._end, port, form), watch)

    def _server(self, proxies: Sequence[Network], shown: ServerCertificate | None) -> Serve:
        """Makes the server's end of pipes, over TLS if there is a certificate."""
        from .websocket_pipe import server_pipe

        path = Path("ws" if shown is None else "tls/ws")

        def serve(tcp: BytePipe, connected: Connected) -> PipeReceiver:
            assert isinstance(tcp, TcpPipe)
            by_proxy = bool(proxies) and is_trusted(ip_address(tcp.remote_address.components[0][1] or ""), proxies)
            readdress = partial(_readdress, tcp, connected, proxies) if by_proxy else None

            def websocket(lower: BytePipe) -> PipeReceiver:
                return server_pipe(lower, self._turns, path, connected, readdress)

            if shown is None:
                return websocket(tcp)
            return tls_pipe.server_pipe(tcp, self._turns, shown.context, path, websocket)

        return serve

    async def _serve(
        self,
        address: Multiaddr,
        server: Serve,
        connected: Connected,
        options: ListenOptions,
    ) -> _Port:
        """Listens on a port for ``server``, or has one that is listened on serve that, too."""
        secure = _form(address) != PLAIN
        where = _tcp_part(address)
        for port in self._ports:
            if where in port.addresses and secure not in port.servers:
                port.servers[secure] = server
                return port
        port = _Port({secure: server}, connected)
        port.tcp = await self._tcp.listen(where, port.take, options._replace(certificate=None, trusted_proxies=()))
        bound = port.tcp.address
        port.addresses = {bound, _joined(where.components[0], bound.components[1])}
        self._ports.add(port)
        return port

    def _end(self, port: _Port, form: tuple[str, ...]) -> None:
        """Serves one form on a port no more."""
        if len(port.servers) > 1:
            del port.servers[form != PLAIN]
        else:
            self._ports.discard(port)
            port.tcp.close()

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
    return _joined(*address.components[:2])


def _joined(*components: Component) -> Multiaddr:
    """The address of components that have values."""
    return Multiaddr.parse("".join(f"/{name}/{value}" for name, value in components))


def _path_name(form: tuple[str, ...]) -> str:
    return "ws" if form == PLAIN else "tls/ws"


def _ascii(address: Multiaddr, host: str) -> str:
    """The host of ``address`` as HTTP and TLS write it. Raises InvalidAddress."""
    try:
        return ascii_host(host)
    except OSError as error:
        raise InvalidAddress(address, str(error)) from error


def _readdress(
    tcp: TcpPipe, connected: Connected, proxies: Sequence[Network], handshake: Handshake, pipe: BytePipe
) -> None:
    """A trusted proxy has sent a request: the pipe is from whoever it forwards that for. Raises WebSocketError."""
    try:
        client = client_of(handshake.header("X-Forwarded-For"), handshake.header("Forwarded"), proxies)
    except WebSocketError as error:
        log_proxy.write(tcp.remote_address, error)  # it is the operator's to mend
        raise
    tcp.remote_address = Multiaddr.of_tcp(str(client), 0)  # nobody says which port
    pipe.receiver = connected(pipe)


class _Port:
    """A TCP listener with what it serves: WebSockets over TLS (True), those without (False), or both."""

    tcp: TransportListener
    addresses: set[Multiaddr]
    """As bound, and by the name that we were told."""

    def __init__(self, servers: dict[bool, Serve], connected: Connected) -> None:
        self.servers = servers
        self._connected = connected

    def take(self, tcp: BytePipe) -> PipeReceiver:
        if len(self.servers) > 1:
            return EitherPipe(tcp, self.servers.copy(), self._connected)
        (server,) = self.servers.values()
        return server(tcp, self._connected)


class _Listener:
    """One form on a port; its addresses end in ``form``. ``end`` serves it no more, ``watch`` looks after its certificate."""

    def __init__(
        self,
        tcp: TransportListener,
        form: tuple[str, ...],
        end: Callable[[], None],
        watch: asyncio.Task[NoReturn] | None,
    ) -> None:
        self._tcp = tcp
        self._end = end
        self._watch = watch
        self.address = tcp.address.encapsulate(Multiaddr.parse("/" + "/".join(form)))

    def close(self) -> None:
        self._end()
        if self._watch is not None:
            self._watch.cancel()
