"""The parts of a peer: makes them, connects them, and runs them from start to close."""

from __future__ import annotations

import asyncio
import os
from asyncio import _get_running_loop
from collections.abc import Awaitable, Callable
from functools import partial
from types import UnionType
from typing import TYPE_CHECKING, Any, Generic

from .addresses.book import AddressBook
from .config import Config
from .ending import begin, end_all
from .errors import ClosedError, StrongholdError
from .event_hub import EventHub
from .events import BanChanged, Direction, NameChanged, RuleChanged
from .firewall.admission import Admission, RelayMode
from .firewall.approvals import Approvals
from .firewall.expiry import Expiry
from .firewall.gate import Gate
from .firewall.names import Names
from .firewall.policy import Policy
from .firewall.rules import Firewall, FirewallRules, Rule
from .firewall_sources import FirewallSources
from .generics import Req, Res
from .identity import Keypair, PeerId
from .loops import Owner, refuse_loop
from .multiaddr import Multiaddr
from .protocols import approval
from .protocols.approval import Approving, Asking
from .protocols.autonat.service import Autonat
from .protocols.hole_punching import HolePunching
from .protocols.identify import IdentifyService
from .protocols.ping import PingService
from .protocols.relay.limits import RelayServer
from .protocols.service import Service, check_protocol_id
from .relaying import Relaying
from .requests import Requester, Responder, make_protocols
from .requests.codec import CodecName
from .resources.refusals import Refusals
from .resources.turns import Turns
from .streams import Streams
from .swarm.keeper import Keeper
from .swarm.own_addresses import believable, is_public, is_punchable, scope_of
from .swarm.swarm import Swarm
from .transport.connection import Connection
from .transport.interfaces import InterfaceWatch
from .transport.resolver import SystemResolver
from .transport.stream import Stream
from .transport.tcp import TcpTransport
from .transport.websocket import WebSocketTransport

if TYPE_CHECKING:
    from .discovery.mdns import Mdns
    from .port_mapping.mapper import PortMapper
    from .store.address_memory import AddressMemory
    from .store.database_thread import DatabaseThread

__all__ = ["Parts", "not_loaded"]


