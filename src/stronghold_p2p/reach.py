"""How a peer is reached, and reaches others: listeners, relays, and peers that it keeps connected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from .addresses.target import announced_addresses, own_address, parse_target, split_target
from .arguments import check_pair
from .compiling import mypyc_attr
from .errors import InvalidAddress
from .events import AddressReachability, Listener, NatKind
from .firewall.admission import RelayMode
from .identity import PeerId
from .multiaddr import Multiaddr
from .transport.transport import CertificateFiles, ListenOptions
from .wiring import Parts

__all__ = ["Reach"]


@mypyc_attr(allow_interpreted_subclasses=True)  # as StrongholdP2p does
class Reach:
    """The part of :class:`StrongholdP2p` that is about addresses."""

    def __init__(self, parts: Parts[Any, Any]) -> None:
        self._parts = parts
        self._peer_id = parts.keypair.peer_id
        self.addresses = parts.addresses
        """The known addresses of other peers."""

    @property
    def peer_id(self) -> PeerId:
        """Our peer id."""
        return self._peer_id

    # -- listening -------------------------------------------------------------------------------

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """The addresses that we listen on, each with its dialable addresses; then the relays through which we listen."""
        self._parts.owner.check()
        reservations = self._parts.relaying.reservations
        return (*self._parts.swarm.listeners, *reservations.listeners) if self._parts.swarm else ()

    @property
    def observed_addresses(self) -> tuple[Multiaddr, ...]:
        """How public remotes see us, once remotes of four networks agree: addresses at which they have reached a listener of
        ours, which other remotes are told, too; and IP addresses alone, from which we have dialed. Forgotten when the
        interfaces change."""
        self._parts.owner.check()
        return self._parts.swarm.own_addresses.observed if self._parts.swarm else ()

    @property
    def reachability(self) -> Mapping[Multiaddr, AddressReachability]:
        """Whether each of our public addresses, with our peer id, can be dialed from outside, and how that is known: peers
        that we are connected with, and that offer it, dial them (AutoNAT v2). See :class:`ReachabilityChanged`.

        An address that was dialed is told to other remotes, though few have observed it; one that peers of two
        networks could not dial is not told to public remotes. Empty without a public address, and without ``autonat``."""
        self._parts.owner.check()
        return self._parts.autonat.reachability if self._parts.autonat is not None else {}

    @property
    def nat_kind(self) -> NatKind | None:
        """How routers between us and public remotes translate our addresses, as remotes see it that we have dialed from the
        port of a listener. A hole can be punched with ``NatKind.NONE`` (nothing is translated) and ``ENDPOINT_INDEPENDENT``.
        None: not known, until remotes of two networks have told, and on systems that lend no ports, which Linux does.
        Forgotten when the interfaces change."""
        self._parts.owner.check()
        return self._parts.swarm.own_addresses.nat_kind if self._parts.swarm else None

    async def listen(
        self,
        address: Multiaddr | str = "/ip4/127.0.0.1/tcp/0",
        *,
        certificate: CertificateFiles | None = None,
        trusted_proxies: Sequence[str] = (),
        announce: Multiaddr | str | Iterable[Multiaddr | str] = (),
        reuse_port: bool = False,
    ) -> Multiaddr:
        """Listens on ``address``, for TCP or WebSocket (``.../ws``, ``.../tls/ws``).

        Returns the bound address with ``/p2p/<our id>``; for a wildcard (0.0.0.0 or ::) that of the first interface, if
        there is one. :attr:`listeners` has all of them, and follows the interfaces: see :class:`AddressesChanged`. TLS needs
        a ``certificate``: two PEM files, the chain and the private key. Changed files apply to new connections. ``/ws`` and
        ``/tls/ws`` can share a port: the second call gives the port of the first.

        ``trusted_proxies`` are networks or IP addresses of reverse proxies, such as ``"10.0.0.0/8"``. A WebSocket from there
        counts as from the address in the proxy's header, X-Forwarded-For or Forwarded, and is refused without a valid one.

        ``announce`` are addresses that lead here by other means, such as a port forwarded by a router, or the name of a
        reverse proxy. Remotes are told them beside our own, each remote those that it can reach: private addresses only on
        private networks, loopback addresses only on this machine.

        ``reuse_port``: other processes of the same user may listen on the port, too, if each says so (Linux, SO_REUSEPORT). Each
        connection goes to one of them, so all need the same keypair, policy and state file, and their number as
        ``Config.processes``.

        Raises:
            TypeError: ``certificate`` is not a pair.
            InvalidAddress: malformed, with the id of another peer, or none that can be announced.
            ListenError: in use, not of this machine, not permitted or unsupported, shared on a system that does not spread
                connections over processes, or the certificate or a trusted proxy is unusable.
            ClosedError: this peer is not running.
        """
        check_pair("certificate", certificate, "the files of the chain and of the private key")
        listener = await self._parts.running().listen(
            own_address(address, self.peer_id),
            announced_addresses(announce, self.peer_id),
            ListenOptions(certificate, trusted_proxies, reuse_port),
        )
        return listener.addresses[0] if listener.addresses else listener.address

    async def listen_via_relay(self, relay: PeerId | Multiaddr | str) -> Multiaddr:
        """Listens through a relay, until :meth:`stop_listening`: keeps a connection to it, and a reservation, which is renewed
        in time, and made again if it is lost, at any address of the relay that is known then: see :class:`ReservationMade` and
        :class:`ReservationLost`.

        Returns the address by which others reach us there, ``<relay address>/p2p/<relay>/p2p-circuit/p2p/<our id>``;
        :attr:`listeners` has all of them. The relay forwards, and sees ciphertext, sizes and times only.

        Raises:
            InvalidAddress: ``relay`` is malformed, has no peer id, or is this peer.
            ListenError: the relay cannot be reached, refuses, is none, or we listen through it already.
            ClosedError: this peer is not running, or stops to listen there meanwhile.
        """
        self._parts.running()
        address = await self._parts.relaying.listen(*self._target(relay))
        return address.with_peer(self.peer_id)

    async def stop_listening(
        self, address: Multiaddr | str | None = None, *, relay: PeerId | Multiaddr | str | None = None
    ) -> None:
        """Stops listening on ``address``, as given to or returned by :meth:`listen` or :meth:`listen_via_relay`, or through
        ``relay``; without either: on all. Connections stay open.

        Raises:
            InvalidAddress: malformed, or with the id of another peer.
            ClosedError: this peer is not running.
        """
        swarm, reservations = self._parts.running(), self._parts.relaying.reservations
        if address is not None:
            address = own_address(address, self.peer_id)
            swarm.stop_listening(address)
            reservations.stop_at(address)
        if relay is not None:
            reservations.stop(self._target(relay)[0])
        if address is None and relay is None:
            swarm.stop_listening()
            reservations.stop_all()

    # -- dialing through relays ------------------------------------------------------------------

    def add_dialing_relay(self, relay: PeerId | Multiaddr | str) -> None:
        """Tries a relay for every peer that is dialed by its id alone, behind the peer's own addresses.

        Raises:
            InvalidAddress: ``relay`` is malformed, has no peer id, or is this peer.
        """
        self._parts.owner.check()
        self._parts.relaying.add_dialing_relay(*self._target(relay))

    def remove_dialing_relay(self, relay: PeerId | str) -> None:
        """Tries a relay no longer, for any peer. Ignores unknown ones.

        Raises:
            InvalidAddress: ``relay`` is not a peer id.
        """
        self._parts.owner.check()
        self._parts.relaying.dialing.remove(PeerId.of(relay))

    def set_relay_fallback(self, peer: PeerId | str, use: bool) -> None:
        """Whether the relays of :meth:`add_dialing_relay` are tried for ``peer``; they are, unless this says otherwise.

        Raises:
            InvalidAddress: ``peer`` is not a peer id.
        """
        self._parts.owner.check()
        self._parts.relaying.dialing.set_fallback(PeerId.of(peer), use)

    def use_specific_relay(
        self, peer: PeerId | str, relay: PeerId | Multiaddr | str, *, exclusive: bool = False
    ) -> None:
        """Tries ``relay`` first for ``peer``; ``exclusive``: and no other one, though the peer says that it is there.

        Raises:
            InvalidAddress: ``peer`` is not a peer id, or ``relay`` is malformed, has no peer id, or is this peer.
        """
        self._parts.owner.check()
        self._parts.relaying.use_specific_relay(PeerId.of(peer), *self._target(relay), exclusive=exclusive)

    def set_relay_mode(self, mode: RelayMode | None, *, peer: PeerId | str | None = None) -> None:
        """Whether relays may join us with ``peer``, or, by None, with all peers without a mode of their own.

        ``"never"``: there is no circuit to or from it. ``"only"``: there is nothing else: it is not dialed directly, is not told
        our direct addresses, and its direct connections are refused, but for those to relays that forward for us.
        ``"allow"``, the default: both. None removes the mode. Modes of the policy go before these. Connections that there may
        not be any more are closed.

        Raises:
            InvalidAddress: ``peer`` is not a peer id.
            ValueError: the mode is unknown.
        """
        self._parts.owner.check()
        if mode is not None and mode not in get_args(RelayMode):
            raise ValueError(f"unknown relay mode {mode!r}: known are {', '.join(get_args(RelayMode))}")
        self._parts.set_relay_mode(None if peer is None else PeerId.of(peer), mode)

    # -- peers kept connected ---------------------------------------------------------------------

    def keep(self, to: PeerId | Multiaddr | str) -> None:
        """Keeps a peer connected, from now or from the start on, until :meth:`unkeep`.

        It is dialed at its known addresses, to which that in ``to`` is added, and again whenever the connection ends: after
        about a second, then after growing times of up to about a minute. A new address, or a change of our network, makes
        that at once. A :class:`KeepFailed` event says why it cannot be reached. A dead connection is noticed within
        ``Config.liveness_timeout``. An idle one is closed by neither side, but peers of other implementations may do so.

        Raises:
            InvalidAddress: malformed, without a peer id, or of this peer.
        """
        self._parts.owner.check()
        peer, address = self._target(to)
        if address is not None:
            self.addresses.add(address, peer)
        self._parts.keeper.keep(peer)

    def unkeep(self, peer: PeerId | str) -> None:
        """Ends what :meth:`keep` began: the connection is closed once it is idle. Ignores other peers.

        Raises:
            InvalidAddress: ``peer`` is not a peer id.
        """
        self._parts.owner.check()
        self._parts.keeper.unkeep(PeerId.of(peer))

    # -- details ---------------------------------------------------------------------------------

    def _target(self, to: PeerId | Multiaddr | str) -> tuple[PeerId, Multiaddr | None]:
        peer, address = parse_target(to) if isinstance(to, str) else split_target(to)
        if peer == self._peer_id:
            raise InvalidAddress(to, "it is of this peer itself")
        return peer, address
