"""Which relays lead to which peers."""

from __future__ import annotations

from collections.abc import Callable

from ..identity import PeerId
from ..multiaddr import CIRCUIT, Multiaddr

__all__ = ["DialingRelays"]


class DialingRelays:
    """The relays that are tried for a peer beside its own addresses; with the meaning of the Rust crate's methods.

    ``addresses_of`` gives the known addresses of a relay.
    """

    def __init__(self, addresses_of: Callable[[PeerId], tuple[Multiaddr, ...]]) -> None:
        self._addresses_of = addresses_of
        self._relays: dict[PeerId, None] = {}
        self._without: set[PeerId] = set()
        """The peers for which none is tried."""
        self._specific: dict[PeerId, tuple[PeerId, bool]] = {}
        """The relay to try first for a peer, and whether it is the only one."""

    def add(self, relay: PeerId) -> None:
        """Tries ``relay`` for every peer."""
        self._relays[relay] = None

    def remove(self, relay: PeerId) -> None:
        """Tries ``relay`` no longer, for any peer. Ignores unknown ones."""
        self._relays.pop(relay, None)
        self._specific = {peer: choice for peer, choice in self._specific.items() if choice[0] != relay}

    def set_fallback(self, peer: PeerId, use: bool) -> None:
        """Whether relays are tried for ``peer``; they are, unless this says otherwise."""
        (self._without.discard if use else self._without.add)(peer)

    def use_specific(self, peer: PeerId, relay: PeerId, *, exclusive: bool) -> None:
        """Tries ``relay`` first for ``peer``; ``exclusive``: and no other one."""
        self._specific[peer] = relay, exclusive
        self._without.discard(peer)

    def addresses(self, peer: PeerId, known: tuple[Multiaddr, ...]) -> tuple[Multiaddr, ...]:
        """Those of the ``known`` addresses of ``peer`` to dial, and its :meth:`circuits`."""
        relay, exclusive = self._specific.get(peer, (None, False))
        if exclusive:
            known = tuple(one for one in known if not one.is_relayed or one.relay == relay)
        return tuple(dict.fromkeys((*known, *self.circuits(peer))))

    def circuits(self, peer: PeerId) -> tuple[Multiaddr, ...]:
        """The addresses of ``peer`` through relays, without its peer id, in the order of trying."""
        if peer in self._without:
            return ()
        relays = self._relays
        choice = self._specific.get(peer)
        if choice is not None:
            relay, exclusive = choice
            relays = {relay: None} if exclusive else {relay: None, **relays}
        return tuple(
            address.encapsulate(CIRCUIT) for relay in relays if relay != peer for address in self._addresses(relay)
        )

    def _addresses(self, relay: PeerId) -> list[Multiaddr]:
        """Those of ``relay``, with its peer id; that alone if none is known, since it may be connected."""
        known = [address.with_peer(relay) for address in self._addresses_of(relay)]
        return known or [Multiaddr.parse(f"/p2p/{relay}")]
