"""A circuit at its relay: two streams, each forwarded to the other, untouched."""

from __future__ import annotations

from collections.abc import Callable

from ...errors import StrongholdError
from ...events import PathLimits
from ...transport.receiver import StreamReceiver
from ...transport.stream import Stream, take_over
from ...transport.substream import Substream

__all__ = ["Circuit"]


class Circuit:
    """Forwards between two streams until both ends have closed and each has taken what the other sent, or one has failed, or
    a limit strikes: then both are reset.

    A remote gets its window back when the other end has taken what it sent, so at most a window waits here each way, and
    counts as memory of who sent it.
    """

    __slots__ = ("_ended", "_ends", "forwarded", "limits")

    def __init__(self, source: Stream, target: Stream, limits: PathLimits | None, ended: Callable[[], None]) -> None:
        """Both have said all that goes before; ``ended`` is called once, perhaps at once. Raises what :func:`take_over`
        does, and then has reset both."""
        self.limits = limits
        self.forwarded = 0
        """Bytes, in both directions together."""
        self._ended: Callable[[], None] | None = ended
        one, other = _End(self), _End(self)
        one.other, other.other = other, one
        self._ends = one, other
        taken: list[tuple[Substream, bytes]] = []
        try:
            for stream in source, target:
                taken.append(take_over(stream))  # noqa: PERF401 - if one raises, the other is needed
        except StrongholdError:
            for substream, _ in taken:
                substream.reset()
            raise
        for end, (substream, _) in zip(self._ends, taken, strict=True):
            end.stream = substream
            substream.receiver = end
            substream.keeps_held = True  # until the other end has taken it, though who sent it has closed since
            if limits is not None and limits.seconds is not None:
                substream.set_deadline(substream.now() + limits.seconds)  # one may have ended while the other has not
        for end, (_, data) in zip(self._ends, taken, strict=True):
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
            ended()


class _End(StreamReceiver):
    """One of the two streams."""

    __slots__ = ("_circuit", "_closed", "_waiting", "forwarded", "other", "passed", "stream")

    other: _End
    stream: Substream

    def __init__(self, circuit: Circuit) -> None:
        self._circuit = circuit
        self._waiting = 0
        """Bytes that came here and the other end has not taken."""
        self.forwarded = 0
        self._closed = False
        """The remote sends no more."""
        self.passed = False
        """The other end has been told so, behind all that was sent."""

    def forward(self, data: bytes, uncredited: int) -> None:
        """``uncredited`` of these bytes wait for their window."""
        circuit = self._circuit
        size = len(data)
        self.forwarded += size
        circuit.forwarded += size
        limits = circuit.limits
        if limits is not None and limits.bytes is not None and self.forwarded > limits.bytes:
            circuit.end()
        elif self.other.stream.write_now(data) or self.other.stream.push(data):
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
        source.pass_end()

    def eof_received(self) -> None:
        self._closed = True
        self.pass_end()

    def pass_end(self) -> None:
        """Of the remote, if it is there, and no earlier than the other end has taken the rest: until then the rest counts, and
        the circuit with it."""
        if self._closed and not self.passed and not self.other.stream.pending:
            self.passed = True
            self.other.stream.finish()
            if self.other.passed:
                self._circuit.over()

    def stream_failed(self, error: StrongholdError) -> None:
        self._circuit.end()

    def expired(self) -> None:
        self._circuit.end()
