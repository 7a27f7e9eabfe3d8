"""Tasks that begin at once: what a coroutine can tell is the same as in any other task."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

import pytest
from support.waiting import settled

from stronghold_p2p.transport.eager import begin

VARIABLE: ContextVar[str] = ContextVar("variable")


def begin_here(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
    return begin(coroutine, asyncio.get_running_loop())


def waiting(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Begins what waits."""
    task = begin_here(coroutine)
    assert task is not None
    return task


async def test_what_never_waits_ends_at_once() -> None:
    seen: list[asyncio.Task[Any] | None] = []

    async def handle() -> None:
        seen.append(asyncio.current_task())

    this = asyncio.current_task()
    assert begin_here(handle()) is None
    [task] = seen
    assert task not in {None, this}
    assert asyncio.current_task() is this
    await settled()
    assert task is not None
    assert task.done()
    assert not task.cancelled()


async def test_it_begins_from_a_callback_of_the_loop() -> None:
    seen: list[bool] = []

    async def handle() -> None:
        seen.append(asyncio.current_task() is not None)

    asyncio.get_running_loop().call_soon(begin_here, handle())
    await settled()
    assert seen == [True]


async def test_all_of_it_is_one_task_in_one_context() -> None:
    may_go_on = asyncio.Event()
    tasks: list[asyncio.Task[Any] | None] = []
    values: list[str] = []

    async def handle() -> None:
        for value in ("first", "second", "third"):
            tasks.append(asyncio.current_task())
            values.append(VARIABLE.get())
            VARIABLE.set(value)
            await may_go_on.wait()
            may_go_on.clear()
        tasks.append(asyncio.current_task())

    VARIABLE.set("outside")
    task = waiting(handle())
    assert tasks == [task]
    for _ in range(3):
        await settled()
        assert not task.done()
        may_go_on.set()
    await task
    assert tasks == [task] * 4
    assert values == ["outside", "first", "second"]
    assert VARIABLE.get() == "outside"


async def test_many_wait_for_one() -> None:
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    answers: list[int] = []

    async def handle() -> None:
        answers.append(await answer)

    async def wait() -> None:
        await handle()

    other = asyncio.create_task(wait())
    begun = [waiting(handle()) for _ in range(3)]
    await settled()
    answer.set_result(7)
    await asyncio.gather(other, *begun)
    assert answers == [7] * 4


async def test_what_has_ended_before_the_task_could_wait_for_it() -> None:
    loop = asyncio.get_running_loop()
    answers: list[object] = []

    async def handle(answer: asyncio.Future[int]) -> None:
        try:
            answers.append(await answer)
        except OSError as error:
            answers.append(error)
            await asyncio.sleep(0)
            answers.append("after it")

    good, bad, error = loop.create_future(), loop.create_future(), OSError()
    tasks = [waiting(handle(good)), waiting(handle(bad))]
    good.set_result(1)
    bad.set_exception(error)
    await asyncio.gather(*tasks)
    assert answers == [1, error, "after it"]


async def test_turns_of_the_loop_pass_in_it() -> None:
    steps: list[int] = []

    async def handle() -> None:
        for step in range(3):
            steps.append(step)
            await asyncio.sleep(0)

    task = waiting(handle())
    assert steps == [0]
    await task
    assert steps == [0, 1, 2]


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_cancelled_one_cancels_what_it_waits_for(at_once: bool) -> None:
    awaited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    seen: list[str] = []

    async def handle() -> None:
        try:
            await awaited
        finally:
            seen.append("ends")
            await asyncio.sleep(0)
            seen.append("has ended")

    task = waiting(handle())
    if not at_once:
        await settled()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert awaited.cancelled()
    assert seen == ["ends", "has ended"]


@pytest.mark.parametrize("wait", [asyncio.sleep, None])
async def test_one_that_survives_its_cancellation(wait: Callable[[float], Coroutine[Any, Any, None]] | None) -> None:
    """Before its turn, with nothing to cancel; and after a wait that is over."""
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    seen: list[int] = []

    async def handle() -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            await (wait(0) if wait is not None else over)
        except asyncio.CancelledError:
            seen.append(task.cancelling())
            task.uncancel()

    task = waiting(handle())
    if wait is None:
        over.set_result(None)
    task.cancel()
    await task
    assert seen == [1]


async def test_one_that_cancels_itself() -> None:
    seen: list[str] = []

    async def handle() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        seen.append("goes on to its wait")
        await asyncio.Event().wait()
        seen.append("not here")

    task = waiting(handle())
    await asyncio.wait([task])
    assert task.cancelled()
    assert seen == ["goes on to its wait"]


async def test_a_time_limit_within_it() -> None:
    seen: list[str] = []

    async def handle() -> None:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            seen.append("late")

    await waiting(handle())
    assert seen == ["late"]


async def test_a_group_of_tasks_within_it() -> None:
    seen: list[int] = []

    async def handle() -> None:
        async def work(number: int) -> None:
            await asyncio.sleep(0)
            seen.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(2):
                group.create_task(work(number))

    await waiting(handle())
    assert sorted(seen) == [0, 1]


async def test_one_begins_in_another() -> None:
    seen: list[asyncio.Task[Any] | None] = []

    async def inner() -> None:
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)

    async def outer() -> None:
        seen.append(asyncio.current_task())
        task = waiting(inner())
        seen.append(asyncio.current_task())
        await task

    await waiting(outer())
    first, second, third = seen
    assert first is third
    assert first is not second


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Python's own eager task also logs it")
async def test_ctrl_c_ends_the_program() -> None:
    async def handle() -> None:
        raise KeyboardInterrupt

    this = asyncio.current_task()
    with pytest.raises(KeyboardInterrupt):
        begin_here(handle())
    assert asyncio.current_task() is this
    await settled()
