"""The address book: known addresses of peers, their sources, and the results of dials."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

from ..config import Config
from ..errors import DecodeError, InvalidAddress, RemoteProtocolError
from ..identity import PeerId
from ..loops import Owner
from ..multiaddr import Multiaddr, is_path
from ..resources.networks import Networks, networks_of
from ..resources.shares import Shares
from ..wire.envelope import PeerRecord, peek_record
from .entry import AddressEntry, AddressKey, AddressSource, NamedAddress
from .export import decode, encode
from .peer_addresses import Named, PeerAddresses

__all__ = ["AddressBook"]

logger = logging.getLogger("stronghold_p2p")

MAX_GIVEN: Final = 64
"""Given addresses of one peer: a peer that restarts on random ports would accumulate them."""
MAX_TOLD: Final = 16
"""Addresses of one peer from each other source, so that no source displaces another, or delays a dial by minutes."""
MAX_LOOKED_AT: Final = 256
"""Addresses that a source may tell at once; of these, the first ones that we may use are taken."""
MAX_ADDRESS_SIZE: Final = 512
"""Bytes of an address that a remote tells: a name has up to 253, and there may be a relay's before it."""
MAX_COMPONENTS: Final = 16
"""Its components, each of which takes 100 bytes of memory: a relayed address by WebSocket has ten."""
MAX_RECORD_SIZE: Final = 2048
"""Bytes of a signed record: one with 16 addresses has some 1,000. go-libp2p kept any number of addresses of a record, until
its memory was used up (CVE-2023-40583)."""


