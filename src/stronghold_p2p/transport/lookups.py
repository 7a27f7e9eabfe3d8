"""Threads for look-ups of names, and who may have how many of them.

A look-up blocks its thread until the system gives up, for twenty seconds or more, and nothing can stop it. A remote may
have told the name. asyncio's own threads would keep the program from ending; uvloop has four for all names.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from ..identity import PeerId

__all__ = ["Holder", "Lookups", "in_thread"]

MAX_LOOKUPS: Final = 64
"""Threads at once; further look-ups wait. One that waits for the network takes some 100 KiB."""
MAX_TOLD_LOOKUPS: Final = 48
"""The same for names that remotes told: the rest is left to those that our own code gave."""
MAX_LOOKUPS_PER_HOLDER: Final = 4
"""The same for the names of one peer. It takes a dozen dials to peers with dead names to hold up names that others told."""

_T = TypeVar("_T")


class Holder(NamedTuple):
    """For whom a name is looked up."""

    peer: PeerId
    """Whom we dial."""
    told: bool
    """By a remote, not by our own code."""


class Lookups:
    """Runs look-ups in threads. Those that wait for a place are served by turns of their holders."""

    def __init__(self) -> None:
        self._running: dict[Holder, int] = {}
        self._waiting: dict[Holder, dict[asyncio.Future[None], None]] = {}
        """Who waited longest first, in each and among all; but a holder that was served goes to the end."""

    async def run(self, holder: Holder, look_up: Callable[[], _T]) -> _T:
        """The result of ``look_up``, or the error that it raises. Cancelled, it goes on, and keeps its place until it ends.

        Raises:
            OSError: the system has no thread more.
        """
        if self._has_place(holder):
            self._take(holder)
        else:
            await self._turn(holder)
        try:
            looked_up = in_thread(look_up)
        except RuntimeError as error:
            self._leave(holder)
            raise OSError("the name cannot be looked up: the system has no thread for it") from error
        looked_up.add_done_callback(partial(self._ended, holder))
        await asyncio.wait((looked_up,))  # cancels nothing
        return looked_up.result()

    async def _turn(self, holder: Holder) -> None:
        """Returns with a place."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(holder, {})[turn] = None
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._leave(holder)  # it was given in this very turn of the loop
            elif holder in self._waiting:
                self._waiting[holder].pop(turn, None)
                if not self._waiting[holder]:
                    del self._waiting[holder]
            raise

    def _has_place(self, holder: Holder) -> bool:
        told = sum(running for (_, told), running in self._running.items() if told)
        return (
            self._running.get(holder, 0) < MAX_LOOKUPS_PER_HOLDER
            and sum(self._running.values()) < MAX_LOOKUPS
            and not (holder.told and told >= MAX_TOLD_LOOKUPS)
        )

    def _take(self, holder: Holder) -> None:
        self._running[holder] = self._running.get(holder, 0) + 1

    def _leave(self, holder: Holder) -> None:
        self._running[holder] -= 1
        if not self._running[holder]:
            del self._running[holder]
        for waiting in list(self._waiting):
            if self._has_place(waiting):
                turns = self._waiting.pop(waiting)
                turn = next((one for one in turns if not one.cancelled()), None)
                if turn is not None:
                    del turns[turn]
                    if turns:
                        self._waiting[waiting] = turns  # behind all others
                    self._take(waiting)
                    turn.set_result(None)
                    break  # there was one place

    def _ended(self, holder: Holder, looked_up: asyncio.Future[Any]) -> None:
        """Perhaps nobody waits any more, nor hears of an error."""
        self._leave(holder)
        if not looked_up.cancelled():
            looked_up.exception()


def in_thread(work: Callable[[], _T]) -> asyncio.Future[_T]:
    """Has ``work`` done in a thread of its own. One that hangs keeps no program from ending.

    Raises:
        RuntimeError: the system has no thread more.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def end(set_outcome: Callable[[Any], None], outcome: object) -> None:
        if not done.done():  # else it was cancelled
            set_outcome(outcome)

    def tell(set_outcome: Callable[[Any], None], outcome: object) -> None:
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(end, set_outcome, outcome)

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            tell(done.set_exception, error)
        else:
            tell(done.set_result, result)

    threading.Thread(target=run, name="stronghold-p2p-thread", daemon=True).start()
    return done
