"""What follows from what servers have found out."""

from __future__ import annotations

import pytest

from stronghold_p2p import Keypair, Reachability
from stronghold_p2p.protocols.autonat.results import LIFETIME, Outcome, Results

SERVER = Keypair.generate().peer_id
YES, NO, REFUSED, BUSY = Outcome.REACHED, Outcome.NOT_REACHED, Outcome.REFUSED, Outcome.BUSY


def results(*outcomes: Outcome, chosen: bool = True) -> Results:
    """Of so many networks, ``0``, ``1`` and so on."""
    made = Results()
    for number, outcome in enumerate(outcomes):
        made.add(str(number), SERVER, outcome, chosen=chosen, now=0.0)
    return made


@pytest.mark.parametrize(
    ("outcomes", "state"),
    [
        ((), Reachability.UNKNOWN),
        ((YES,), Reachability.REACHABLE),
        ((YES, NO), Reachability.UNKNOWN),
        ((YES, NO, NO), Reachability.UNKNOWN),
        ((YES, NO, NO, NO), Reachability.UNREACHABLE),
        ((YES, YES, NO), Reachability.REACHABLE),
        ((NO,), Reachability.UNKNOWN),
        ((NO, NO), Reachability.UNREACHABLE),
        ((REFUSED, BUSY), Reachability.UNKNOWN),
    ],
)
def test_while_there_are_others_to_ask(outcomes: tuple[Outcome, ...], state: Reachability) -> None:
    assert results(*outcomes).state({"0", "another"}) is state


def test_one_server_decides_if_there_is_no_other() -> None:
    assert results(NO).state({"0"}) is Reachability.UNREACHABLE
    assert results(NO).state(()) is Reachability.UNREACHABLE
    assert results(NO, REFUSED).state({"0", "1"}) is Reachability.UNREACHABLE


def test_a_stranger_proves_but_does_not_claim() -> None:
    assert results(NO, NO, NO, chosen=False).state({"0"}) is Reachability.UNKNOWN
    assert results(YES, chosen=False).state({"0"}) is Reachability.REACHABLE


def test_the_last_word_of_a_network_counts() -> None:
    made = results(NO, NO)
    made.add("0", SERVER, YES, chosen=True, now=1.0)
    made.add("1", SERVER, YES, chosen=True, now=1.0)
    assert made.state({"0", "1"}) is Reachability.REACHABLE
    assert len(made) == 2


def test_what_is_old_counts_no_more() -> None:
    made = results(YES)
    made.forget_old(LIFETIME - 1)
    assert made.reached
    made.forget_old(LIFETIME)
    assert not made.reached
    assert made.state({"0"}) is Reachability.UNKNOWN


def test_three_networks_are_asked_and_then_again_after_a_pause() -> None:
    made = Results()
    for number in range(3):
        assert made.due(str(number), float(number)) == number
        made.add(str(number), SERVER, YES, chosen=True, now=float(number))
        assert made.due(str(number), 5.0) == number + 3600.0
    assert made.due("another", 5.0) == 3600.0  # in place of the first
    assert made.due("another", 4000.0) == 4000.0


def test_failures_are_looked_at_again_sooner_and_then_less_and_less() -> None:
    made = Results()
    now, pauses = 0.0, []
    for _ in range(6):
        made.add("0", SERVER, NO, chosen=True, now=now)
        pauses.append(made.due("0", now) - now)
        now = made.due("0", now)
    assert pauses == [300.0, 600.0, 1200.0, 2400.0, 3600.0, 3600.0]
    made.add("0", SERVER, YES, chosen=True, now=now)
    made.add("0", SERVER, NO, chosen=True, now=now)
    assert made.due("0", now) - now == 300.0


def test_those_that_do_not_say_keep_no_other_from_being_asked() -> None:
    assert results(REFUSED, BUSY, REFUSED, BUSY).due("another", 1.0) == 1.0
    assert results(NO, NO, NO, chosen=False).due("another", 1.0) == 1.0
