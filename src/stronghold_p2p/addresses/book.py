"""The address book: known addresses of peers, their sources, and the results of dials."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Final, NamedTuple

from ..errors import InvalidAddress
from ..identity import PeerId
from ..loops import Owner
from ..multiaddr import Multiaddr
from .entry import AddressEntry, AddressSource

__all__ = ["AddressBook"]

MAX_GIVEN_ADDRESSES: Final = 64
"""Given addresses of one peer: a peer that restarts on random ports would accumulate them."""
MAX_TOLD_ADDRESSES: Final = 16
"""Addresses of one peer from each other source, so that no source displaces another, or delays a dial by minutes."""
MAX_TOLD_PEERS: Final = 4096
"""Peers with addresses from remotes; the least recently updated one is forgotten first. Such an address has up to 512
bytes, so a peer takes at most 8 KiB for each source."""


class AddressBook:
    """The known addresses of peers, each with an :class:`AddressEntry`.

    Addresses from our own code are kept until they are removed. Addresses from remotes are kept within limits, and never
    displace ours. The handshake authenticates the peer at an address, so a wrong address costs a failed dial only.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time, owner: Owner | None = None) -> None:
        """``clock`` gives the time in seconds since the epoch. ``owner`` restricts use to the event loop of its peer."""
        self.clock: Final = clock
        self._owner = owner or Owner()
        self._peers: dict[PeerId, _PeerAddresses] = {}
        self._told: OrderedDict[PeerId, None] = OrderedDict()
        """Peers with addresses from remotes, least recently updated first."""

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
        known = self._peers.get(peer)
        if known is None:
            return ()
        entries = known.entries(self.clock())
        self._forget_if_empty(peer)
        return entries

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
        peer, address = self._parse(address, peer)
        self._tell(peer, source).add(address, source, expires, self.clock())

    def remove(self, address: Multiaddr | str, peer: PeerId | str | None = None) -> None:
        """Removes an address, whatever its source. Ignores unknown ones.

        Raises:
            InvalidAddress: as for :meth:`add`.
        """
        self._owner.check()
        peer, address = self._parse(address, peer)
        known = self._peers.get(peer)
        if known is not None:
            known.remove(address)
            self._forget_if_empty(peer)

    def tell(
        self,
        peer: PeerId | str,
        source: AddressSource,
        addresses: Iterable[Multiaddr],
        *,
        expires: float | None = None,
        by: Multiaddr | None = None,
    ) -> None:
        """Replaces what ``source`` has told of ``peer`` by ``addresses``, of which the first 16 are taken.

        ``expires`` is in seconds since the epoch; None: never. ``by`` is the address of the remote that told it, if one
        did. Addresses that end in the id of another peer are left out, and those without anything but a peer id.

        Raises:
            InvalidAddress: ``peer`` is not a peer id.
        """
        self._owner.check()
        peer = PeerId.of(peer)
        known = self._tell(peer, source)
        known.replace(source, filter(None, (_address_of(peer, address) for address in addresses)), expires)
        self._forget_if_empty(peer)

    def succeeded(self, peer: PeerId, address: Multiaddr) -> None:
        """Records a successful dial. An unknown address was the target of a call, and is added as given."""
        known = self._peers.setdefault(peer, _PeerAddresses())
        now = self.clock()
        if not known.names(address):
            known.add(address, AddressSource.GIVEN, None, now)
        known.succeeded(address, now)

    def failed(self, peer: PeerId, address: Multiaddr) -> None:
        """Records a failed dial. Ignores unknown addresses."""
        known = self._peers.get(peer)
        if known is not None and known.names(address):
            known.failed(address, self.clock())

    def _tell(self, peer: PeerId, source: AddressSource) -> _PeerAddresses:
        """The addresses of ``peer``, to be changed by ``source``."""
        known = self._peers.setdefault(peer, _PeerAddresses())
        if source is not AddressSource.GIVEN:
            self._told[peer] = None
            self._told.move_to_end(peer)
            if len(self._told) > MAX_TOLD_PEERS:
                oldest, _ = self._told.popitem(last=False)
                self._peers[oldest].forget_told()
                self._forget_if_empty(oldest)
        return known

    def _forget_if_empty(self, peer: PeerId) -> None:
        if not self._peers[peer]:
            del self._peers[peer]
            self._told.pop(peer, None)

    @staticmethod
    def _parse(address: Multiaddr | str, peer: PeerId | str | None) -> tuple[PeerId, Multiaddr]:
        address = Multiaddr.of(address)
        named = address.peer_id
        peer = PeerId.of(peer) if peer is not None else named
        if peer is None:
            raise InvalidAddress(address, "the peer id is missing: append /p2p/<peer id>, or pass the peer")
        if named is not None and named != peer:
            raise InvalidAddress(address, f"expected an address of {peer}, got one of {named}")
        return peer, address.without_peer()


