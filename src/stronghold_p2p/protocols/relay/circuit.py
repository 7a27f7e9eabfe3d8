"""A circuit at its relay: two streams, each forwarded to the other, untouched."""

from __future__ import annotations

from collections.abc import Callable

from ...errors import StrongholdError
from ...events import PathLimits
from ...transport.gatherer import Gatherer
from ...transport.output import MAX_FRAME_BODY
from ...transport.stream import Stream, take_over
from ...transport.substream import Substream

__all__ = ["Circuit"]


class Circuit:
    """Forwards between two streams until both ends have closed and each has taken what the other sent, or one has failed, or
    a limit strikes: then both are reset.

    A remote gets its window back when the other end has taken what it sent, so at most a window waits here each way, and
    counts as memory of who sent it.
    """

    __slots__ = ("_ended", "_ends", "forwarded", "max_bytes")

    def __init__(self, source: Stream, target: Stream, limits: PathLimits | None, ended: Callable[[], None]) -> None:
        """Both have said all that goes before; ``ended`` is called once, perhaps at once. Raises what :func:`take_over`
        does, and then has reset both."""
        self.max_bytes = None if limits is None else limits.bytes
        """In each direction; None: any number."""
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


class _End(Gatherer):
    """One of the two streams."""

    __slots__ = ("_circuit", "_closed", "_waiting", "forwarded", "other", "passed")

    other: _End

    def __init__(self, circuit: Circuit) -> None:
        super().__init__()
        self._circuit = circuit
        self._waiting = 0
        """Bytes that came here and the other end has not taken."""
        self.forwarded = 0
        self._closed = False
        """The remote sends no more."""
        self.passed = False
        """The other end has been told so, behind all that was sent."""

    def forward(self, data: bytes | memoryview, uncredited: int) -> None:
        """``uncredited`` of these bytes wait for their window."""
        circuit = self._circuit
        left = None if circuit.max_bytes is None else circuit.max_bytes - self.forwarded
        over = left is not None and len(data) > left
        if over:
            data = data[:left]
        size = len(data)
        self.forwarded += size
        circuit.forwarded += size
        if over:
            self.other.stream.push(data)
            circuit.end()
        elif (size <= MAX_FRAME_BODY and self.other.stream.write_now(data)) or self.other.stream.push(data):
            self.stream.credit(uncredited)
        else:
            self._waiting += uncredited
            self.stream.hold(uncredited)

    # -- as the stream's receiver ----------------------------------------------------------------

    def take(self, data: bytes | memoryview) -> None:
        self.forward(data, len(data))

    def resume_writing(self) -> None:
        source = self.other
        waiting, source._waiting = source._waiting, 0
        source.stream.let_go(waiting)
        source.stream.credit(waiting)
        source.pass_end()

    def eof_received(self) -> None:
        self.give_gathered()
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
        self.give_gathered()
        self._circuit.end()

    def expired(self) -> None:
        self._circuit.end()
