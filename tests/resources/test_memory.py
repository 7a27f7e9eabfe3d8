from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from stronghold_p2p import Keypair
from stronghold_p2p.resources.memory import Memory, MemoryShare

PEERS = [Keypair.generate().peer_id for _ in range(3)]
NET, OTHER = ("192.0.2.1/32",), ("2001:db8::/48", "2001:db8::/56")


class Stream:
    """One whose remote waits for window."""

    def __init__(self, share: MemoryShare) -> None:
        self.share = share
        self.credited = 0

    def credit(self) -> None:
        if not self.share.exhausted or self.share.may_credit(self):
            self.credited += 1

    def credit_withheld(self) -> None:
        self.credited += 1


def test_one_alone_may_hold_a_third() -> None:
    share = Memory(300).open(NET, PEERS[0])
    share.take(99)
    assert not share.exhausted
    share.take(1)
    assert (share.used, share.allowed, share.exhausted, share.overrun) == (100, 100, True, False)
    share.take(100)
    assert share.overrun
    share.give(101)
    assert (share.exhausted, share.overrun) == (False, False)


def test_a_newcomer_finds_room_whatever_others_hold() -> None:
    memory = Memory(3000)
    crowd = [memory.open(NET, peer) for peer in PEERS]
    for share in crowd:
        while not share.overrun:
            share.take(1)
    newcomer = memory.open(OTHER, PEERS[0])
    assert newcomer.allowed > 990
    newcomer.take(100)
    assert not newcomer.exhausted


def test_the_peers_of_a_network_share_what_it_has() -> None:
    memory = Memory(10_000)
    first, second = memory.open(NET, PEERS[0]), memory.open(NET, PEERS[1])
    while not first.exhausted:
        first.take(1)
    before = second.allowed
    while not second.exhausted:
        second.take(1)
    assert first.used == 3334
    assert before == 10_000 - 2 * 3334
    assert second.used < first.used / 2


def test_before_it_is_approved_its_share_is_small() -> None:
    share = Memory(16 * 1800).open(NET, PEERS[0])
    share.factor = 1 / 16
    share.take(1599)
    assert not share.exhausted
    share.take(1)
    assert (share.exhausted, share.overrun) == (True, False)
    share.take(1600)
    assert share.overrun


def test_one_stream_goes_on_and_then_the_next() -> None:
    share = Memory(300).open(NET, PEERS[0])
    share.take(100)
    streams = [Stream(share) for _ in range(3)]
    for stream in streams:
        stream.credit()
    assert [stream.credited for stream in streams] == [1, 0, 0]
    streams[0].credit()
    share.leave(streams[0])
    assert [stream.credited for stream in streams] == [2, 1, 0]
    share.leave(streams[2])
    share.leave(streams[1])
    assert [stream.credited for stream in streams] == [2, 1, 0]
    assert share.lead is None


def test_all_go_on_when_there_is_room_again() -> None:
    share = Memory(300).open(NET, PEERS[0])
    share.take(150)
    streams = [Stream(share) for _ in range(3)]
    for stream in streams:
        stream.credit()
    share.give(50)
    assert [stream.credited for stream in streams] == [1, 0, 0]
    share.give(1)
    assert [stream.credited for stream in streams] == [1, 1, 1]


def test_none_goes_on_in_an_overrun() -> None:
    share = Memory(300).open(NET, PEERS[0])
    share.take(200)
    stream = Stream(share)
    stream.credit()
    assert stream.credited == 0
    share.give(101)
    assert stream.credited == 1


def test_what_others_give_back_is_seen() -> None:
    memory = Memory(300)
    first, second = memory.open(NET, PEERS[0]), memory.open(NET, PEERS[1])
    first.take(90)
    second.take(60)
    assert second.exhausted
    first.give(90)
    assert not second.is_exhausted()
    second.take(60)
    streams = [Stream(second) for _ in range(2)]
    for stream in streams:
        stream.credit()
    assert [stream.credited for stream in streams] == [1, 0]
    second.factor = 3.0
    assert [stream.credited for stream in streams] == [1, 1]


def test_one_goes_on_when_an_overrun_ends() -> None:
    share = Memory(300).open(NET, PEERS[0])
    share.take(250)
    streams = [Stream(share) for _ in range(2)]
    for stream in streams:
        stream.credit()
    share.give(100)
    assert (share.exhausted, share.overrun) == (True, False)
    assert [stream.credited for stream in streams] == [1, 0]


def test_connections_of_a_peer_have_one_share() -> None:
    memory = Memory(300)
    first, second = memory.open(NET, PEERS[0]), memory.open(NET, PEERS[0])
    assert first is second
    memory.close(first)
    assert memory.open(NET, PEERS[0]) is second
    memory.close(first)
    memory.close(first)
    assert memory.open(NET, PEERS[0]) is not first


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([NET, OTHER]), st.integers(0, 500))))
def test_what_is_given_back_leaves_nothing(takes: Iterable[tuple[int, tuple[str, ...], int]]) -> None:
    memory = Memory(1000)
    taken = []
    for peer, networks, size in takes:
        share = memory.open(networks, PEERS[peer])
        share.take(size)
        taken.append((share, size))
    assert memory.used == sum(size for _, size in taken)
    for share, size in taken:
        share.give(size)
        memory.close(share)
    assert memory.used == 0
    assert not memory._shares
    assert not memory._holders
