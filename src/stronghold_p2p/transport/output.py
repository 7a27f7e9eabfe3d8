"""What a connection sends: frames of its streams into the session, and flushes of the session into the pipe."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from ..wire import yamux
from ..wire.noise import MAX_PLAINTEXT, NoiseTransport
from .deadlines import Deadlines
from .pipe import BytePipe, NullReceiver

__all__ = [
    "FLUSH_FRAMES",
    "FLUSH_SIZE",
    "FULL_FRAME_BODY",
    "LATE_SECONDS",
    "MAX_FRAME_BODY",
    "MAX_JOIN_SIZE",
    "MAX_LATE",
    "Output",
    "Writer",
    "precise_time",
]

FLUSH_FRAMES: Final = 8
"""Data frames after which it does not wait either: the remote begins with the first of many small requests while we write
the rest. With all of 32 in one flush, either side waits while the other works, at little more than half the rate."""

FULL_FRAME_BODY: Final = 4 * MAX_PLAINTEXT
"""Bytes of a Data frame, some 256 KiB, behind which more is to follow: it fills its messages, and leaves no small one behind.
rust-yamux takes 1 MiB at most, and smaller ones let other streams in between."""

MAX_FRAME_BODY: Final = FULL_FRAME_BODY + 1024
"""Bytes of one that takes all there is: a frame of a circuit, or a first window, is a little more than a full one."""

FLUSH_SIZE: Final = 2 * FULL_FRAME_BODY
"""Bytes after which output does not wait for the end of the loop's turn, in bulk two full frames. A receiver
that keeps up sleeps after each flush, and is woken for the next: with one frame a flush, bulk took a fifth to a third longer.
With three, 1 MB one at a time took a tenth longer, since its first bytes left later."""

MAX_JOIN_SIZE: Final = 16 * 1024
"""Bytes up to which joining data with what goes before it costs less than a frame of its own."""

LATE_SECONDS: Final = 1.0
"""How long what the remote does not wait for may wait for something to leave with."""

MAX_LATE: Final = 16 * yamux.HEADER_SIZE
"""Bytes that may: the remote keeps a stream for each frame."""

SYN: Final = int(yamux.Flag.SYN)

precise_time: Final = time.perf_counter
"""For the session, which measures round trips: uvloop's clock stands still during a turn, and ticks in milliseconds."""


class Writer(ABC):
    """Waits for the socket."""

    __slots__ = ()

    @abstractmethod
    def resume(self) -> None:
        """The socket takes bytes again."""


