"""Limits by type and of sizes."""

from __future__ import annotations

from stronghold_p2p import Keypair
from stronghold_p2p.firewall.quotas import NO_LIMIT, Limit, Place, Quotas
from stronghold_p2p.identity import PeerId
from stronghold_p2p.reset_codes import Reason
from stronghold_p2p.resources.rates import MAX_REMEMBERED

ALICE, BOB = Keypair.generate().peer_id, Keypair.generate().peer_id


def quotas(limit: Limit, alice: Limit = NO_LIMIT) -> Quotas:
    """With a limit of Sign, and of ALICE."""
    made = Quotas()
    made.set_limits({"Sign": limit}, {ALICE: alice})
    return made


def entered(place: Place | None) -> Place:
    assert place is not None
    return place


def test_without_limits_it_is_not_to_be_asked() -> None:
    made = Quotas()
    active = [made.active]
    for types, peers in ({}, {ALICE: Limit(max_bytes=1)}), ({"Sign": Limit(in_flight=1)}, {}), ({}, {}):
        made.set_limits(types, peers)
        active.append(made.active)
    assert active == [False, True, True, False]


def test_a_rate_by_type_and_peer() -> None:
    made = quotas(Limit(per_second=2.0))
    assert [made.enter(ALICE, "Sign", 1, 0.0) is not None for _ in range(3)] == [True, True, False]
    assert made.enter(BOB, "Sign", 1, 0.0)
    assert made.enter(ALICE, "Ping", 1, 0.0)
    assert made.enter(ALICE, None, 1, 0.0)
    assert made.enter(ALICE, "Sign", 1, 0.5)
    assert not made.enter(ALICE, "Sign", 1, 0.5)


def test_a_rate_below_one_a_second() -> None:
    made = quotas(Limit(per_second=0.1))
    assert [made.enter(ALICE, "Sign", 1, float(now)) is not None for now in (0, 9, 10, 11)] == [
        True,
        False,
        True,
        False,
    ]


def test_how_many_are_in_flight() -> None:
    made = quotas(Limit(in_flight=2))
    first = entered(made.enter(ALICE, "Sign", 1, 0.0))
    second = entered(made.enter(ALICE, "Sign", 1, 0.0))
    assert made.enter(ALICE, "Sign", 1, 0.0) is None
    assert made.enter(BOB, "Sign", 1, 0.0)
    first.leave()
    third = entered(made.enter(ALICE, "Sign", 1, 0.0))
    assert made.enter(ALICE, "Sign", 1, 0.0) is None
    second.leave()
    third.leave()
    assert [made.enter(ALICE, "Sign", 1, 0.0) is not None for _ in range(3)] == [True, True, False]


def test_what_is_refused_takes_nothing_of_the_rate() -> None:
    made = quotas(Limit(per_second=1.0, in_flight=1, max_bytes=10))
    assert made.enter(ALICE, "Sign", 11, 0.0) is None
    place = entered(made.enter(ALICE, "Sign", 10, 0.0))
    assert made.enter(ALICE, "Sign", 10, 5.0) is None
    place.leave()
    assert made.enter(ALICE, "Sign", 10, 5.0)


def test_sizes_by_type_and_by_peer() -> None:
    made = quotas(Limit(max_bytes=10), alice=Limit(max_bytes=20, in_flight=1, per_second=1.0))
    assert made.enter(ALICE, "Sign", 10, 0.0)
    assert not made.enter(ALICE, "Sign", 11, 0.0)
    assert made.enter(ALICE, "Ping", 20, 0.0)
    assert not made.enter(ALICE, "Ping", 21, 0.0)
    assert not made.enter(ALICE, None, 21, 0.0)
    assert made.enter(BOB, "Ping", 21, 0.0)


def test_why_something_is_over_a_limit() -> None:
    made = quotas(Limit(per_second=0.25, in_flight=1, max_bytes=10), alice=Limit(max_bytes=20))
    assert made.excess(ALICE, "Sign", 10, 0.0) is None
    place = entered(made.enter(ALICE, "Sign", 10, 0.0))
    assert made.excess(ALICE, "Sign", 11, 0.0) == (Reason.REJECTED, None)
    assert made.excess(ALICE, "Ping", 21, 0.0) == (Reason.REJECTED, None)
    assert made.excess(ALICE, "Sign", 10, 0.0) == (Reason.BUSY, None)
    place.leave()
    assert made.excess(ALICE, "Sign", 10, 0.0) == (Reason.RATE, 4.0)
    assert made.excess(ALICE, "Sign", 10, 4.0) is None


def test_a_new_policy_with_the_same_limit_forgets_nothing() -> None:
    made = quotas(Limit(in_flight=1))
    place = entered(made.enter(ALICE, "Sign", 1, 0.0))
    made.set_limits({"Sign": Limit(in_flight=1)}, {})
    assert made.enter(ALICE, "Sign", 1, 0.0) is None
    place.leave()
    assert made.enter(ALICE, "Sign", 1, 0.0)


def test_what_entered_under_other_limits_leaves_those() -> None:
    made = quotas(Limit(in_flight=1))
    old = entered(made.enter(ALICE, "Sign", 1, 0.0))
    made.set_limits({"Sign": Limit(in_flight=2)}, {})
    assert made.enter(ALICE, "Sign", 1, 0.0)
    old.leave()
    assert made.enter(ALICE, "Sign", 1, 0.0)
    assert made.enter(ALICE, "Sign", 1, 0.0) is None
    free = entered(made.enter(ALICE, "Ping", 1, 0.0))
    made.set_limits({"Ping": Limit(in_flight=1)}, {})
    free.leave()
    assert [made.enter(ALICE, "Ping", 1, 0.0) is not None for _ in range(2)] == [True, False]


def test_any_number_of_peers_take_a_bounded_room() -> None:
    made = quotas(Limit(per_second=0.001))
    for number in range(MAX_REMEMBERED + 1):
        assert made.enter(PeerId(b"\x00\x04" + number.to_bytes(4)), "Sign", 1, 0.0)
    assert made.enter(PeerId(b"\x00\x04" + (0).to_bytes(4)), "Sign", 1, 0.0)  # it was forgotten
    assert not made.enter(PeerId(b"\x00\x04" + (2).to_bytes(4)), "Sign", 1, 0.0)
