"""Who may look up names, and when: each look-up blocks a thread, and nothing can stop it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from functools import partial

import pytest
from support.waiting import settled, until

from stronghold_p2p import Keypair, PeerId
from stronghold_p2p.transport.lookups import (
    MAX_LOOKUPS,
    MAX_LOOKUPS_PER_HOLDER,
    MAX_TOLD_LOOKUPS,
    Holder,
    Lookups,
    in_thread,
)

PEERS = [Keypair.generate().peer_id for _ in range(MAX_LOOKUPS // MAX_LOOKUPS_PER_HOLDER + 2)]
ALICE, BOB, CAROL = PEERS[:3]


class Names:
    """Look-ups that last until the test ends them."""

    def __init__(self) -> None:
        self.lookups = Lookups()
        self.begun: list[str] = []
        self.calls: list[asyncio.Task[str]] = []
        self._ends: dict[str, threading.Event] = {}

    def call(self, name: str, peer: PeerId, *, told: bool = False) -> asyncio.Task[str]:
        self._ends[name] = threading.Event()
        call = asyncio.create_task(self.lookups.run(Holder(peer, told), partial(self._look_up, name)))
        self.calls.append(call)
        return call

    def end(self, name: str) -> None:
        self._ends[name].set()

    def end_all(self) -> None:
        for end in self._ends.values():
            end.set()

    async def fill(self, count: int, peers: list[PeerId], *, told: bool) -> None:
        """Has ``count`` look-ups run, of as many of ``peers`` as it takes."""
        before = len(self.begun)
        for number in range(count):
            self.call(f"{before + number}", peers[number // MAX_LOOKUPS_PER_HOLDER], told=told)
        await until(lambda: len(self.begun) == before + count)

    def _look_up(self, name: str) -> str:
        self.begun.append(name)
        self._ends[name].wait()
        return name.upper()


@pytest.fixture
async def names() -> AsyncIterator[Names]:
    names = Names()
    yield names
    names.end_all()
    await asyncio.gather(*names.calls, return_exceptions=True)
    await until(lambda: not names.lookups._running)
    assert not names.lookups._waiting


async def test_a_result(names: Names) -> None:
    call = names.call("a", ALICE)
    names.end("a")
    assert await call == "A"


async def test_an_error(names: Names) -> None:
    def fail() -> None:
        raise LookupError("a mistake")

    for _ in range(2 * MAX_LOOKUPS_PER_HOLDER):  # none keeps its place
        with pytest.raises(LookupError):
            await names.lookups.run(Holder(ALICE, False), fail)


async def test_the_names_of_one_peer_do_not_hold_up_those_of_others(names: Names) -> None:
    for number in range(MAX_LOOKUPS_PER_HOLDER + 1):
        names.call(f"slow{number}", ALICE, told=True)
    await until(lambda: len(names.begun) == MAX_LOOKUPS_PER_HOLDER)
    for holder in ({"peer": BOB, "told": True}, {"peer": ALICE, "told": False}):
        quick = names.call("quick", **holder)  # type: ignore[arg-type]
        names.end("quick")
        assert await quick == "QUICK"
    assert f"slow{MAX_LOOKUPS_PER_HOLDER}" not in names.begun
    names.end("slow1")
    await until(lambda: f"slow{MAX_LOOKUPS_PER_HOLDER}" in names.begun)


async def test_names_that_remotes_told_do_not_hold_up_those_that_were_given(names: Names) -> None:
    await names.fill(MAX_TOLD_LOOKUPS, PEERS, told=True)
    waiting = names.call("told", PEERS[-1], told=True)
    given = names.call("given", PEERS[-1])
    names.end("given")
    assert await given == "GIVEN"
    assert "told" not in names.begun
    assert not waiting.done()


async def test_who_waits_is_served_by_turns(names: Names) -> None:
    await names.fill(MAX_LOOKUPS, PEERS[2:], told=False)
    for peer, name in [(ALICE, "a1"), (ALICE, "a2"), (ALICE, "a3"), (BOB, "b1")]:
        names.call(name, peer)
        await settled()
    for number in range(4):
        names.end(str(number))
        await until(lambda: len(names.begun) == MAX_LOOKUPS + number + 1)  # noqa: B023 - at once
    assert names.begun[MAX_LOOKUPS:] == ["a1", "b1", "a2", "a3"]


async def test_a_look_up_holds_its_place_until_it_ends_though_nobody_waits(names: Names) -> None:
    await names.fill(MAX_LOOKUPS_PER_HOLDER, [ALICE], told=False)
    names.calls[0].cancel()
    waiting = names.call("next", ALICE)
    await settled()
    assert names.calls[0].cancelled()
    assert "next" not in names.begun
    names.end("0")
    names.end("next")
    assert await waiting == "NEXT"


async def test_who_leaves_while_it_waits_takes_no_place(names: Names) -> None:
    await names.fill(MAX_LOOKUPS_PER_HOLDER, [ALICE], told=False)
    leaving, staying = names.call("leaving", ALICE), names.call("staying", ALICE)
    await settled()
    leaving.cancel()
    names.end("0")
    names.end("staying")
    assert await staying == "STAYING"
    assert "leaving" not in names.begun


@pytest.mark.parametrize("before", [True, False])
async def test_who_leaves_in_the_turn_in_which_its_own_comes_passes_it_on(names: Names, before: bool) -> None:
    await names.fill(MAX_LOOKUPS_PER_HOLDER, [ALICE], told=False)
    leaving, staying = names.call("leaving", ALICE), names.call("staying", ALICE)
    await settled()
    if before:
        leaving.cancel()
    names.lookups._leave(Holder(ALICE, False))  # as when a look-up has ended
    if not before:
        leaving.cancel()
    names.end("staying")
    assert await staying == "STAYING"
    assert "leaving" not in names.begun
    names.lookups._take(Holder(ALICE, False))  # it has not ended yet


async def test_nobody_hears_of_a_look_up_that_fails_when_nobody_waits(names: Names) -> None:
    end = threading.Event()

    def fail() -> None:
        end.wait()
        raise OSError("unknown")

    call = asyncio.create_task(names.lookups.run(Holder(ALICE, False), fail))
    await settled()
    call.cancel()
    await asyncio.wait([call])
    end.set()  # the loop has nothing to complain of


async def test_work_in_a_thread_that_nobody_waits_for() -> None:
    begun, end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        end.wait()
        ended.set()

    done = in_thread(work)
    await until(begun.is_set)
    done.cancel()
    end.set()
    await until(ended.is_set)


def test_work_that_outlasts_its_loop_is_dropped() -> None:
    begun, end = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def work() -> None:
        threads.append(threading.current_thread())
        begun.set()
        end.wait()

    async def leave() -> None:
        in_thread(work)
        await in_thread(begun.wait)

    asyncio.run(leave())
    end.set()
    threads[0].join()  # an error in it would be a warning, and so an error here
    assert threads[0].daemon