def _address_of(peer: PeerId, address: Multiaddr) -> Multiaddr | None:
    """``address`` without the peer id at its end; None if that is another one, or all there is."""
    if address.peer_id is None:
        return address
    return address.without_peer() if address.peer_id == peer and len(address.components) > 1 else None


class _Outcomes(NamedTuple):
    """Results of dials to an address; fields of :class:`AddressEntry`."""

    last_success: float | None = None
    last_failure: float | None = None
    failures: int = 0


class _PeerAddresses:
    """The addresses of one peer: sources, expiry and results of dials."""

    def __init__(self) -> None:
        self._named: dict[AddressSource, dict[Multiaddr, float | None]] = {}
        self._outcomes: dict[Multiaddr, _Outcomes] = {}
        """Only for addresses with a source."""

    def __bool__(self) -> bool:
        return bool(self._named)

    def names(self, address: Multiaddr) -> bool:
        return any(address in named for named in self._named.values())

    def entries(self, now: float) -> tuple[AddressEntry, ...]:
        self._forget_expired(now)
        entries: dict[Multiaddr, AddressEntry] = {}
        for source in AddressSource:
            for address, expires in self._named.get(source, {}).items():
                known = entries.get(address)
                if known is None:
                    outcomes = self._outcomes.get(address, _Outcomes())
                    entries[address] = AddressEntry(address, source, expires, *outcomes)
                elif known.expires is not None and (expires is None or expires > known.expires):
                    entries[address] = replace(known, expires=expires)
        return tuple(entries.values())

    def add(self, address: Multiaddr, source: AddressSource, expires: float | None, now: float) -> None:
        self._forget_expired(now)
        named = self._named.setdefault(source, {})
        named[address] = expires
        if len(named) > (MAX_GIVEN_ADDRESSES if source is AddressSource.GIVEN else MAX_TOLD_ADDRESSES):
            del named[min(list(named)[:-1], key=self._last_success)]
            self._forget_unnamed()

    def replace(self, source: AddressSource, addresses: Iterable[Multiaddr], expires: float | None) -> None:
        self._named[source] = dict.fromkeys(list(dict.fromkeys(addresses))[:MAX_TOLD_ADDRESSES], expires)
        self._forget_unnamed()

    def remove(self, address: Multiaddr) -> None:
        for named in self._named.values():
            named.pop(address, None)
        self._forget_unnamed()

    def forget_told(self) -> None:
        for source in AddressSource:
            if source is not AddressSource.GIVEN:
                self._named.pop(source, None)
        self._forget_unnamed()

    def succeeded(self, address: Multiaddr, now: float) -> None:
        self._outcomes[address] = _Outcomes(last_success=now)

    def failed(self, address: Multiaddr, now: float) -> None:
        before = self._outcomes.get(address, _Outcomes())
        self._outcomes[address] = _Outcomes(before.last_success, now, before.failures + 1)

    def _last_success(self, address: Multiaddr) -> float:
        return self._outcomes.get(address, _Outcomes()).last_success or 0.0

    def _forget_expired(self, now: float) -> None:
        for named in self._named.values():
            for address in [one for one, expires in named.items() if expires is not None and expires <= now]:
                del named[address]
        self._forget_unnamed()

    def _forget_unnamed(self) -> None:
        """Forgets empty sources, and results for addresses without a source."""
        self._named = {source: named for source, named in self._named.items() if named}
        self._outcomes = {address: outcomes for address, outcomes in self._outcomes.items() if self.names(address)}