class Output:
    """Everything written in one turn of the event loop leaves in one flush at the turn's end, in as few Noise messages as
    fit; nothing else writes to the pipe. But what opens the only stream, or ends it as an answer, leaves at once: there
    is no other to share a flush with, and the remote waits. The end of a stream that has been answered leaves with what
    follows: a flush of its own would cost each of many remotes half as much as its request. What a connection inside another one
    flushes leaves at once, too: it has joined what there was.

    ``end_turn`` is called at the end of each turn in which something was written; it calls :meth:`flush`.
    """

    __slots__ = (
        "_closing",
        "_deadlines",
        "_end_turn",
        "_frames",
        "_late",
        "_late_tick",
        "_loop",
        "_noise",
        "_pipe",
        "_session",
        "_waiting",
        "congested",
        "ended",
        "flushes",
        "heard",
        "scheduled",
    )

    def __init__(
        self,
        session: yamux.Session,
        noise: NoiseTransport,
        pipe: BytePipe,
        loop: asyncio.AbstractEventLoop,
        deadlines: Deadlines,
        end_turn: Callable[[], None],
    ) -> None:
        self.congested = False
        """The socket is full: writers wait."""
        self.flushes = 0
        """How often bytes were given to the pipe."""
        self.heard = False
        """The remote has been heard in this turn of the loop, and so is there."""
        self.scheduled = False
        """The turn's end will flush."""
        self._session = session
        self._noise = noise
        self._pipe = pipe
        self._loop = loop
        self._deadlines = deadlines
        self._end_turn = end_turn
        self._frames = 0
        self._late = 0
        """Bytes of the frames that may wait."""
        self._late_tick = 0
        """Of the deadline for them; 0 if none is set."""
        self._closing = False
        self.ended = False
        """The pipe has ended, or is about to: asyncio would log each further write, of which a remote can cause many."""
        # A dict for its order: a stream is in it once, though each window update wakes its writer.
        self._waiting: dict[Writer, None] = {}

    # -- frames ----------------------------------------------------------------------------------

    def send_data(self, muxed: yamux.Stream, data: bytes | memoryview) -> None:
        """One frame, within the window."""
        if not muxed.local_open:
            return  # a reset came in the same read as what is answered here; the stream hears of it next
        session = self._session
        alone = self.heard and muxed.greeting == SYN and len(session) == 1
        session.send_data(muxed, data)
        self._frames += 1
        if (alone or session.pending >= FLUSH_SIZE or self._frames >= FLUSH_FRAMES) and not self.congested:
            self.flush()
        elif not self.scheduled:
            self.schedule()

    def send_fin(self, muxed: yamux.Stream) -> None:
        """We send no more on the stream."""
        alone = not muxed.outbound and muxed.local_open and len(self._session) == 1
        self._session.send_fin(muxed)
        if alone and not self.congested:
            self.flush()
        if not self.scheduled:
            self.schedule()  # also with nothing left to flush: a connection that drains may be done

    def send_late_fin(self, muxed: yamux.Stream) -> None:
        """We send no more on the stream, and the remote does not wait to hear it: that leaves with what follows."""
        before = self._session.pending
        self._session.send_fin(muxed)
        self._late += self._session.pending - before
        if self._late > MAX_LATE:
            self._late = 0
        elif not self._late_tick:
            self._late_tick = self._deadlines.add(self._loop.time() + LATE_SECONDS, self)
        if not self.scheduled:
            self.schedule()  # also if all may wait: a connection that drains may be done

    def reset(self, muxed: yamux.Stream, code: int) -> None:
        """Ends the stream both ways."""
        self._session.reset(muxed, code)
        if not self.scheduled:
            self.schedule()

    def credit(self, muxed: yamux.Stream, size: int) -> None:
        """The remote may send ``size`` bytes more on the stream."""
        self._session.credit(muxed, size, precise_time())
        if self._session.pending and not self.scheduled:
            self.schedule()

    def expect(self, muxed: yamux.Stream, size: int) -> None:
        """``size`` bytes are to come on the stream."""
        self._session.expect(muxed, size)
        if self._session.pending and not self.scheduled:
            self.schedule()

    def ping(self) -> None:
        """Asks for a pong, which comes behind all that the remote has to say now."""
        self._session.ping(precise_time())
        if not self.scheduled:
            self.schedule()

    # -- flushes ---------------------------------------------------------------------------------

    def schedule(self) -> None:
        """Has this turn end with a flush."""
        self.scheduled = True
        self._loop.call_soon(self._end_turn)

    def flush(self) -> None:
        """Gives to the pipe what is there, unless all of it may wait."""
        if self._session.pending > self._late and not self.ended:
            self.flushes += 1
            self._frames = self._late = 0
            self._pipe.write(self._noise.encrypt(self._session.data_to_send()))

    def expire(self) -> None:
        """Called by the deadlines: nothing has followed what could wait."""
        self._late = self._late_tick = 0
        if not self.congested:
            self.flush()

    # -- the socket ------------------------------------------------------------------------------

    def pause(self) -> None:
        """The socket takes no more."""
        self.congested = True

    def resume(self) -> None:
        """The socket takes bytes again."""
        self.congested = False
        self.flush()
        if self._closing:
            self.ended = True
            self._loop.call_soon(self._pipe.close)  # asyncio's own loop ends a pipe twice that is closed in this call
        # In order each takes what it can; a writer that fills the socket again waits behind the others.
        waiting, self._waiting = self._waiting, {}
        for writer in waiting:
            writer.resume()

    def wait_for_drain(self, writer: Writer) -> None:
        """Has ``writer`` told when the socket takes bytes again."""
        self._waiting[writer] = None

    def wait_no_longer(self, writer: Writer) -> None:
        """``writer`` has nothing to send any more."""
        self._waiting.pop(writer, None)

    # -- ending ----------------------------------------------------------------------------------

    def close(self, code: int) -> None:
        """Sends what is there and Go Away, then closes the pipe; both as soon as the socket takes it."""
        self._closing = True
        self._session.go_away(code)
        if not self.congested:
            self.flush()
            self.ended = True
            self._pipe.close()

    def abort(self) -> None:
        """Ends the pipe now; what has not left is lost."""
        self.ended = True
        self._pipe.abort()

    def pipe_closed(self) -> None:
        """There is nobody to write to any more. Without the cycles of references, through the pipe and through us, the connection
        is freed as soon as it is over, with the keys of its channel, and not by the collector."""
        self.ended = True
        self._pipe.receiver = NullReceiver()
        self._end_turn = _do_nothing
        if self._late_tick:
            self._deadlines.remove(self._late_tick, self)


def _do_nothing() -> None:
    """At the end of a turn of a connection that is over."""