class AddressBook:
    """The known addresses of peers, each with an :class:`AddressEntry`.

    Addresses from our own code are kept until they are removed, within ``Config.max_given_addresses``. Addresses from
    remotes are kept within ``Config.max_told_addresses``, and never displace ours; beyond that, the network that has told
    the most gives way. The handshake authenticates the peer at an address, so a wrong address costs a failed dial only.

    A book belongs to one peer at a time, from its start to its end, and must be used on its event loop.
    """

    def __init__(self, config: Config | None = None, *, clock: Callable[[], float] = time.time) -> None:
        """``config`` has the limits; None: the defaults. ``clock`` gives the time in seconds since the epoch."""
        self.clock: Final = clock
        self.changed: Callable[[AddressKey, Networks], None] | None = None
        """Called for each change that is worth keeping, with the networks of who told it."""
        self.address_added: Callable[[PeerId], None] | None = None
        """Called when a peer has an address more."""
        self.config: Final = config or Config()
        self._owner = Owner()
        self._peers: dict[PeerId, PeerAddresses] = {}
        self._given: dict[PeerId, int] = {}
        """How many addresses each peer was given; the one that was changed last stands last."""
        self._given_count = 0
        self._told: Shares[tuple[PeerId, AddressSource]] = Shares()
        """What each source has told of a peer, by the networks of who told it, in order of time."""

    def claim(self, owner: Owner) -> None:
        """Restricts the use to the event loop of ``owner``, while that has one.

        Raises:
            RuntimeError: it belongs to another peer, which is running.
        """
        if self._owner is not owner and self._owner.loop is not None:
            raise RuntimeError("the address book belongs to another peer, which is running: give each peer its own")
        self._owner = owner

    # -- looking up ------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[PeerId]:
        """The peers with a known address."""
        self._owner.check()
        return iter([peer for peer in list(self._peers) if peer in self])

    def __contains__(self, peer: object) -> bool:
        return isinstance(peer, PeerId) and bool(self.get(peer))

    def get(self, peer: PeerId | str) -> tuple[Multiaddr, ...]:
        """The addresses of ``peer``, without its peer id, sorted by source and time. Dials prefer known good ones.

        Raises:
            InvalidAddress: ``peer`` is not a peer id.
        """
        return tuple(entry.address for entry in self.entries(peer))

    def entries(self, peer: PeerId | str) -> tuple[AddressEntry, ...]:
        """As :meth:`get`, with the source, expiry and dial results of each."""
        self._owner.check()
        peer = PeerId.of(peer)
        self._forget_expired(peer)
        known = self._peers.get(peer)
        return known.entries() if known is not None else ()

    def record(self, peer: PeerId | str) -> bytes | None:
        """The newest signed record of ``peer``, to be handed on: the other side passes it to :meth:`certify`.

        It came by :meth:`certify`, :meth:`load` or identify, and is verified here. None if there is none, or none that
        verifies: rust-libp2p signs its own for another domain.
        """
        self._owner.check()
        known = self._peers.get(PeerId.of(peer))
        if known is None or not known.record:
            return None
        try:
            PeerRecord.open(known.record)
        except DecodeError:
            return None
        return known.record

    # -- changing --------------------------------------------------------------------------------

    def add(
        self,
        address: Multiaddr | str,
        peer: PeerId | str | None = None,
        *,
        source: AddressSource = AddressSource.GIVEN,
        expires: float | None = None,
    ) -> None:
        """Adds an address of ``peer``, whose id can also be in the address (``/p2p/...``).

        ``expires`` is in seconds since the epoch; None: never. A peer has at most 64 given addresses, and 16 of each other
        source. Beyond that, the one with the oldest successful dial, or none, is displaced.

        Raises:
            InvalidAddress: malformed, without a peer id, or with another one than ``peer``.
            TypeError: ``address`` or ``peer`` has the wrong type.
        """
        self._owner.check()
        peer, address = _parse(address, peer)
        self._forget_expired(peer)
        known = self._peers.get(peer)
        named = dict(known.named.get(source, {})) if known is not None else {}
        named[address] = expires
        if known is not None and len(named) > self._room(source):
            del named[min(list(named)[:-1], key=known.last_success)]
        self._put(peer, source, named, self._told_by(peer, source))
        self._make_room()

    def remove(self, address: Multiaddr | str, peer: PeerId | str | None = None) -> None:
        """Removes an address, whatever its source. Ignores unknown ones.

        Raises:
            InvalidAddress: as for :meth:`add`.
        """
        self._owner.check()
        peer, address = _parse(address, peer)
        self._keep(peer, lambda one, _: one != address)

    def tell(
        self,
        peer: PeerId | str,
        source: AddressSource,
        addresses: Iterable[Multiaddr],
        *,
        expires: float | None = None,
        by: Multiaddr | None = None,
    ) -> None:
        """Replaces what ``source`` has told of ``peer`` by ``addresses``, of which the first 16 that can be used are taken.

        ``expires`` is in seconds since the epoch; None: never. ``by`` is the address of the remote that told it, whose
        network shares what remotes may fill; None: what the source tells is one share. Addresses that end in the id of
        another peer are left out, and those over 512 bytes or 16 components.

        Raises:
            InvalidAddress: ``peer`` is not a peer id.
            ValueError: ``source`` is ``GIVEN``, which is for :meth:`add`.
        """
        self._owner.check()
        if source is AddressSource.GIVEN:
            raise ValueError("no remote tells what is given: use add")
        peer = PeerId.of(peer)
        named: Named = {}
        if expires is None or expires > self.clock():
            usable = filter(None, (_told_address(peer, address) for address in islice(addresses, MAX_LOOKED_AT)))
            named = dict.fromkeys(islice(dict.fromkeys(usable), self._room(source)), expires)
        self._put(peer, source, named, networks_of(by) if by is not None else (source.value,))
        self._make_room()

    def certify(self, record: bytes, *, expires: float | None = None, by: Multiaddr | None = None) -> PeerId:
        """Takes the addresses of a signed peer record (libp2p RFC 0003) from anybody, and returns the peer that signed it.

        They replace those of an older record, and are preferred to unsigned ones. A record has no expiry of its own;
        ``expires`` is as for :meth:`tell`, and so is ``by``, the address of who has handed it on. To verify it takes about
        0.1 ms: limit how often a remote may cause that.

        Raises:
            RemoteProtocolError: the record is over 2,048 bytes, expired, or older than the known one.
            DecodeError: it is malformed, or not signed by its peer.
        """
        self._owner.check()
        if len(record) > MAX_RECORD_SIZE:
            raise RemoteProtocolError("peer record", f"expected at most {MAX_RECORD_SIZE} bytes, got {len(record)}")
        now = self.clock()
        if expires is not None and expires <= now:
            raise RemoteProtocolError("peer record", f"it has expired {now - expires:.0f} s ago")
        peer, seq = peek_record(record)
        known = self._peers.get(peer)
        if known is not None and known.record and seq < known.seq:
            raise RemoteProtocolError("peer record", f"expected number {known.seq} or above, got an older one, {seq}")
        addresses = PeerRecord.open(record).addresses
        self.tell(peer, AddressSource.SIGNED_RECORD, addresses, expires=expires, by=by)
        self.hold_record(peer, record)
        return peer

    def hold_record(self, peer: PeerId, record: bytes) -> None:
        """Keeps the signed record that ``peer`` itself has told, for :meth:`record`, unless a newer one or no address is
        known. It is not verified: that costs, and its sender is known."""
        known = self._peers.get(peer)
        if known is None or not record or len(record) > MAX_RECORD_SIZE:
            return
        try:
            signer, seq = peek_record(record)
        except DecodeError:
            return
        if signer == peer and (seq >= known.seq or not known.record):
            known.record, known.seq = record, seq

    # -- dials -----------------------------------------------------------------------------------

    def succeeded(self, peer: PeerId, address: Multiaddr) -> None:
        """Records a successful dial. An unknown address was the target of a call, and is added as given."""
        known = self._peers.get(peer)
        if known is None or not known.names(address):
            self.add(address, peer)
            known = self._peers[peer]
        known.succeeded(address, self.clock())
        for source, named in list(known.named.items()):
            if address in named:
                told_by = self._told_by(peer, source)
                self._put(peer, source, named, told_by)  # it stands last now
                if self.changed is not None:
                    self.changed((peer, address, source), told_by)

    def failed(self, peer: PeerId, address: Multiaddr) -> None:
        """Records a failed dial. Ignores unknown addresses."""
        known = self._peers.get(peer)
        if known is not None and known.names(address):
            known.failed(address, self.clock())

    def network_changed(self) -> None:
        """Forgets all failed dials: what could not be reached from one network may be from another."""
        self._owner.check()
        for known in self._peers.values():
            known.forget_failures()

    # -- files -----------------------------------------------------------------------------------

    def export(self) -> bytes:
        """All of it as JSON, for :meth:`load`::

            {"version": 1,
             "addresses": [{"peer": "12D3Koo...", "address": "/ip4/192.0.2.1/tcp/4001", "source": "identify",
                            "expires": 1800000000.0, "told_by": ["192.0.2.1/32"], "last_success": 1790000000.0,
                            "last_failure": 1790000100.0, "failures": 2}],
             "records": ["..."]}

        An address stands there once for each of its sources. Times are in seconds since the epoch; what is not known is
        left out. ``told_by`` has the networks of the remote that told it. ``records`` are signed peer records in base64.
        """
        peers = [self._peers[peer] for peer in self]
        return encode(self.named(), [known.record for known in peers if known.record])

    def load(self, data: bytes) -> None:
        """Adds what :meth:`export` has written, here or in another program, to what is known. It is believed as it stands.

        What is known of a peer already is not displaced; the limits for all peers hold as for :meth:`add` and
        :meth:`tell`. Expired addresses are left out, and those that this version cannot parse, which a later one has
        written. A dial in the future counts as one of now. Takes about 30 us for an address.

        Raises:
            AddressBookError: not such an export, of a later version, or with more addresses than the limits allow.
                Nothing was added.
            TypeError: ``data`` is not bytes.
        """
        self._owner.check()
        if not isinstance(data, bytes):
            raise TypeError(f"expected bytes, got {type(data).__name__}")
        export = decode(data, self.config.max_given_addresses + self.config.max_told_addresses)
        if export.unknown:
            logger.info("address book: %d addresses of unknown protocols were left out", export.unknown)
        self.restore(export.addresses)
        for record in export.records:
            try:
                peer, _ = peek_record(record)
            except DecodeError:
                continue  # as one of identify that is none
            self.hold_record(peer, record)

    def restore(self, addresses: Iterable[NamedAddress]) -> None:
        """Adds what was kept, as :meth:`load` does."""
        now = self.clock()
        for each in addresses:
            if each.expires is not None and each.expires <= now:
                continue
            peer, address, source = each.key
            known = self._peers.get(peer)
            named = dict(known.named.get(source, {})) if known is not None else {}
            if address not in named:
                if len(named) >= self._room(source):
                    continue
                if source is not AddressSource.GIVEN and _told_address(peer, address) is None:
                    continue
                named[address] = each.expires
                self._put(peer, source, named, self._told_by(peer, source, each.told_by))
            self._peers[peer].restore(each, now)
        self._make_room()

    def named(self) -> Iterator[NamedAddress]:
        """All addresses, in the form in which files have them."""
        for peer, known in self._peers.items():
            for source, named in known.named.items():
                for address in named:
                    yield known.named_address(peer, address, source)

    def find(self, key: AddressKey) -> NamedAddress | None:
        """One of :meth:`named`."""
        peer, address, source = key
        known = self._peers.get(peer)
        if known is None or address not in known.named.get(source, {}):
            return None
        return known.named_address(peer, address, source)

    # -- details ---------------------------------------------------------------------------------

    def _put(self, peer: PeerId, source: AddressSource, named: Named, told_by: Networks) -> None:
        """Makes ``named`` what ``source`` names of ``peer``: nowhere else it changes."""
        known = self._peers.get(peer)
        if known is None:
            if not named:
                return
            known = self._peers[peer] = PeerAddresses()
        before = known.put(source, named, told_by)
        if source is AddressSource.GIVEN:
            self._given_count += len(named) - self._given.pop(peer, 0)
            if named:
                self._given[peer] = len(named)
        else:
            self._told.discard((peer, source))
            if named:
                self._told.add(told_by, (peer, source), len(named))
        if not known.named:
            del self._peers[peer]
        if self.address_added is not None and not named.keys() <= before.keys():
            self.address_added(peer)
        if self.changed is not None and named is not before:
            for address in before.keys() | named.keys():
                if address not in before or address not in named or before[address] != named[address]:
                    self.changed((peer, address, source), told_by)

    def _told_by(self, peer: PeerId, source: AddressSource, told_by: Networks = ()) -> Networks:
        """Who has told what ``source`` names of ``peer``; if nobody has, ``told_by``, or a share of the source's own."""
        known = self._peers.get(peer)
        return (known.told_by.get(source) if known is not None else None) or told_by or (source.value,)

    def _keep(self, peer: PeerId, wanted: Callable[[Multiaddr, float | None], bool]) -> None:
        """Forgets the addresses of ``peer`` that are not ``wanted``, from every source."""
        known = self._peers.get(peer)
        if known is None:
            return
        for source, named in list(known.named.items()):
            left = {address: expires for address, expires in named.items() if wanted(address, expires)}
            if len(left) < len(named):
                self._put(peer, source, left, self._told_by(peer, source))

    def _forget_expired(self, peer: PeerId) -> None:
        now = self.clock()
        self._keep(peer, lambda _, expires: expires is None or expires > now)

    def _room(self, source: AddressSource) -> int:
        """How many addresses of one peer a source may name."""
        if source is AddressSource.GIVEN:
            return min(MAX_GIVEN, self.config.max_given_addresses)
        return min(MAX_TOLD, self.config.max_told_addresses)

    def _make_room(self) -> None:
        while self._given_count > self.config.max_given_addresses:
            self._put(next(iter(self._given)), AddressSource.GIVEN, {}, ())
        while self._told.used > self.config.max_told_addresses:
            peer, source = next(self._told.largest())
            self._put(peer, source, {}, self._told_by(peer, source))


def _parse(address: Multiaddr | str, peer: PeerId | str | None) -> tuple[PeerId, Multiaddr]:
    address = Multiaddr.of(address)
    named = address.peer_id
    peer = PeerId.of(peer) if peer is not None else named
    if peer is None:
        raise InvalidAddress(address, "the peer id is missing: append /p2p/<peer id>, or pass the peer")
    if named is not None and named != peer:
        raise InvalidAddress(address, f"expected an address of {peer}, got one of {named}")
    return peer, address.without_peer()


def _told_address(peer: PeerId, address: Multiaddr) -> Multiaddr | None:
    """An address that a remote tells, without the peer id at its end; None for one that cannot be used."""
    if len(address.to_bytes()) > MAX_ADDRESS_SIZE or len(address.components) > MAX_COMPONENTS or is_path(address):
        return None
    if address.peer_id is None:
        return address
    return address.without_peer() if address.peer_id == peer and len(address.components) > 1 else None
