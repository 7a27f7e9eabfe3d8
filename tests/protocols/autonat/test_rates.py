"""How many requests a minute are admitted."""

from __future__ import annotations

from stronghold_p2p import Keypair
from stronghold_p2p.protocols.autonat.rates import Rates

PEERS = [Keypair.generate().peer_id for _ in range(10)]


def test_a_peer() -> None:
    rates = Rates(in_all=100, by_network=100, by_peer=2)
    assert [rates.admit("a", PEERS[0], 0.0) for _ in range(3)] == [True, True, False]
    assert rates.admit("a", PEERS[1], 0.0)


def test_a_network_of_many_peers() -> None:
    rates = Rates(in_all=100, by_network=3, by_peer=2)
    assert [rates.admit("a", peer, 0.0) for peer in PEERS[:4]] == [True, True, True, False]
    assert rates.admit("b", PEERS[0], 0.0)


def test_all() -> None:
    rates = Rates(in_all=3, by_network=2, by_peer=2)
    assert [rates.admit(str(number), peer, 0.0) for number, peer in enumerate(PEERS[:4])] == [True, True, True, False]


def test_networks_leave_room_for_another_one() -> None:
    rates = Rates(in_all=12, by_network=6, by_peer=6)
    admitted = [
        sum(rates.admit(network, peer, 0.0) for _ in range(12)) for network, peer in zip("abc", PEERS, strict=False)
    ]
    assert admitted == [6, 3, 2]
    assert rates.admit("d", PEERS[3], 0.0)
    assert not rates.admit("e", PEERS[4], 0.0)
    assert not rates.admit("a", PEERS[0], 5.0)
    assert rates.admit("e", PEERS[4], 5.0), "what comes back is for who has least"


def test_what_is_admitted_comes_back_in_a_minute() -> None:
    rates = Rates(in_all=4, by_network=2, by_peer=2)
    assert [rates.admit("a", PEERS[0], 0.0) for _ in range(3)] == [True, True, False]
    assert not rates.admit("a", PEERS[0], 29.0)
    assert [rates.admit("a", PEERS[0], 31.0) for _ in range(2)] == [True, False]


def test_one_that_is_refused_does_not_count() -> None:
    rates = Rates(in_all=10, by_network=10, by_peer=1)
    assert rates.admit("a", PEERS[0], 0.0)
    for now in range(1, 60):
        assert not rates.admit("a", PEERS[0], float(now))
    assert rates.admit("a", PEERS[0], 60.0)
    assert rates.admit("a", PEERS[1], 60.0)