class Parts(Generic[Req, Res]):
    """What a :class:`StrongholdP2p` consists of; the arguments are those of its constructor."""

    def __init__(
        self,
        *,
        keypair: Keypair,
        firewall: FirewallRules,
        config: Config,
        request_type: type[Req] | UnionType | None,
        response_type: type[Res] | UnionType | None,
        codec: CodecName,
        firewall_view: Callable[[Req], Any] | None,
        policy: Policy | str | os.PathLike[str] | None,
        state: str | os.PathLike[str] | None,
        authorities: str | os.PathLike[str] | None,
        addresses: AddressBook | None,
        mdns: bool,
        port_mapping: bool,
        relay: RelayServer | None,
        autonat: bool,
    ) -> None:
        self.keypair = keypair
        self.config = config
        self.owner = Owner()
        self.events = EventHub()
        self.firewall = Firewall(firewall)
        self.firewall.changed = self._firewall_changed
        self.firewall.rule_set = self._rule_set
        self._expiry = Expiry(self.firewall)
        self.admission = Admission()
        self.names = Names()
        self.addresses = addresses if addresses is not None else AddressBook(config)
        self.ping = PingService()
        self.swarm: Swarm | None = None
        """None before the start, and from the close on."""
        self._refusals = Refusals(self.events.emit)
        self.approvals = Approvals(self.firewall, config, self.events.emit, self._refusals, self.names.name_of)
        protocols = make_protocols(codec, request_type, response_type, config)
        self.firewall.limit_types(protocols[-1].requests.type_names)
        self.gate = Gate(self.firewall, self.approvals, firewall_view, self.events)
        self.requester: Requester[Req, Res] = Requester(protocols, self.gate)
        self.responder: Responder[Req, Res] = Responder(protocols, self.gate, config, self.events, self._refusals)
        self.streams = Streams(self.gate, config, self.events)
        self.approving = Approving(self.offer_changed)
        self._asking = Asking(
            keypair.peer_id,
            keep=self._keep_approver,
            unkeep=lambda peer: self.keeper.unkeep(peer, Asking),
            take_part=self._ask_approvers,
        )
        self.approvals.quorum = self._asking
        state_file = self._make_state_file(state) if state is not None else None
        self.sources = FirewallSources(
            policy,
            state_file,
            firewall=self.firewall,
            gate=self.gate,
            admission=self.admission,
            approvers_changed=self._approvers_changed,
            names=self.names,
            traffic=(self.responder.traffic, self.streams.traffic),
            config=config,
            events=self.events,
            admission_changed=self._admission_changed,
        )
        self.approvals.keep_rule = self.sources.keep_rule
        self._address_memory = self._make_address_memory(state_file) if state_file is not None else None
        self._authorities = authorities
        self._uses_mdns = mdns
        self._mdns: Mdns | None = None
        self.keeper = Keeper(lambda peer, deadline: self.connect(peer, None, deadline), self.events.emit)
        self.port_mapping = self._make_port_mapping() if port_mapping else None
        optional = [self.port_mapping] if self.port_mapping is not None else []
        self.relaying = Relaying(
            keypair.peer_id,
            config,
            relay,
            policy=self.admission,
            limit_reached=self._refusals.add,
            addresses=self.addresses,
            connect=lambda peer, addresses, deadline, find: self.running().connect(
                peer, addresses, deadline, find=find
            ),
            believable=lambda told, remote: believable(told, scope_of(remote)),
            emit=self.events.emit,
            addresses_changed=self._relayed_addresses_changed,
        )
        self._hole_punching = HolePunching(
            candidates=self._candidates,
            dialable=is_punchable,
            permits=self._may_connect_directly,
            emit=self.events.emit,
        )
        self.autonat = (
            Autonat(is_public=is_public, emit=self.events.emit, always=relay is not None)
            if autonat and config.processes == 1  # else a dial that is to prove it may come to another process
            else None
        )
        self.admission.is_relay = self.relaying.used.__contains__
        self._services: tuple[Service, ...] = (
            IdentifyService(),
            self.ping,
            self.keeper,
            self._asking,
            self.approving,
            self._hole_punching,
            *optional,
            *self.relaying.services,
            *(self.autonat.services if self.autonat is not None else ()),
        )
        self._starting = False
        self._closing: asyncio.Future[None] | None = None
        """Done when the first call of :meth:`close` has ended."""

    # -- life ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """As :meth:`StrongholdP2p.start`."""
        if self._closing is not None:
            raise ClosedError("the peer is closed: make a new one")
        if self.swarm is not None or self._starting:
            raise RuntimeError("the peer is already running")
        self.addresses.claim(self.owner)
        self.addresses.address_added = self._address_added
        self.owner.loop = asyncio.get_running_loop()
        self._starting = True
        try:
            self.swarm = await begin(self._start, self._undo_start)
        except StrongholdError:
            raise
        except OSError as error:
            raise not_loaded(error) from error
        finally:
            self._starting = False
        for peer in self._asking.approvers:
            self._keep_approver(peer)  # the state file may have had its address
        self.keeper.start()
        self._expiry.start()

    async def _start(self) -> Swarm:
        await self.sources.start()
        if self._address_memory is not None:
            await self._address_memory.start()
        if self._closing is not None:
            raise ClosedError("the peer was closed while it started")
        return self._make_swarm()

    async def _undo_start(self) -> None:
        await end_all(self._close_mdns, self._close_files, partial(setattr, self.owner, "loop", None))

    async def _close_files(self) -> None:
        """Returns when the state file is written."""
        writers = [self._address_memory.close] if self._address_memory is not None else []
        await end_all(*writers, self.sources.close)

    def _make_swarm(self) -> Swarm:
        turns = Turns(asyncio.get_running_loop(), self.config.turn_time)
        interfaces = InterfaceWatch()
        if self._uses_mdns:
            self._mdns = self._make_mdns(turns, interfaces)
        swarm = Swarm(
            self.keypair,
            self.config,
            transports=(
                TcpTransport(self.config, turns),
                WebSocketTransport(self.config, turns, self._authorities),
                self.relaying.transport(),
            ),
            resolver=SystemResolver(),
            interfaces=interfaces,
            addresses=self.addresses,
            services=self._services if self._mdns is None else (*self._services, self._mdns),
            admission=self.admission,
            turns=turns,
            permits=self._permits,
            approves=self._approves,
            refusals=self._refusals,
            refused=self._refused,
            emit=self.events.emit,
            find=self._mdns.find if self._mdns is not None else None,
        )
        self.responder.turns = turns
        for protocol in self.responder.protocols:
            swarm.handle(protocol, self.responder.accept)
        for protocol in self.streams.handlers:
            swarm.handle(protocol, self.streams.accept)
        return swarm

    def _make_state_file(self, path: str | os.PathLike[str]) -> DatabaseThread:
        from .store.database_thread import DatabaseThread  # with SQLite, for those who have a state file

        return DatabaseThread(path)

    def _make_address_memory(self, state_file: DatabaseThread) -> AddressMemory:
        from .store.address_memory import AddressMemory

        return AddressMemory(self.addresses, state_file, failed=self.sources.state_failed)

    def _make_port_mapping(self) -> PortMapper:
        from .port_mapping.mapper import PortMapper  # a tenth of the import, for few

        return PortMapper(self.events.emit)

    def _make_mdns(self, turns: Turns, interfaces: InterfaceWatch) -> Mdns:
        """Raises ListenError."""
        from .discovery.mdns import Mdns  # with zeroconf, for which nobody else need wait

        mdns = Mdns(
            self.keypair.peer_id,
            self.config,
            addresses=self.addresses,
            interfaces=interfaces,
            turns=turns,
            refusals=self._refusals,
            emit=self.events.emit,
        )
        mdns.open()
        return mdns

    def _close_mdns(self) -> None:
        if self._mdns is not None:
            self._mdns.close()

    async def close(self) -> None:
        """As :meth:`StrongholdP2p.close`."""
        if self._closing is not None:
            await asyncio.shield(self._closing)
            return
        self.owner.loop = asyncio.get_running_loop()
        self._closing = self.owner.loop.create_future()
        swarm, self.swarm = self.swarm, None
        await end_all(
            self._close_mdns,
            self._expiry.close,
            self.approvals.close,  # first: waiting requests would delay the connections
            self.approving.close,  # and so would questions of others
            self.keeper.close,
            self._hole_punching.close,
            self.relaying.reservations.close,
            *([self.autonat.close] if self.autonat is not None and swarm is not None else []),
            *([swarm.close] if swarm is not None else []),
            *([self.port_mapping.close] if self.port_mapping is not None else []),
            self.responder.close,
            self.streams.close,
            self.events.close,
            self._close_files,
            partial(self._closing.set_result, None),
            partial(setattr, self.owner, "loop", None),
        )

    def running(self) -> Swarm:
        """The swarm.

        Raises:
            ClosedError: not started, or closed.
            RuntimeError: called on another event loop.
        """
        if self.swarm is None:
            raise ClosedError
        if _get_running_loop() is not self.owner.loop:
            refuse_loop()
        return self.swarm

    async def connect(self, peer: PeerId, address: Multiaddr | None, deadline: float) -> Connection:
        """A connection to ``peer`` before ``deadline`` (the loop's time): at ``address``, or at those that are known or found,
        and through relays.

        Raises: as for :meth:`Swarm.connect`.
        """
        if address is None:
            addresses = self.relaying.dialing.addresses(peer, self.addresses.get(peer))
        else:
            addresses = (address,)
        return await self.running().connect(peer, addresses, deadline, find=address is None)

    # -- changes ---------------------------------------------------------------------------------

    def handle_stream(self, protocol: str, handler: Callable[[Stream], Awaitable[None]]) -> None:
        """As :meth:`StrongholdP2p.handle_stream`."""
        check_protocol_id(protocol)
        own = {one for service in self._services for one in service.protocols}
        if protocol in {*self.responder.protocols, *self.streams.handlers, *own}:
            raise RuntimeError(f"{protocol} already has a handler")
        if self.swarm is not None:
            self.swarm.handle(protocol, self.streams.accept)
        self.streams.handlers[protocol] = handler
        self.offer_changed()

    async def set_banned(self, peer: PeerId, banned: bool) -> None:
        """As :meth:`StrongholdP2p.ban_peer`, and back."""
        self.owner.check()
        (self.admission.ban if banned else self.admission.unban)(peer)
        if self.swarm is not None:
            self.events.emit(BanChanged(peer, banned))
        kept = self.sources.keep_ban(peer, banned)
        if banned and self.swarm is not None:
            await self.swarm.disconnect(peer, refused=True)
        if not banned:
            self.keeper.retry(peer)
        if kept is not None:
            await kept

    def set_name(self, peer: PeerId, name: str | None) -> None:
        """As :meth:`StrongholdP2p.set_name`."""
        self.names.set_petname(peer, name)
        if self.swarm is not None:
            self.events.emit(NameChanged(peer, name))
        self.sources.keep_name(peer, name)

    def set_relay_mode(self, peer: PeerId | None, mode: RelayMode | None) -> None:
        """As :meth:`StrongholdP2p.set_relay_mode`."""
        self.admission.set_relay_mode(peer, mode)
        self._admission_changed()
        self.offer_changed(peer)

    def offer_changed(self, peer: PeerId | None = None) -> None:
        """The protocols that ``peer``, or every peer, may open have changed."""
        if self.swarm is not None:
            self.swarm.offer_changed(peer)

    def _firewall_changed(self, peer: PeerId | None) -> None:
        self.approvals.rules_changed(peer)
        self.gate.tenancy.rules_changed(peer)
        self.offer_changed(peer)

    def _rule_set(self, peer: PeerId | None, direction: Direction, rule: Rule | None) -> None:
        if self.swarm is not None:  # what the state file holds at the start is no change
            self.events.emit(RuleChanged(peer, direction, None if rule is None else repr(rule)))

    def _approvers_changed(self, approvers: frozenset[PeerId], need: int) -> None:
        self._asking.set_approvers(approvers, need)
        self.approvals.quorum_changed()

    def _ask_approvers(self, wanted: bool) -> None:
        (self.approvals.add if wanted else self.approvals.remove)(self._asking)

    def _keep_approver(self, peer: PeerId) -> None:
        """Others are to connect themselves."""
        if self.addresses.get(peer):
            self.keeper.keep(peer, Asking)

    def _address_added(self, peer: PeerId) -> None:
        self.keeper.address_added(peer)
        if peer in self._asking.approvers:
            self._keep_approver(peer)

    def _admission_changed(self) -> None:
        if self.swarm is not None:
            self.swarm.admission_changed()
            self.relaying.policy_changed()
            self.keeper.retry_all()

    def _relayed_addresses_changed(self, addresses: tuple[Multiaddr, ...]) -> None:
        if self.swarm is not None:
            self.swarm.own_addresses.set_relayed(addresses)

    # -- what the swarm asks -----------------------------------------------------------------------

    def _permits(self, peer: PeerId, protocol: str) -> bool:
        """Firewall rules apply to requests and streams. Without a handler or iterator requests are not offered."""
        if protocol in self.responder.protocols:
            closed = self.gate.rejects_all(peer, Direction.INBOUND) and not self.gate.may_tell(peer)
            return self.responder.serving and not closed
        if protocol == approval.PROTOCOL:
            return self.approving.offers(peer)
        if protocol in self.streams.handlers:
            return self.streams.offers(peer, protocol)
        return self.autonat is None or self.autonat.offers(protocol)

    def _candidates(self) -> tuple[Multiaddr, ...]:
        """Where we may be reached directly; nowhere while we close."""
        return tuple(filter(is_punchable, self.swarm.own_addresses.candidates)) if self.swarm is not None else ()

    def _may_connect_directly(self, peer: PeerId, direction: Direction) -> bool:
        """Not with whom every request is rejected: a direct path is more than it has."""
        return self.admission.may_connect_directly(peer) and not self.gate.rejects_all(peer, direction)

    def _approves(self, peer: PeerId) -> bool:
        """A rule allows requests of the peer, some or all."""
        return self.gate.allows_some(peer, Direction.INBOUND)

    def _refused(self, connection: Connection, protocol: str) -> None:
        """The remote tried to open a protocol that it is not offered."""
        if protocol in self.responder.protocols and self.responder.serving:
            self.gate.refuse(connection.peer, Direction.INBOUND, connection.remote_address)
        elif protocol in self.streams.handlers:
            self.streams.refused(connection, protocol)


def not_loaded(error: OSError) -> StrongholdError:
    """The error in the place of that of a module which is imported with its first use, and cannot be read: out of descriptors."""
    return StrongholdError(f"cannot load a part of this library: {(error.strerror or str(error)).lower()}")
