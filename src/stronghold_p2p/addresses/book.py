"""Where peers can be dialed: who named which address, and how dials to it went."""

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
"""Given addresses of one peer. A peer that restarts on ever new ports leaves one behind each time."""
MAX_TOLD_ADDRESSES: Final = 16
"""Addresses of one peer from each other source: no source crowds out another one, nor makes a dial last for minutes."""
MAX_TOLD_PEERS: Final = 4096
"""Peers with addresses from others than our own code; the one heard of longest ago is forgotten first. A told address
has up to 512 bytes: at the worst, a peer takes 8 KiB for each source."""


class AddressBook:
    """The known addresses of peers, each with an :class:`AddressEntry`.

    Given ones are kept until they are removed. Ones that remotes tell are kept within limits, never in place of given
    ones. Whoever answers at an address must prove to be the peer: a wrong one costs a dial, no more.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time, owner: Owner | None = None) -> None:
        """``clock`` tells the time, in seconds since the epoch; ``owner`` has the event loop of the peer whose book it is,
        on which alone it is used."""
        self.clock: Final = clock
        self._owner = owner or Owner()
        self._peers: dict[PeerId, _PeerAddresses] = {}
        self._told: OrderedDict[PeerId, None] = OrderedDict()
        """The peers of MAX_TOLD_PEERS, the one heard of longest ago first."""

    def __iter__(self) -> Iterator[PeerId]:
        """The peers with a known address."""
        self._owner.check()
        return iter([peer for peer in list(self._peers) if peer in self])

    def __contains__(self, peer: object) -> bool:
        return isinstance(peer, PeerId) and bool(self.get(peer))

    def get(self, peer: PeerId | str) -> tuple[Multiaddr, ...]:
        """The addresses of ``peer``, without its peer id: by source, then in the order of naming. A dial prefers the known
        good ones."""
        return tuple(entry.address for entry in self.entries(peer))

    def entries(self, peer: PeerId | str) -> tuple[AddressEntry, ...]:
        """The same, each with what is known of it."""
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
        """Adds an address of ``peer``, which may also stand in the address itself (``/p2p/...``), until ``expires``
        (seconds since the epoch; None: without end).

        A peer has at most 64 given addresses, and 16 of each other source: one more displaces the one with the oldest
        success, or with none.

        Raises:
            InvalidAddress: malformed, no peer is named, or two different ones are.
            TypeError: ``address`` or ``peer`` is of another type.
        """
        self._owner.check()
        peer, address = self._parse(address, peer)
        self._tell(peer, source).add(address, source, expires, self.clock())

    def remove(self, address: Multiaddr | str, peer: PeerId | str | None = None) -> None:
        """Removes an address again, whoever named it. Unknown ones are ignored.

        Raises:
            InvalidAddress: as for :meth:`add`.
        """
        self._owner.check()
        peer, address = self._parse(address, peer)
        known = self._peers.get(peer)
        if known is not None:
            known.remove(address)
            self._forget_if_empty(peer)

    def learn(self, peer: PeerId, addresses: Iterable[Multiaddr]) -> None:
        """Takes the word of the peer itself, by identify, in place of what it said before."""
        known = self._tell(peer, AddressSource.IDENTIFY)
        known.replace(AddressSource.IDENTIFY, (address.without_peer() for address in addresses))
        self._forget_if_empty(peer)

    def succeeded(self, peer: PeerId, address: Multiaddr) -> None:
        """A dial to ``address`` has led to ``peer``. One that nobody has named before was the target of a call: it is
        kept as given."""
        known = self._peers.setdefault(peer, _PeerAddresses())
        now = self.clock()
        if not known.names(address):
            known.add(address, AddressSource.GIVEN, None, now)
        known.succeeded(address, now)

    def failed(self, peer: PeerId, address: Multiaddr) -> None:
        """A dial to ``address`` has not led to ``peer``. Unknown ones are ignored."""
        known = self._peers.get(peer)
        if known is not None and known.names(address):
            known.failed(address, self.clock())

    def _tell(self, peer: PeerId, source: AddressSource) -> _PeerAddresses:
        """The addresses of ``peer``, for ``source`` to name some."""
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


class _Outcomes(NamedTuple):
    """How dials to an address went; the fields of an :class:`AddressEntry`."""

    last_success: float | None = None
    last_failure: float | None = None
    failures: int = 0


class _PeerAddresses:
    """One peer's: who names which address until when, and how dials to each went."""

    def __init__(self) -> None:
        self._named: dict[AddressSource, dict[Multiaddr, float | None]] = {}
        self._outcomes: dict[Multiaddr, _Outcomes] = {}
        """Of addresses that somebody names; others are forgotten."""

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

    def replace(self, source: AddressSource, addresses: Iterable[Multiaddr]) -> None:
        self._named[source] = dict.fromkeys(list(dict.fromkeys(addresses))[:MAX_TOLD_ADDRESSES])
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
        """Forgets sources that name nothing any more, and how dials to addresses went that nobody names."""
        self._named = {source: named for source, named in self._named.items() if named}
        self._outcomes = {address: outcomes for address, outcomes in self._outcomes.items() if self.names(address)}
