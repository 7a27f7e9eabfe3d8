"""A thread for what may block for ever: a write to a pipe that nobody reads, or to a terminal that is stopped."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["Worker"]

T = TypeVar("T")


class Worker:
    """Does jobs in their order. Unlike the threads of an executor, one that is blocked keeps no process from ending."""

    def __init__(self, name: str) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=f"stronghold-p2p-{name}", daemon=True).start()

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Has the job done after all that were submitted before; the future ends as it does."""
        future: Future[T] = Future()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(job())
                except BaseException as error:  # noqa: BLE001  it is raised where the result is awaited
                    future.set_exception(error)

        self._jobs.put(work)
        return future

    def stop(self) -> None:
        """Ends the thread after the jobs that were submitted."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
