"""Dials: one a peer at a time, which all who want a connection wait for; several addresses race."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

from ..config import Config
from ..errors import ClosedError, DialError, InvalidAddress, NotPermitted, StrongholdError
from ..firewall.admission import Admission
from ..identity import PeerId
from ..multiaddr import Multiaddr
from ..transport.connection import Connection
from ..transport.pipe import BytePipe, NullReceiver, PipeReceiver
from ..transport.transport import Transport
from ..transport.upgrade import PipeUpgrade

__all__ = ["Dial", "Dialer"]

_T = TypeVar("_T")


class Dial:
    """A dial under way and those who wait for it."""

    task: asyncio.Task[None]

    def __init__(self, peer: PeerId, addresses: tuple[Multiaddr, ...]) -> None:
        self.peer = peer
        self.addresses = addresses
        self.failed: dict[Multiaddr, Exception] = {}
        """Why an address did not lead to the peer."""
        # A dict for its order: who asked first goes on first.
        self._waiting: dict[asyncio.Future[Connection | Exception], None] = {}
        self._outcome: Connection | Exception | None = None

    async def outcome(self, deadline: float) -> Connection:
        """The connection; whoever leaves last ends the dial.

        Raises:
            ClosedError: we are closing.
            DialError: no address led to the peer, or none has by ``deadline``.
        """
        told: asyncio.Future[Connection | Exception] = asyncio.get_running_loop().create_future()
        if self._outcome is not None:
            told.set_result(self._outcome)  # an eager task that never waits has ended before anybody could
        self._waiting[told] = None
        try:
            async with asyncio.timeout_at(deadline):
                outcome = await told
        except TimeoutError:
            raise self.error() from None
        finally:
            del self._waiting[told]
            if not self._waiting:
                self.task.cancel()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def tell(self, outcome: Connection | Exception) -> None:
        """Ends the wait, of all who come, too; does nothing if another outcome was told."""
        if self._outcome is None:
            self._outcome = outcome
        for told in self._waiting:
            if not told.done():
                told.set_result(outcome)

    @property
    def joinable(self) -> bool:
        """Whether it has not ended, nor is about to because nobody waits for it any more."""
        return not self.task.done() and not self.task.cancelling()

    def error(self) -> DialError:
        """Every address with its reason; that of one which has not failed yet is that it took too long."""
        late = TimeoutError("no connection in time")
        return DialError(self.peer, [(address, self.failed.get(address, late)) for address in self.addresses])


class Dialer:
    """Dials by the first of ``transports`` that supports an address; ``upgrade`` makes what shakes hands with a peer on
    a pipe to an address, ``admission`` says which addresses may be dialed."""

    def __init__(
        self,
        transports: Sequence[Transport],
        config: Config,
        admission: Admission,
        upgrade: Callable[[BytePipe, PeerId, Multiaddr], PipeUpgrade],
    ) -> None:
        self.dials: dict[PeerId, Dial] = {}
        self._transports = transports
        self._config = config
        self._admission = admission
        self._upgrade = upgrade
        self._tasks: set[asyncio.Task[None]] = set()
        self._attempts: set[asyncio.Task[Connection | None]] = set()
        """What dials at one of several addresses, also what has lost its race and is about to end."""

    def dial(self, peer: PeerId, addresses: tuple[Multiaddr, ...]) -> Dial:
        """The dial to ``peer`` that is under way, or a new one, to ``addresses``.

        Raises:
            DialError: no address is known, or too many are being dialled.
        """
        dial = self.dials.get(peer)
        if dial is not None and dial.joinable:
            return dial
        if not addresses:
            raise DialError(peer)
        # Whoever was told of a failure may dial again before the loop has called _ended.
        under_way = sum(not task.done() for task in self._tasks)
        if under_way >= self._config.max_pending_outbound_connections:
            raise DialError(peer, reason="max_pending_outbound_connections are being dialled already")
        dial = self.dials[peer] = Dial(peer, addresses)
        dial.task = asyncio.get_running_loop().create_task(self._dial(dial))
        self._tasks.add(dial.task)
        dial.task.add_done_callback(partial(self._ended, dial))
        return dial

    def cancel(self) -> None:
        """Ends every dial."""
        for task in (*self._tasks, *self._attempts):
            task.cancel()

    async def ended(self) -> None:
        """Returns when all that was cancelled has ended."""
        await asyncio.gather(*self._tasks, *self._attempts, return_exceptions=True)

    def _ended(self, dial: Dial, task: asyncio.Task[None]) -> None:
        _forget(self._tasks, task)
        error = ClosedError() if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            dial.tell(error)
        if self.dials.get(dial.peer) is dial:
            del self.dials[dial.peer]

    async def _dial(self, dial: Dial) -> None:
        connection: Connection | None = None
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.connection_timeout):
                if len(dial.addresses) == 1:
                    connection = await self._try(dial, dial.addresses[0])
                else:
                    connection = await self._race(dial)
        dial.tell(connection or dial.error())  # here: by the task's end it would take a turn of the loop more

    async def _race(self, dial: Dial) -> Connection | None:
        """Tries the addresses in order, each with a head start on the next; the first connection wins (RFC 8305)."""
        running: set[asyncio.Task[Connection | None]] = set()
        to_try = iter(dial.addresses)
        try:
            while True:
                address = next(to_try, None)
                if address is not None:
                    running.add(self._attempt(dial, address))
                elif not running:
                    return None
                stagger = self._config.dial_stagger if address is not None else None
                done, running = await asyncio.wait(running, timeout=stagger, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if (connection := task.result()) is not None:
                        return connection
        finally:
            for task in running:
                task.cancel()

    def _attempt(self, dial: Dial, address: Multiaddr) -> asyncio.Task[Connection | None]:
        task = asyncio.get_running_loop().create_task(self._try(dial, address))
        self._attempts.add(task)
        task.add_done_callback(partial(_forget, self._attempts))
        return task

    async def _try(self, dial: Dial, address: Multiaddr) -> Connection | None:
        """None if ``address`` does not lead to the peer; the dial is told why."""
        try:
            return await self._connect(dial.peer, address)
        except (StrongholdError, OSError) as error:
            dial.failed[address] = error
            return None

    async def _connect(self, peer: PeerId, address: Multiaddr) -> Connection:
        upgrade: PipeUpgrade | None = None
        refusal: str | None = self._admission.refusal_of_address(address)
        if refusal is not None:
            raise NotPermitted(peer, refusal)
        transport = next((one for one in self._transports if one.supports(address)), None)
        if transport is None:
            raise InvalidAddress(
                address, f"no transport supports it; there is {' and '.join(t.name for t in self._transports)}"
            )

        def connected(pipe: BytePipe) -> PipeReceiver:
            nonlocal upgrade, refusal
            refusal = self._admission.refusal_of_address(pipe.remote_address)  # a name is decided when it is resolved
            if refusal is not None:
                pipe.abort()
                return NullReceiver()
            upgrade = self._upgrade(pipe, peer, address)
            return upgrade

        try:
            await transport.dial(address, connected)
            if upgrade is None:
                raise NotPermitted(peer, refusal or "refused")
            return await upgrade.finished
        finally:
            if upgrade is not None:
                upgrade.finished.cancel()  # does nothing unless we were cancelled


def _forget(tasks: set[asyncio.Task[_T]], task: asyncio.Task[_T]) -> None:
    tasks.discard(task)
    if not task.cancelled():
        task.exception()  # whoever waited for it may be gone
