"""A policy file that is read again whenever it changes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection
from typing import NoReturn

from ..errors import PolicyError
from .policy import Policy

__all__ = ["PolicyWatch"]

_Stamp = tuple[int, int, int, int]


class PolicyWatch:
    """Applies a policy file, and again when the file changes or on :meth:`reload`.

    ``apply`` gets each policy. An invalid or missing file leaves the previous policy in force, and is reported to
    ``failed`` once. ``types`` as for :meth:`Policy.parse`. ``interval``: seconds between checks of the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        apply: Callable[[Policy], None],
        failed: Callable[[PolicyError], None],
        types: Collection[str] | None = None,
        interval: float = 1.0,
    ) -> None:
        self._path = path
        self._types = types
        self._apply = apply
        self._failed = failed
        self._interval = interval
        self._reload = asyncio.Event()
        self._loaded: _Stamp | None = None
        """The file as it was when it was last read; None if it was missing."""
        self._noticed: _Stamp | None = None
        """The file as it was at the last look."""
        self._watching: asyncio.Task[NoReturn] | None = None

    def start(self) -> None:
        """Watches, until :meth:`close`."""
        self._watching = asyncio.get_running_loop().create_task(self.run())

    async def close(self) -> None:
        """Watches no more."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])

    async def load(self) -> None:
        """Reads the file and applies it; a peer starts with this.

        Raises:
            PolicyError: nothing was applied.
        """
        # Stamped before it is read: what is written meanwhile is noticed later, and never missed.
        self._loaded = self._noticed = await asyncio.to_thread(_stamp, self._path)
        self._apply(await asyncio.to_thread(Policy.load, self._path, types=self._types))

    async def check(self) -> None:
        """Loads the file if it has changed, and then stood still since the last look: it may have been half written, or
        missing between two names.

        Raises:
            PolicyError: it has changed, and nothing was applied.
        """
        stamp = await asyncio.to_thread(_stamp, self._path)
        settled = stamp == self._noticed
        self._noticed = stamp
        if settled and stamp != self._loaded:
            await self.load()

    def reload(self) -> None:
        """Has :meth:`run` load the file now, changed or not: what SIGHUP asks for."""
        self._reload.set()

    async def run(self) -> NoReturn:
        """Watches until it is cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._interval):
                    await self._reload.wait()
            except TimeoutError:
                look = self.check
            else:
                self._reload.clear()
                look = self.load
            try:
                await look()
            except PolicyError as error:
                self._failed(error)


def _stamp(path: str | os.PathLike[str]) -> _Stamp | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    # The time of the inode's change, too: a file that became readable has no other mark of it.
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino
