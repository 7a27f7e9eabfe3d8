from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest
from support.waiting import until

from stronghold_p2p.resources import turns
from stronghold_p2p.resources.turns import Turns


class Time:
    """Stands still unless work takes some."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(turns, "clock", time)
    return time


def is_over(turns: Turns) -> bool:
    return turns.over


def is_crowded(turns: Turns) -> bool:
    return turns.crowded


def worker(time: Time, done: list[str], name: str) -> Callable[[], None]:
    def work() -> None:
        time.now += 0.003
        done.append(name)

    return work


async def test_a_turn_that_is_over_goes_on_in_the_next(time: Time) -> None:
    turns = Turns(asyncio.get_running_loop(), 0.005)
    work = worker(time, [], "work")
    turns.run(work)
    assert (is_over(turns), turns.used) == (False, 0.003)
    turns.run(work)  # it may be the time of several turns
    assert (is_over(turns), turns.used) == (False, 0.0)
    turns.run(work)
    turns.run(work)
    assert is_over(turns)
    await asyncio.sleep(0)
    assert (turns.over, turns.used) == (False, 0.0)


async def test_what_is_run_within_is_counted_once(time: Time) -> None:
    turns = Turns(asyncio.get_running_loop(), 1.0)
    turns.run(turns.run, turns.run, worker(time, [], "work"))
    assert turns.used == pytest.approx(0.003)


async def test_those_who_wait_are_served_by_networks_as_long_as_a_turn_lasts(time: Time) -> None:
    loop = asyncio.get_running_loop()
    turns = Turns(loop, 0.005)
    done: list[str] = []
    for number in range(4):
        turns.wait(("crowd", str(number)), worker(time, done, f"crowd {number}"))
    turns.wait(("other", "honest"), worker(time, done, "honest"))
    await asyncio.sleep(0)
    assert done == ["crowd 0", "honest"]  # for 6 ms
    assert is_over(turns)
    await asyncio.sleep(0)
    assert done[2:] == ["crowd 1", "crowd 2"]
    await until(lambda: not is_over(turns))
    assert done[4:] == ["crowd 3"]


async def test_what_ends_goes_before_what_begins_and_leaves_it_half_of_the_time(time: Time) -> None:
    turns = Turns(asyncio.get_running_loop(), 0.01)
    done: list[str] = []
    for number in range(4):
        turns.wait(("network", f"pipe {number}"), worker(time, done, "input"))
    for _ in range(3):
        turns.wait_to_end(("network", "peer"), worker(time, done, "response"))
    await asyncio.sleep(0)
    assert done == ["response", "response", "input", "input"]
    assert is_over(turns)
    await until(lambda: not is_over(turns))
    assert done[4:] == ["response", "input", "input"]


async def test_long_responses_do_not_keep_input_from_its_turn(time: Time) -> None:
    turns = Turns(asyncio.get_running_loop(), 0.001)
    done: list[str] = []
    for number in range(2):
        turns.wait_to_end(("attacker",), worker(time, done, "response"))
        turns.wait((f"pipe {number}",), worker(time, done, "input"))
    await until(lambda: len(done) == 4)
    assert done == ["response", "input", "response", "input"]


async def test_if_handlers_take_the_time_input_is_heard_before_requests_begin(time: Time) -> None:
    turns = Turns(asyncio.get_running_loop(), 0.005)
    done: list[str] = []

    def request(name: str) -> None:
        if is_crowded(turns):
            turns.wait_to_begin(("network", name[0]), worker(time, done, name))
        else:
            turns.begin(worker(time, done, name))

    def hear(*names: str) -> None:
        for name in names:
            request(name)
        done.append("heard")

    hear("a1", "a2", "a3", "a4")  # a turn, and one more, each for 6 ms
    assert is_over(turns)
    for names in ("a5", "a6"), ("b1", "b2"), ("a7",):
        turns.wait(("network", names), partial(hear, *names))
    done.clear()
    await asyncio.sleep(0)
    assert done == ["heard", "heard", "heard", "a5", "b1"]
    assert is_over(turns)
    await asyncio.sleep(0)
    assert done[5:] == ["a6", "b2"]
    await until(lambda: not is_over(turns))
    assert done[7:] == ["a7"]
    assert not is_crowded(turns)


async def test_a_request_that_is_given_up_does_not_begin(time: Time) -> None:
    turns = Turns(asyncio.get_running_loop(), 0.005)
    done: list[str] = []
    first, second = worker(time, done, "first"), worker(time, done, "second")
    turns.wait_to_begin(("net", "a"), first)
    turns.wait_to_begin(("net", "b"), second)
    turns.give_up(("net", "a"), first)
    await asyncio.sleep(0)
    assert done == ["second"]


async def test_what_waits_already_is_done_once(time: Time) -> None:
    turns = Turns(asyncio.get_running_loop(), 0.005)
    done: list[str] = []
    work = worker(time, done, "work")
    turns.wait(("net", "a"), work)
    turns.wait(("net", "a"), work)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert done == ["work"]


async def test_what_is_forgotten_is_not_done(time: Time) -> None:
    turns = Turns(asyncio.get_running_loop(), 0.005)
    done: list[str] = []
    first, second = worker(time, done, "first"), worker(time, done, "second")
    turns.wait(("net", "a"), first)
    turns.wait(("net", "b"), second)
    turns.forget(first)
    await asyncio.sleep(0)
    assert done == ["second"]


async def test_work_that_fails_does_not_stop_the_others(time: Time) -> None:
    loop = asyncio.get_running_loop()
    complaints: list[str] = []
    handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: complaints.append(str(context["exception"])))
    turns = Turns(loop, 0.005)
    done: list[str] = []

    def fail() -> None:
        raise ZeroDivisionError("a fault of ours")

    turns.wait(("net", "a"), fail)
    turns.wait(("net", "b"), worker(time, done, "second"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (done, complaints) == (["second"], ["a fault of ours"])
    loop.set_exception_handler(handler)


async def test_work_may_wait_again(time: Time) -> None:
    turns = Turns(asyncio.get_running_loop(), 0.005)
    done: list[int] = []

    def work(left: int) -> None:
        time.now += 0.006
        done.append(left)
        if left:
            turns.wait(("net", "a"), partial(work, left - 1))

    turns.wait(("net", "a"), partial(work, 3))
    await asyncio.sleep(0)
    await until(lambda: not is_over(turns))
    assert done == [3, 2, 1, 0]
