"""A state file for an event loop, which it never blocks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from ..errors import ClosedError
from .database import Database

__all__ = ["DatabaseThread"]

Result = TypeVar("Result")


class DatabaseThread:
    """A thread that opens a state file, runs jobs in the order of the calls, and closes the file."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Final = path
        self._executor: ThreadPoolExecutor | None = None
        self._database: Database | None = None

    @property
    def is_open(self) -> bool:
        """Whether it takes jobs."""
        return self._executor is not None

    def open(self) -> None:
        """Takes jobs from now on; the file is opened for the first."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="stronghold-p2p-state")

    def close(self) -> asyncio.Future[None]:
        """Takes no more jobs. The future is done when all are done, and the file is closed."""
        executor, self._executor = self._executor, None
        if executor is None:
            closed = asyncio.get_running_loop().create_future()
            closed.set_result(None)
            return closed
        closed = asyncio.wrap_future(executor.submit(self._close))
        executor.shutdown(wait=False)  # it ends after its last job
        return closed

    def submit(self, job: Callable[[Database], Result]) -> asyncio.Future[Result]:
        """Has the thread do a job; the future ends as that does.

        Raises:
            ClosedError: it is not open.
        """
        if self._executor is None:
            raise ClosedError("the state file is not open")
        return asyncio.wrap_future(self._executor.submit(lambda: job(self._open())))

    def _open(self) -> Database:
        if self._database is None:
            self._database = Database(self.path)
        return self._database

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
