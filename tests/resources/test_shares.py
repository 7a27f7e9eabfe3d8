from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stronghold_p2p.resources.shares import Path, Shares

CROWD, ALONE = ("crowd",), ("alone",)


def shares(**items: tuple[Path, int]) -> Shares[str]:
    made: Shares[str] = Shares()
    for item, (path, size) in items.items():
        made.add(path, item, size)
    return made


def order(of: Shares[str]) -> str:
    return "".join(of.next() for _ in range(len(of)))


def test_items_come_and_go() -> None:
    some = shares(a=(CROWD, 3), b=(ALONE, 4))
    assert (len(some), some.used, "a" in some) == (2, 7, True)
    assert some.discard("a")
    assert not some.discard("a")
    assert (len(some), some.used, "a" in some) == (1, 4, False)


def test_networks_take_turns_and_within_them_peers() -> None:
    some = shares(
        a=(("net", "mallory"), 1),
        b=(("net", "mallory"), 1),
        c=(("net", "mallory"), 1),
        d=(("net", "alice"), 1),
        e=(("other", "bob"), 1),
        f=(("other", "bob"), 1),
    )
    assert order(some) == "aedfbc"
    assert not some


def test_a_newcomer_does_not_wait_for_a_crowd() -> None:
    some: Shares[str] = Shares()
    for number in range(1000):
        some.add(("net", str(number)), str(number))
    some.next()
    some.add(("other", "alice"), "honest")
    assert "honest" in {some.next(), some.next()}


def test_the_largest_holder() -> None:
    some = shares(
        a=(("net", "mallory"), 5), b=(("net", "carol"), 2), c=(("net", "mallory"), 1), d=(("other", "bob"), 7)
    )
    assert list(some.largest()) == ["a", "c"]
    some.discard("a")
    assert list(some.largest()) == ["d"]
    assert list(Shares[str]().largest()) == []


def test_each_may_have_what_those_above_it_leave_free() -> None:
    some = shares(a=(("net", "mallory"), 30))
    assert some.free(("net", "mallory"), 100) == 100 - 3 * 30
    assert some.free(("net", "alice"), 100) == 100 - 2 * 30
    assert some.free(("other", "bob"), 100) == 100 - 30


paths = st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"))


@given(st.lists(st.tuples(paths, st.integers(1, 100))), st.randoms(use_true_random=False))
def test_whatever_comes_leaves_nothing(items: list[tuple[Path, int]], random: object) -> None:
    some: Shares[int] = Shares()
    for number, (path, size) in enumerate(items):
        some.add(path, number, size)
    assert some.used == sum(size for _, size in items)
    by_network: dict[object, int] = {}
    for path, size in items:
        by_network[path[0]] = by_network.get(path[0], 0) + size
    if items:
        largest = next(some.largest())
        assert by_network[items[largest][0][0]] == max(by_network.values())
    seen = {some.next() if number % 2 else next(some.largest()) for number in range(len(items)) if some}
    for number in range(len(items)):
        some.discard(number)
    assert (len(some), some.used) == (0, 0)
    assert seen <= set(range(len(items)))
    assert not some._root.within


def test_the_newest_go_first_where_some_were_given_up_and_nowhere_else() -> None:
    shares: Shares[str] = Shares()
    for number in range(9):
        shares.add(("net", "hasty"), f"hasty {number}")
        shares.add(("net", "patient"), f"patient {number}")
    assert shares.discard("hasty 0")
    shares.hurry(("net", "hasty"))
    shares.hurry(("net", "nobody"))
    served = [shares.next() for _ in range(17)]
    assert [item for item in served if item.startswith("hasty")] == [f"hasty {n}" for n in (8, 7, 6, 5, 1, 2, 3, 4)]
    assert [item for item in served if item.startswith("patient")] == [f"patient {n}" for n in range(9)]
    assert not shares
