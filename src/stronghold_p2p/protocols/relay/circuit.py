"""A circuit at its relay: two streams, each forwarded to the other, untouched."""

from __future__ import annotations

from collections.abc import Callable

from ...errors import StrongholdError
from ...events import PathLimits
from ...transport.receiver import StreamReceiver
from ...transport.stream import Stream, take_over

__all__ = ["Circuit"]


class Circuit:
    """Forwards between two streams until both ends have closed, one has failed, or a limit strikes: then both are reset.

    A remote gets its window back when the other end has taken what it sent, so at most a window waits here each way, and
    counts as memory of who sent it.
    """

    __slots__ = ("_ended", "_ends", "forwarded", "limits")

    def __init__(
        self, source: Stream, target: Stream, limits: PathLimits | None, ended: Callable[[Circuit], None]
    ) -> None:
        """Both have said all that goes before; ``ended`` is called once. Raises what :func:`take_over` does."""
        self.limits = limits
        self.forwarded = 0
        """Bytes, in both directions together."""
        self._ended: Callable[[Circuit], None] | None = ended
        one, other = _End(self), _End(self)
        one.other, other.other = other, one
        self._ends = one, other
        early = [end.take(stream) for end, stream in zip(self._ends, (source, target), strict=True)]
        if limits is not None and limits.seconds is not None:
            one.stream.set_deadline(one.stream.now() + limits.seconds)
        for end, data in zip(self._ends, early, strict=True):
            if data:
                end.forward(data, uncredited=0)

    def end(self) -> None:
        """Resets both streams, unless they have ended in order."""
        for end in self._ends:
            end.stream.reset()
        self.over()

    def over(self) -> None:
        """Both streams have ended, or are about to."""
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(self)


class _End(StreamReceiver):
    """One of the two streams."""

    __slots__ = ("_circuit", "_waiting", "closed", "forwarded", "other", "stream")

    other: _End

    def __init__(self, circuit: Circuit) -> None:
        self._circuit = circuit
        self._waiting = 0
        """Bytes that came here and the other end has not taken."""
        self.forwarded = 0
        self.closed = False
        """The remote sends no more."""

    def take(self, stream: Stream) -> bytes:
        """Takes over ``stream``; returns what came early."""
        self.stream, early = take_over(stream)
        self.stream.set_receiver(self)
        return early

    def forward(self, data: bytes, uncredited: int) -> None:
        """``uncredited`` of these bytes wait for their window."""
        circuit = self._circuit
        size = len(data)
        self.forwarded += size
        circuit.forwarded += size
        limits = circuit.limits
        if limits is not None and limits.bytes is not None and self.forwarded > limits.bytes:
            circuit.end()
        elif self.other.stream.push(data):
            self.stream.credit(uncredited)
        else:
            self._waiting += uncredited
            self.stream.hold(uncredited)

    # -- as the stream's receiver ----------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self.forward(data, len(data))

    def resume_writing(self) -> None:
        source = self.other
        waiting, source._waiting = source._waiting, 0
        source.stream.let_go(waiting)
        source.stream.credit(waiting)

    def eof_received(self) -> None:
        self.closed = True
        self.other.stream.finish()
        if self.other.closed:
            self._circuit.over()

    def stream_failed(self, error: StrongholdError) -> None:
        self._circuit.end()

    def expired(self) -> None:
        self._circuit.end()
