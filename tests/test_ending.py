from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from stronghold_p2p.ending import end_all


class Steps:
    """Records which were taken."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def plain(self, name: str, error: BaseException | None = None) -> Callable[[], None]:
        def step() -> None:
            self.taken.append(name)
            if error is not None:
                raise error

        return step

    def waiting(self, name: str, error: BaseException | None = None) -> Callable[[], Awaitable[None]]:
        async def step() -> None:
            self.taken.append(name)
            await asyncio.sleep(0)
            self.taken.append(f"{name}, to the end")
            if error is not None:
                raise error

        return step


async def test_in_order() -> None:
    steps = Steps()
    await end_all(steps.plain("a"), steps.waiting("b"), steps.plain("c"))
    assert steps.taken == ["a", "b", "b, to the end", "c"]
    await end_all()


@pytest.mark.parametrize("error", [OSError("full"), asyncio.CancelledError(), KeyboardInterrupt()], ids=repr)
async def test_a_step_that_raises_stops_none_of_the_others(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    steps = Steps()
    with pytest.raises(type(error)) as caught:
        await end_all(steps.plain("a", error), steps.waiting("b"), steps.waiting("c", LookupError()), steps.plain("d"))
    assert caught.value is error
    assert "LookupError" in caplog.text
    assert steps.taken == ["a", "b", "b, to the end", "c", "c, to the end", "d"]


async def test_cancelled_it_leaves_the_step_and_takes_the_others() -> None:
    steps = Steps()
    ending = asyncio.create_task(end_all(steps.waiting("a"), steps.waiting("b"), steps.plain("c")))
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert steps.taken == ["a", "b", "b, to the end", "c"]
