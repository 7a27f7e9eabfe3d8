"""A transport: makes byte pipes, by dialing and by listening. The swarm has a list of them and names none."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias

from ..errors import ListenError
from ..identity import PeerId
from ..multiaddr import Multiaddr
from .pipe import BytePipe, PipeReceiver

__all__ = [
    "DIAL_PLAINLY",
    "LISTEN_PLAINLY",
    "CertificateFiles",
    "Connected",
    "DialOptions",
    "DirectDial",
    "ListenOptions",
    "Transport",
    "TransportListener",
    "nothing_to_close",
    "refuse_certificate",
]

CertificateFiles: TypeAlias = tuple[str | os.PathLike[str], str | os.PathLike[str]]
"""A server's certificate for TLS, with those that lead to its authority behind it, and its private key: two files of
PEM."""

Connected: TypeAlias = Callable[[BytePipe], PipeReceiver]
"""Called with each new pipe before its first byte comes, and again when a trusted proxy has told for whom it is, which
changes its address; returns what receives for it."""


def nothing_to_close() -> None:
    """For listeners that nothing gives way to."""


class TransportListener(Protocol):
    """One address that is listened on."""

    @property
    def address(self) -> Multiaddr:
        """As bound, without a peer id: port 0 is resolved, a wildcard is not."""

    def close(self) -> None:
        """Stops listening. The pipes that it has made stay."""


class ListenOptions(NamedTuple):
    """What goes with an address to listen on."""

    certificate: CertificateFiles | None = None
    """For TLS."""
    trusted_proxies: Sequence[str] = ()
    """Networks or addresses of reverse proxies: a pipe from there has the address that the proxy forwards it for."""
    reuse_port: bool = False
    """Other processes may listen there, too, if they say the same."""
    exhausted: Callable[[], None] = nothing_to_close
    """Called when a connection waits for which the system has no descriptor, or no memory: it may close what matters least, and
    the connection is taken then. It is called again as long as that has not helped."""


class DialOptions(NamedTuple):
    """What goes with an address to dial."""

    peer: PeerId | None = None
    """Whom we expect there, as a relay must know."""
    named: Multiaddr | None = None
    """The same address by the name of its host, if it was looked up: what some servers want to hear."""
    from_listen_port: bool | None = None
    """Leave from where we listen, as both ends of a hole punch must, or from another port; None: as is of use."""


LISTEN_PLAINLY: Final = ListenOptions()
DIAL_PLAINLY: Final = DialOptions()


class DirectDial(enum.Enum):
    """How a peer is dialed beside a connection through a relay (libp2p/specs relay/DCUtR.md)."""

    BACK = enum.auto()
    """It may be reachable as it is. Not from the port of a listener: what a NAT remembers of a dial without an answer would be
    in the way of a hole punch."""
    INITIATOR = enum.auto()
    """It dials at the same moment. We are the initiator of the handshake."""
    RESPONDER = enum.auto()
    """It dials at the same moment. We are the responder, though we dial, too."""

    @property
    def is_punch(self) -> bool:
        """Whether both ends dial, each from the port of a listener."""
        return self is not DirectDial.BACK

    @property
    def is_for_remote(self) -> bool:
        """Whether it has come to us by the relay, and so has us dial it."""
        return self is not DirectDial.INITIATOR


class Transport(Protocol):
    """Dials and listens on the addresses of one kind. Addresses are without a peer id."""

    @property
    def name(self) -> str:
        """As in :attr:`Path.transport`, such as ``"tcp"``."""

    def supports(self, address: Multiaddr) -> bool:
        """Whether ``address`` is of this kind."""

    async def dial(self, address: Multiaddr, connected: Connected, options: DialOptions = DIAL_PLAINLY) -> None:
        """Connects to ``address``; returns when ``connected`` has been called.

        Raises:
            OSError: refused, or unreachable.
        """

    async def listen(
        self, address: Multiaddr, connected: Connected, options: ListenOptions = LISTEN_PLAINLY
    ) -> TransportListener:
        """Listens on ``address``, with a ``certificate`` if that has TLS; cancelled, it leaves nothing open.

        Raises:
            ListenError: in use, not an address of this machine, or not permitted; shared where the system cannot share a
                port; a certificate that cannot be used, is
                missing, or is given for an address without TLS; trusted proxies that are no networks, or are given for an
                address without HTTP.
        """

    async def close(self) -> None:
        """Ends what the transport itself holds. Its listeners and pipes are closed by whoever has them."""


def refuse_certificate(address: Multiaddr, certificate: CertificateFiles | None) -> None:
    """For addresses without TLS.

    Raises:
        ListenError: there is a certificate.
    """
    if certificate is not None:
        raise ListenError(address, "a certificate is for an address with TLS, such as /ip4/0.0.0.0/tcp/443/tls/ws")
