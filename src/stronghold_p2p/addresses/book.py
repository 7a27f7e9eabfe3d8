"""Where peers can be dialled."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Final

from ..errors import InvalidAddress
from ..identity import PeerId
from ..multiaddr import Multiaddr

__all__ = ["AddressBook"]

MAX_LEARNED_PEERS: Final = 4096
"""Peers whose own word on their addresses is kept; the one heard of longest ago is forgotten first."""
MAX_LEARNED_ADDRESSES: Final = 16
"""Addresses taken from one peer's own word."""


class AddressBook:
    """The known addresses of peers, in the order in which they are tried.

    Added ones come first, in the order of adding; then those that the peer itself told by identify. Those are kept
    apart and within limits, since a remote fills them. Whoever answers at an address must prove to be the peer.
    """

    def __init__(self) -> None:
        self._added: dict[PeerId, list[Multiaddr]] = {}
        self._learned: OrderedDict[PeerId, tuple[Multiaddr, ...]] = OrderedDict()

    def __iter__(self) -> Iterator[PeerId]:
        """The peers with a known address."""
        return iter({**self._added, **self._learned})

    def __contains__(self, peer: object) -> bool:
        return peer in self._added or peer in self._learned

    def get(self, peer: PeerId | str) -> tuple[Multiaddr, ...]:
        """The addresses of ``peer``, without its peer id, in the order of trying."""
        peer = PeerId.of(peer)
        return tuple(dict.fromkeys((*self._added.get(peer, ()), *self._learned.get(peer, ()))))

    def add(self, address: Multiaddr | str, peer: PeerId | str | None = None) -> None:
        """Adds an address of ``peer``, which may also stand in the address itself (``/p2p/...``).

        Raises:
            InvalidAddress: malformed, no peer is named, or two different ones are.
        """
        peer, address = self._parse(address, peer)
        addresses = self._added.setdefault(peer, [])
        if address not in addresses:
            addresses.append(address)

    def remove(self, address: Multiaddr | str, peer: PeerId | str | None = None) -> None:
        """Removes an address again, also one that the peer itself told. Unknown ones are ignored.

        Raises:
            InvalidAddress: as for :meth:`add`.
        """
        peer, address = self._parse(address, peer)
        if address in self._added.get(peer, ()):
            self._added[peer].remove(address)
            if not self._added[peer]:
                del self._added[peer]
        if peer in self._learned:
            self.learn(peer, (known for known in self._learned[peer] if known != address))

    def learn(self, peer: PeerId, addresses: Iterable[Multiaddr]) -> None:
        """Takes the peer's own word, in place of what it said before."""
        self._learned.pop(peer, None)
        kept = tuple(dict.fromkeys(address.without_peer() for address in addresses))[:MAX_LEARNED_ADDRESSES]
        if kept:
            self._learned[peer] = kept
            if len(self._learned) > MAX_LEARNED_PEERS:
                self._learned.popitem(last=False)

    @staticmethod
    def _parse(address: Multiaddr | str, peer: PeerId | str | None) -> tuple[PeerId, Multiaddr]:
        if isinstance(address, str):
            address = Multiaddr.parse(address)
        named = address.peer_id
        peer = PeerId.of(peer) if peer is not None else named
        if peer is None:
            raise InvalidAddress(address, "no peer is named: end it with /p2p/<peer id>, or give the peer")
        if named is not None and named != peer:
            raise InvalidAddress(address, f"it is an address of {named}, not of {peer}")
        return peer, address.without_peer()
