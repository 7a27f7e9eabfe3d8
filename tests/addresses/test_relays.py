"""Which relays are tried for a peer."""

from __future__ import annotations

import pytest

from stronghold_p2p import Keypair, Multiaddr, PeerId
from stronghold_p2p.addresses.relays import DialingRelays

ONE, TWO, PEER, OTHER = (Keypair.generate().peer_id for _ in range(4))
KNOWN = {ONE: ("/ip4/192.0.2.1/tcp/1", "/ip6/2001:db8::1/tcp/1"), TWO: ("/ip4/192.0.2.2/tcp/2",)}


@pytest.fixture
def relays() -> DialingRelays:
    made = DialingRelays(lambda relay: tuple(map(Multiaddr.parse, KNOWN.get(relay, ()))))
    made.add(ONE)
    made.add(TWO)
    return made


def through(relays: DialingRelays, peer: PeerId = PEER) -> list[PeerId]:
    """The relays of the circuits to ``peer``, each once."""
    found = [address.decapsulate(Multiaddr.parse("/p2p-circuit")).peer_id for address in relays.circuits(peer)]
    return [relay for relay in dict.fromkeys(found) if relay is not None]


def test_known_circuits_are_dialed_but_for_those_of_other_relays_than_the_only_one(relays: DialingRelays) -> None:
    direct = Multiaddr.parse("/ip4/192.0.2.9/tcp/9")
    known = [Multiaddr.parse(f"/ip4/192.0.2.9/tcp/9/p2p/{relay}/p2p-circuit") for relay in (ONE, OTHER)]
    nonsense = Multiaddr.parse(f"/ip4/192.0.2.9/tcp/9/p2p/{ONE}/p2p-circuit/tcp/1")
    assert relays.addresses(PEER, (direct, *known)) == (direct, *known, *relays.circuits(PEER))
    relays.use_specific(PEER, ONE, exclusive=True)
    assert relays.addresses(PEER, (direct, nonsense, *known)) == (direct, known[0], *relays.circuits(PEER))


def test_every_address_of_every_relay(relays: DialingRelays) -> None:
    expected = [f"{address}/p2p/{relay}/p2p-circuit" for relay, addresses in KNOWN.items() for address in addresses]
    assert list(map(str, relays.circuits(PEER))) == expected


def test_none_is_the_way_to_itself(relays: DialingRelays) -> None:
    assert through(relays, ONE) == [TWO]


def test_removed(relays: DialingRelays) -> None:
    relays.use_specific(PEER, ONE, exclusive=True)
    relays.remove(ONE)
    relays.remove(ONE)
    assert through(relays) == [TWO]


def test_no_fallback_for_one_peer(relays: DialingRelays) -> None:
    relays.set_fallback(PEER, False)
    assert through(relays) == []
    assert through(relays, OTHER) == [ONE, TWO]
    relays.set_fallback(PEER, True)
    assert through(relays) == [ONE, TWO]


def test_a_specific_relay(relays: DialingRelays) -> None:
    relays.set_fallback(PEER, False)
    relays.use_specific(PEER, TWO, exclusive=False)
    assert through(relays) == [TWO, ONE]
    relays.use_specific(PEER, TWO, exclusive=True)
    assert through(relays) == [TWO]
    assert through(relays, OTHER) == [ONE, TWO]


def test_a_relay_without_a_known_address_may_be_connected(relays: DialingRelays) -> None:
    relays.use_specific(PEER, OTHER, exclusive=True)
    assert list(map(str, relays.circuits(PEER))) == [f"/p2p/{OTHER}/p2p-circuit"]
