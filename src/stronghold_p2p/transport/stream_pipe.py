"""A stream of one connection as the byte pipe of another, such as a relayed circuit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from ..errors import ConnectionLost, StreamReset, StrongholdError
from ..events import Path
from ..multiaddr import Multiaddr
from .allowance import Allowance
from .gatherer import Gatherer
from .pipe import PipeReceiver
from .receiver import append_chunk
from .stream import Stream, take_over
from .transport import Connected

__all__ = ["StreamPipe"]


class StreamPipe(Gatherer):
    """Takes over ``stream``, on which both ends have said all that goes before.

    The stream's window and its connection's socket are what the socket is to a TCP pipe: beyond ``max_send_buffer`` bytes
    that they have not taken, writers wait. What comes is given on at once, and its window back with it: the connection
    inside has windows of its own, and a stream there that is not read holds up no other. While the receiver has paused
    the pipe, what comes is kept, and the remote stops when its window is used up.
    """

    receiver: PipeReceiver
    local_address: Multiaddr | None = None

    def __init__(
        self, stream: Stream, *, remote_address: Multiaddr, path: Path, max_send_buffer: int, connected: Connected
    ) -> None:
        """``connected`` is called at once, and then gets what came after the handshake. Raises what :func:`take_over` does.

        ``remote_address`` is where the other end is, as its peers would dial it, without its peer id.
        """
        super().__init__()
        self.stream, early = take_over(stream)
        self.stream.receiver = self
        self.stream.keeps_held = True  # what is kept counts until it has been given on, also when the stream has ended
        self.remote_address = remote_address
        self.path = path
        self.allowance = Allowance.of(path, self.stream.now())
        self._max_send_buffer = max_send_buffer
        self._paused = False
        self._stopped = False
        """The receiver takes nothing."""
        self._kept: deque[bytes] = deque()
        """What has come and waits."""
        self._heard_at = self.stream.now()
        self._credited = len(early)
        """Bytes of that for which the remote has its window back."""
        self._afterwards: Callable[[], None] | None = None
        """What came behind that: an end."""
        self._closing = False
        self._ended = False
        self.receiver = connected(self)
        if early:
            self.take(early)

    @property
    def pending(self) -> int:
        """Bytes that were written and have not left."""
        return self.stream.pending

    # -- as a pipe -------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing:
            return
        if self.allowance is not None:
            self.allowance.sent += len(data)
        self.stream.push(memoryview(data))
        self.stream.flush()  # what is one flush inside is one outside: joined, small requests would wait for each other
        if self.stream.pending > self._max_send_buffer and not self._paused:
            self._paused = True
            self.receiver.pause_writing()

    def pause_reading(self) -> None:
        self._stopped = True

    def silence(self) -> float:
        return 0.0 if self._stopped or self._kept else self.stream.now() - self._heard_at

    def resume_reading(self) -> None:
        if self._stopped:
            self._stopped = False
            self._heard_at = self.stream.now()
            self.stream.loop.call_soon(self._give_on)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._drop()
            if not self.stream.pending:
                self._end(None)

    def abort(self) -> None:
        self._drop()
        self.stream.reset()
        self._end(None)

    # -- as the stream's receiver ----------------------------------------------------------------

    def take(self, data: bytes | memoryview) -> None:
        if self._closing:
            return
        if self.allowance is not None:
            self.allowance.received += len(data)
        if self._stopped or self._kept:
            append_chunk(self._kept, bytes(data))
            self.stream.hold(len(data))
        else:
            self._heard_at = self.stream.now()
            self._give(data)

    def eof_received(self) -> None:
        """The other end sends no more: as a socket, the pipe ends when what was written has left."""
        self.give_gathered()
        struck = self._limit_reached()  # go-libp2p's relay ends a circuit so, at its limit of bytes
        self._after_input(partial(self._end, ConnectionLost(self._cut(struck), self.path)) if struck else self.close)

    def resume_writing(self) -> None:
        # The mark below which writers go on is zero: they write in this very callback, and into an open window, so the
        # remote waits for nothing.
        if self._closing:
            self._end(None)
        elif self._paused:
            self._paused = False
            self.receiver.resume_writing()

    def stream_failed(self, error: StrongholdError) -> None:
        self.give_gathered()
        relay = self.path.relay
        if relay is not None:
            if isinstance(error, StreamReset):
                reason = self._cut(self._limit_reached())
            elif isinstance(error, ConnectionLost):
                reason = f"the connection to the relay {relay} ended: {error.reason}"
            else:
                reason = f"the circuit at the relay {relay} ended: {error}"
            lost = ConnectionLost(reason, self.path)  # what has ended is not the peer itself
            lost.__cause__ = error
            error = lost
        self._after_input(partial(self._end, error))

    def expired(self) -> None:
        self.abort()

    # -- details ---------------------------------------------------------------------------------

    def _give(self, data: bytes | memoryview) -> None:
        self.receiver.data_received(memoryview(data))
        credited, self._credited = self._credited, 0
        if len(data) > credited:
            self.stream.credit(len(data) - credited)

    def _give_on(self) -> None:
        """Gives on what waits."""
        while self._kept and not self._stopped:
            data = self._kept.popleft()
            self.stream.let_go(len(data))
            self._heard_at = self.stream.now()
            self._give(data)
        afterwards = self._afterwards
        if afterwards is not None and not self._kept:
            self._afterwards = None
            afterwards()

    def _after_input(self, end: Callable[[], None]) -> None:
        if self._kept:
            self._afterwards = end
        else:
            end()

    def _limit_reached(self) -> str:
        if self.allowance is None:
            return ""
        return self.allowance.reached(self.stream.now(), self.stream.pending)

    def _cut(self, struck: str) -> str:
        """Why the relay has ended the circuit; ``struck`` is the limit, if one is known to have."""
        if struck:
            why = f"the announced limit of {struck} had been reached"
        else:
            bounds = self.allowance.bounds if self.allowance is not None else ""
            why = "the peer has gone" + (f", or the circuit's limit was reached ({bounds})" if bounds else "")
        return f"the relay {self.path.relay} ended the circuit: {why}"

    def _drop(self) -> None:
        """We end the pipe: what waits is not heard."""
        self.stream.let_go(sum(map(len, self._kept)))
        self._kept.clear()
        self._afterwards = None

    def _end(self, error: Exception | None) -> None:
        """Tells the receiver in a turn of its own, as a socket does: it may be in the middle of writing."""
        if not self._ended:
            self._ended = self._closing = True
            self.stream.release()
            self.stream.loop.call_soon(self._tell_of_end, error)

    def _tell_of_end(self, error: Exception | None) -> None:
        self.receiver.pipe_closed(error)
