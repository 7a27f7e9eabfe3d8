"""The tasks of a connection: swept, counted and ended."""

from __future__ import annotations

import asyncio

import pytest
from support.waiting import begun, settled

from stronghold_p2p.resources.turns import Turns
from stronghold_p2p.transport.eager import EAGER
from stronghold_p2p.transport.handler_tasks import HandlerTasks


def tasks_of_this_loop(turns: Turns | None = None) -> HandlerTasks:
    loop = asyncio.get_running_loop()
    return HandlerTasks(loop, turns or Turns(loop, 1.0))


async def test_those_that_have_ended_make_room() -> None:
    tasks = tasks_of_this_loop()
    may_end = asyncio.Event()

    async def handle() -> None:
        await may_end.wait()

    for _ in range(3):
        tasks.spawn(handle())
    assert not tasks.fewer_than(3)
    assert tasks.fewer_than(4)
    may_end.set()
    await settled()
    assert tasks.fewer_than(1)


async def test_a_task_that_is_spawned_says_that_it_will_run() -> None:
    tasks = tasks_of_this_loop()
    assert not tasks.woken
    await tasks.spawn(asyncio.sleep(0))
    assert tasks.woken


async def test_the_end_of_all_is_told_when_the_last_has_ended() -> None:
    tasks = tasks_of_this_loop()
    ended: list[bool] = []
    may_end = asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await may_end.wait()

    running = [tasks.spawn(stubborn()) for _ in range(2)]
    await settled()
    tasks.end(lambda: ended.append(all(task.done() for task in running)))
    await settled()
    assert ended == []
    may_end.set()
    await settled()
    assert ended == [True]


async def test_without_a_task_the_end_is_told_at_once() -> None:
    tasks = tasks_of_this_loop()
    await tasks.spawn(asyncio.sleep(0))
    ended: list[None] = []
    tasks.end(lambda: ended.append(None))
    assert ended == [None]


async def test_what_is_spawned_after_the_end_does_not_run() -> None:
    tasks = tasks_of_this_loop()
    tasks.end(lambda: None)
    ran: list[None] = []

    async def late() -> None:
        ran.append(None)

    task = tasks.spawn(late())
    await begun(asyncio.sleep(0))
    await settled()
    assert task.cancelled()
    assert ran == []


@pytest.mark.skipif(EAGER, reason="Python begins all at once")
async def test_the_first_of_a_read_begins_at_once_and_others_together() -> None:
    tasks = tasks_of_this_loop()
    numbers: list[int] = []

    async def one(number: int) -> None:
        numbers.append(number)

    assert tasks.begin(one(1)) is None
    assert tasks.begin(one(2)) is not None
    assert tasks.begin(one(3)) is not None
    assert numbers == [1]
    await settled()
    assert numbers == [1, 2, 3]
    tasks.at_once = True
    assert tasks.begin(one(4)) is None


async def test_while_requests_wait_to_begin_each_begins_at_once() -> None:
    turns = Turns(asyncio.get_running_loop(), 1.0)
    tasks = tasks_of_this_loop(turns)
    numbers: list[int] = []

    async def one(number: int) -> None:
        numbers.append(number)

    turns.crowded = True
    for number in range(3):
        assert tasks.begin(one(number)) is None
    assert numbers == [0, 1, 2]
