"""The order of the checks: each look begins as soon as what it needs is there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ..addresses.target import parse_target
from ..ending import together
from ..errors import DialError, InvalidAddress
from ..events import Reachability
from ..identity import Keypair, PeerId
from ..loops import deadline_in, loop_time
from ..multiaddr import CIRCUIT, Ip, Multiaddr, host_of
from ..peer import StrongholdP2p
from ..protocols.autonat.message import DIAL_REQUEST
from ..protocols.hole_punching import PROTOCOL as DCUTR
from ..protocols.relay.client import split_circuit
from ..transport.resolver import is_name
from .contact import Told, contact, contact_apart, punch, reserve, running
from .facts import Contact, Neighbors, Outside, Punch, RelayContact, Router, Target, port_of
from .finding import Diagnosis, Finding
from .look import listen_everywhere, look_at_machine, look_at_router, look_for_neighbors, look_up
from .machine import check_clock, check_interfaces, check_mdns, check_name, check_name_servers
from .outside import check_nat, check_reachability
from .remotes import (
    check_address,
    check_direct,
    check_hole_punching,
    check_ping,
    check_relay,
    check_relayed,
    check_requests,
)
from .router import check_port_mapping
from .summary import summarize

__all__ = ["diagnose"]

DIAL_PART: Final = 1 / 3
"""Of the time, for one dial: a relay, a peer through it, and what they say follow one another."""

LEAST: Final = 0.1
"""Seconds for a dial that begins when the time is up."""

NEIGHBORS_PART: Final = 1 / 4
"""Of the time, for hearing who is on the local network: they answer within a second, and one answer may be lost."""

PUNCH_TIME: Final = 8.0
"""Seconds for the first attempt to punch a hole: of those that succeed, 97.6 % do so then, and it fails after five."""

MAX_TOLD: Final = 4
"""Addresses of the peer that are tried beside the given one: as many connections as it allows of one remote."""


async def diagnose(
    *,
    relays: Sequence[str] = (),
    peer: str | None = None,
    names: Sequence[str] = (),
    listen: str | None = None,
    announce: Sequence[str] = (),
    keypair: Keypair | None = None,
    seconds: float = 13.0,
    tell: Callable[[Finding], None] = lambda finding: None,
) -> Diagnosis:
    """Finds out why peers can or cannot be reached.

    Nothing stays: a mapped port and reservations are given back, and no request is sent. Only the given relays, peer and
    names are asked, beside the router and the local network.

    Args:
        relays: addresses of relays, each with its peer id.
        peer: the address of a peer that is to be reached, or its id alone, to find it on the local network.
        names: hosts, or addresses that begin with ``/dns4``, ``/dnsaddr`` and the like, to look up as well.
        listen: where to listen meanwhile; None: on a free port of every interface.
        announce: addresses that lead to ``listen`` by other means, which are tested, too.
        keypair: the identity; None: a new one. Do not use that of a peer that runs now: its reservation at a relay would end
            with ours.
        seconds: the time for all checks; what takes longer is ``unknown``.
        tell: gets each finding, in order, as soon as those before it are there.

    Raises:
        InvalidAddress: an argument is malformed, or has no peer id where it must.
        ListenError: cannot listen on ``listen``.
    """
    has_key = keypair is not None
    keypair = keypair or Keypair.generate()
    given = list(dict.fromkeys(_target(relay, keypair.peer_id) for relay in relays))
    wanted = None if peer is None else _target(peer, keypair.peer_id)
    named = [*_names_in(given if wanted is None else [*given, wanted]), *((_name(one), None) for one in names)]
    where = None if listen is None else Multiaddr.parse(listen)
    async with running(keypair, seconds * DIAL_PART, port_mapping=True) as (own, told):
        await (listen_everywhere(own, announce) if where is None else own.listen(where, announce=announce))
        async with together() as tasks:
            examination = _Examination(
                own,
                told,
                keypair,
                seconds,
                tasks.create_task,
                port=0 if where is None else int(port_of(where) or 0),
                has_key=has_key,
            )
            return await examination.run(given, wanted, named, tell)


class _Examination:
    """One diagnosis under way, by the peer ``own``, which has ``told`` what it was told. ``spawn`` makes tasks."""

    def __init__(
        self,
        own: StrongholdP2p[Any, Any],
        told: Told,
        keypair: Keypair,
        seconds: float,
        spawn: Callable[..., asyncio.Task[Any]],
        *,
        port: int,
        has_key: bool,
    ) -> None:
        self._own = own
        self._told = told
        self._keypair = keypair
        self._end = deadline_in(seconds)
        self._dial_time = seconds * DIAL_PART
        self._spawn = spawn
        self._port = port
        self._has_key = has_key
        self._neighbors: asyncio.Task[Neighbors] = spawn(look_for_neighbors(seconds * NEIGHBORS_PART))

    async def run(
        self,
        given: Sequence[Target],
        wanted: Target | None,
        named: Sequence[tuple[Multiaddr, PeerId | None]],
        tell: Callable[[Finding], None],
    ) -> Diagnosis:
        """Looks at everything at once, and tells of it in order."""
        looking = self._spawn(look_at_machine())
        looking_up = [self._spawn(look_up(name, peer, self._dial_time)) for name, peer in named]
        asking_router = self._spawn(self._router())
        asking: dict[Target, asyncio.Task[RelayContact]] = {}
        for one in given:
            same = [task for other, task in asking.items() if other.peer == one.peer]
            asking[one] = self._spawn(self._relay(one, same))
        asking_relays = list(asking.values())
        dialing = None if wanted is None or wanted.is_relayed else self._spawn(self._contact(wanted, ping=True))
        reaching = None if wanted is None else self._spawn(self._reach(wanted, dialing, asking_relays))
        looking_in = self._spawn(self._outside(asking_router, asking_relays, dialing))

        findings: list[Finding] = []

        def say(*found: Finding) -> None:
            for finding in found:
                findings.append(finding)
                tell(finding)

        machine = await looking
        say(check_interfaces(machine))
        say(*[check_name(await one) for one in looking_up] or [check_name_servers(machine)])
        needed = await self._need_mdns(wanted, reaching, asking)
        say(check_mdns(await self._neighbors, machine, needed=needed))
        relays: list[RelayContact] = []
        for task in asking_relays:
            relays.append(await task)
            say(check_relay(relays[-1], leads=await self._leads(relays[-1], reaching)))
        lifetimes = {one.contact.target.peer: one.lifetime for one in relays if one.lifetime is not None}
        say(check_clock(machine, lifetimes))
        router = await asking_router
        say(check_port_mapping(router))
        reached = None if reaching is None else await reaching
        if reached is not None:
            say(*reached.findings(self._own.peer_id, has_key=self._has_key))
        outside = await looking_in
        say(check_nat(outside), check_reachability(outside, needed=all(one.reservation is None for one in relays)))
        contacts = [] if reached is None else reached.contacts
        punched = None if reached is None else reached.punched
        return summarize(findings, machine, router, outside, relays=relays, contacts=contacts, punched=punched)

    async def _leads(self, relay: RelayContact, reaching: asyncio.Task[_Reached] | None) -> bool:
        """Whether the peer was reached through ``relay``, which gives no reservation."""
        if relay.contact.path is None or relay.reservation is not None or reaching is None:
            return False
        relayed = [one.path for one in (await reaching).relayed]
        return any(path is not None and path.relay == relay.contact.target.peer for path in relayed)

    async def _need_mdns(
        self,
        wanted: Target | None,
        reaching: asyncio.Task[_Reached] | None,
        asking: Mapping[Target, asyncio.Task[RelayContact]],
    ) -> bool:
        """Whether somebody was given by the id alone, and was reached by no other way either."""
        for target, task in asking.items():
            if target.address is None and (await task).contact.path is None:
                return True
        return wanted is not None and wanted.address is None and reaching is not None and not (await reaching).met

    async def _outside(
        self,
        asking_router: asyncio.Task[Router],
        asking_relays: Sequence[asyncio.Task[RelayContact]],
        dialing: asyncio.Task[Contact] | None,
    ) -> Outside:
        """How remotes see us: they say so with their identity, and dial back while there is time."""
        contacts = [(await one).contact for one in asking_relays] + ([await dialing] if dialing is not None else [])
        asked: dict[Ip, Contact] = {}
        for one in contacts:
            ip = None if one.remote is None else host_of(one.remote)
            if ip is not None and ip.is_global and not one.target.is_relayed:
                asked[ip] = one
        given = len({one.target.peer for one in contacts})
        servers = [one for one in asked.values() if one.identity and DIAL_REQUEST in one.identity.protocols]

        def found_out() -> bool | None:
            known = self._own.reachability.values()
            if any(one.dialed_by for one in known):
                return True
            clear = all(one.state is not Reachability.UNKNOWN for one in known)
            return True if clear and (asking_router.done() or self._told.mapping is not None) else None

        if servers:
            await self._told.until(found_out, self._left)
        return Outside(
            sum(ip.version == 4 for ip in asked), self._own.nat_kind, len(servers), dict(self._own.reachability), given
        )

    async def _router(self) -> Router:
        router = await look_at_router(self._own.listeners)
        if self._port:
            router = replace(router, port=self._port)
        if not router.asked:
            return router
        return replace(router, mapping=await self._told.until(lambda: self._told.mapping, self._left))

    async def _relay(self, target: Target, same: Sequence[asyncio.Task[RelayContact]]) -> RelayContact:
        """After those who ask the ``same`` relay at other addresses: it gives one reservation."""
        reached_before = [other for other in [await one for one in same] if other.contact.path is not None]
        if reached_before and target.address is not None:
            contact = await self._apart(target)
            return RelayContact(contact) if contact.path is None else replace(reached_before[0], contact=contact)
        reached = await self._contact(target)
        if reached.path is None:
            return RelayContact(reached)
        return await reserve(self._own, self._told, reached)

    async def _contact(self, target: Target, *, ping: bool = False) -> Contact:
        """By ``own``, which remotes are to see dial from where it listens."""
        if target.address is None:
            neighbors = await self._neighbors
            addresses = neighbors.others.get(target.peer, ())
            if not addresses:
                error = DialError(target.peer, reason="nobody on the local network answers for it")
                return Contact(target, neighbors.seconds, error=error)
            for address in addresses:
                self._own.addresses.add(address, target.peer)
        return await contact(self._own, self._told, target, self._patience, ping=ping)

    async def _reach(
        self, wanted: Target, dialing: asyncio.Task[Contact] | None, asking_relays: Sequence[asyncio.Task[RelayContact]]
    ) -> _Reached:
        """In every way that there is."""
        relays = [(await one).contact for one in asking_relays]
        circuits = [wanted] if wanted.is_relayed else []
        circuits += [
            _behind(one, wanted.peer)
            for one in relays
            if one.path is not None and one.target.peer != wanted.peer and not _leads_by(wanted, one)
        ]
        direct = [] if dialing is None else [await dialing]
        relayed: list[Contact] = []
        punched = None
        while circuits and not any(one.holds for one in (*direct, *relayed)):
            # By our own peer, since it listens: the peer may begin to punch a hole to it.
            relayed.append(await self._contact(circuits.pop(0), ping=True))
            if _punches_holes(relayed[-1]) and self._own.reachability:
                punched = await punch(self._told, wanted.peer, min(PUNCH_TIME, self._left))
        relayed += await asyncio.gather(*map(self._apart, circuits))
        tried = {wanted.address} | {one.path.dialed for one in direct if one.path is not None}
        told = dict.fromkeys(address for one in (*direct, *relayed) for address in one.known if not address.is_relayed)
        new = [address for address in told if address not in tried][:MAX_TOLD]
        others = [self._spawn(self._apart(Target(wanted.peer, address))) for address in new]
        answering = [one.target.peer for one in relays if one.path is not None]
        return _Reached(direct, relayed, [await one for one in others], punched, answering)

    @property
    def _left(self) -> float:
        """Seconds until all is to end."""
        return max(self._end - loop_time(), 0.0)

    @property
    def _patience(self) -> float:
        """Seconds for a dial that begins now."""
        return max(min(self._dial_time, self._left), LEAST)

    def _apart(self, target: Target) -> Coroutine[Any, Any, Contact]:
        return contact_apart(self._keypair, target, self._patience)


@dataclass(frozen=True, slots=True)
class _Reached:
    """All attempts to reach the peer."""

    direct: Sequence[Contact]
    """At the given address; none if that leads through a relay."""
    relayed: Sequence[Contact]
    told: Sequence[Contact]
    """At addresses that the peer has told."""
    punched: Punch | None
    """What became of the first one through a relay, if there was no direct one."""
    relays: Sequence[PeerId]
    """The given relays that answer."""

    @property
    def contacts(self) -> list[Contact]:
        return [*self.direct, *self.told, *self.relayed]

    @property
    def directly(self) -> list[Contact]:
        """The direct attempts that have led to the peer."""
        return [one for one in (*self.direct, *self.told) if one.holds]

    @property
    def met(self) -> list[Contact]:
        """All attempts that have, the direct ones first."""
        return [*self.directly, *(one for one in self.relayed if one.holds)]

    def findings(self, own: PeerId, *, has_key: bool) -> list[Finding]:
        """Those about the peer; ``own`` is our id, ``has_key``: that of a key that was given."""
        directly, met = self.directly, self.met
        relayed = met[len(directly) :]
        found = [check_direct(one, needed=not met) for one in self.direct]
        found += [
            check_relayed(one, needed=not met, relay_given=one.target.relay in self.relays) for one in self.relayed
        ]
        found += [check_address(one) for one in self.told]
        ended = [one for one in self.contacts if one.closed]
        for one in (met or ended)[:1]:
            found += [check_ping(one), check_requests(one, own, is_kept=has_key)]
        if relayed and not directly:
            found.append(check_hole_punching(relayed[0], self.punched))
        return found


def _punches_holes(contact: Contact) -> bool:
    return contact.identity is not None and DCUTR in contact.identity.protocols


def _leads_by(wanted: Target, relay: Contact) -> bool:
    """Whether ``wanted`` is an address through ``relay`` as it was given, or as it was dialed."""
    return wanted.address in {
        Multiaddr.parse(f"{relay.target}/p2p-circuit"),
        _behind(relay, wanted.peer).address,
    }


def _behind(relay: Contact, peer: PeerId) -> Target:
    """``peer``, through a relay that was reached."""
    assert relay.path is not None
    assert relay.path.dialed is not None
    return Target(peer, relay.path.dialed.with_peer(relay.target.peer).encapsulate(CIRCUIT))


def _target(text: str, own: PeerId) -> Target:
    """Raises InvalidAddress."""
    peer, address = parse_target(text)
    if peer == own:
        raise InvalidAddress(text, "it is of this peer itself: give another one, or another key")
    return Target(peer, address)


def _names_in(targets: Iterable[Target]) -> list[tuple[Multiaddr, PeerId | None]]:
    """The names in addresses, each with the peer that it is to lead to; those of a circuit lead to the relay."""
    found: dict[tuple[Multiaddr, PeerId | None], None] = {}
    for target in targets:
        address, peer = target.address, target.peer
        if address is not None and target.is_relayed and (split := split_circuit(address)) is not None:
            peer, address = split
        if address is not None and is_name(address):
            found[address, peer] = None
    return list(found)


def _name(text: str) -> Multiaddr:
    """Raises InvalidAddress."""
    address = Multiaddr.parse(text if text.startswith("/") else f"/dns/{text}")
    if not is_name(address):
        raise InvalidAddress(text, "not a name, such as example.com or /dnsaddr/example.com")
    return address
