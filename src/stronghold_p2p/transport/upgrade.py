"""From a byte pipe to a connection: drives the upgrade machine until it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..errors import ClosedError, HandshakeError, NotPermitted, StrongholdError
from ..identity import PeerId
from ..wire import yamux
from ..wire.noise import NoiseIdentity
from ..wire.noise_xx import NoiseKey
from ..wire.upgrade import Upgrade
from .connection import Connection
from .pipe import BytePipe

__all__ = ["PipeUpgrade"]


class PipeUpgrade:
    """One pipe in its upgrade. ``finished`` ends once: with the connection, or with the error that stopped it.

    ``establish`` turns the pipe and the finished machine into a connection; an initiator's, in the next turn of the loop,
    since uvloop writes when a callback has returned: while the remote works on our last message, we do the rest. Of an
    initiator, ``admit`` may refuse the remote before that takes us in. ``ephemeral`` is for this handshake alone. Cancelling
    ``finished`` aborts the pipe.
    """

    def __init__(
        self,
        pipe: BytePipe,
        identity: NoiseIdentity,
        ephemeral: NoiseKey,
        *,
        initiator: bool,
        expected_peer: PeerId | None,
        establish: Callable[[BytePipe, Upgrade], Connection],
        admit: Callable[[PeerId], object] | None = None,
    ) -> None:
        self.pipe = pipe
        self.leads: Callable[[PipeUpgrade], None] | None = None
        """Called when an initiator's handshake is complete, before the remote hears of that."""
        self.won: Callable[[Connection], None] | None = None
        """Called in the moment that there is a connection; who awaits ``finished`` hears of it in a later turn of the loop."""
        self.finished: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self.finished.add_done_callback(self._ended)
        self._establish = establish
        self._initiator = initiator
        self._following: bytearray | None = None
        """What has come since an initiator's upgrade is complete, which needs a connection to be read."""
        self._machine = Upgrade(
            identity, initiator=initiator, ephemeral=ephemeral, expected_peer=expected_peer, admit=admit
        )
        if initiator:
            # The pipe learns its receiver only when this returns; nothing can come before something was sent.
            self._send()

    # -- as a pipe's receiver --------------------------------------------------------------------

    def data_received(self, data: memoryview) -> None:
        if self.finished.done():
            return
        if self._following is not None:
            self._following += data
            return
        try:
            self._machine.receive_data(data)
        except StrongholdError as error:
            self._fail(error)
            return
        if self._machine.done and self._initiator:
            # First, so that the dial is over before the tasks of its rivals go on, which would dial others in their place.
            self._following = bytearray()
            asyncio.get_running_loop().call_soon(self._complete)
            if self.leads is not None:
                self.leads(self)
        self._send()
        if self._machine.done and not self._initiator:
            self._complete()

    def pipe_closed(self, error: Exception | None) -> None:
        if not self.finished.done():
            if isinstance(error, StrongholdError):
                self._fail(error)  # of the transport: it says more than that the stream ended
                return
            try:
                self._machine.receive_eof()
            except StrongholdError as eof_error:
                eof_error.__cause__ = error
                self._fail(eof_error)
            else:
                self._fail(HandshakeError("the stream ended right behind the upgrade"))

    def pause_writing(self) -> None:
        """A handshake is smaller than any buffer."""

    def resume_writing(self) -> None:
        """See pause_writing."""

    def expire(self) -> None:
        """The time limit of the upgrade has passed."""
        self._fail(HandshakeError("the remote stalled in the handshake"))

    def lose(self) -> None:
        """Another pipe to the same peer was faster."""
        self._fail(ClosedError("another address was faster"))

    # -- details ---------------------------------------------------------------------------------

    def _complete(self) -> None:
        if self.finished.done():
            return
        try:
            connection = self._establish(self.pipe, self._machine)
        except StrongholdError as error:
            self._refuse(error)
            return
        self.finished.set_result(connection)
        if self.won is not None:
            self.won(connection)
        connection.messages_received(self._machine.early)
        if self._following:
            connection.data_received(memoryview(self._following))

    def _send(self) -> None:
        data = self._machine.data_to_send()
        if data:
            self.pipe.write(data)

    def _refuse(self, error: StrongholdError) -> None:
        """The remote is who it says, and may already have sent a request: it hears that none will be taken."""
        gated = isinstance(error, NotPermitted)
        code = yamux.GoAwayCode.GATED if gated else yamux.GoAwayCode.RESOURCE_LIMIT
        self.pipe.write(self._machine.noise.encrypt([code.frame]))
        self._fail(error)

    def _fail(self, error: StrongholdError) -> None:
        if self.finished.done():
            return
        self._send()  # what the remote may learn of the failure, such as "na"
        self.finished.set_exception(error)
        self.pipe.close()

    def _ended(self, finished: asyncio.Future[Connection]) -> None:
        if finished.cancelled():
            self.pipe.abort()
        else:
            finished.exception()  # whoever dialed may be gone, and nobody else asks
