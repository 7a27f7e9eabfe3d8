"""A Yamux session: frames in, events out; calls in, frames out (libp2p/specs yamux/README.md).

What real peers make of the specification decided the details that it leaves open:

- FIN travels alone, on an empty Data frame: on a frame with a body js-libp2p resets the stream and go-libp2p cuts the
  body short; on a window update old rust-yamux does not see it.
- ACK is sent once, on our first frame of an inbound stream, never with FIN or RST: py-libp2p does not look at those
  beside an ACK, and go-yamux frees an accept slot for each.
- Frames for a stream that is gone, or after its FIN, are dropped: they may have been under way.
"""

from __future__ import annotations

from typing import Any, Final

from ...errors import MuxerError
from .flow import ReceiveBudget, ReceiveWindow
from .frame import HEADER, HEADER_SIZE, INITIAL_WINDOW, VERSION, Flag, FrameType, GoAwayCode

__all__ = [
    "DataReceived",
    "Event",
    "GoAwayReceived",
    "Session",
    "Stream",
    "StreamEnded",
    "StreamOpened",
    "StreamReset",
    "WindowOpened",
]

MAX_ID: Final = 0xFFFFFFFF
MAX_WINDOW: Final = 0xFFFFFFFF
FRAMES_AT_ONCE: Final = 64
"""Frames after which a call gives what has come so far: whoever drives the session can turn to another one. More than
come in one read of honest remotes, and few enough for the most expensive ones to take some milliseconds."""

ALLOWANCE_OF_DATA: Final = 8
"""Frames without a payload that each data frame of ours allows, and an answer twice as many. py-libp2p returns its window at each read, and reads
lengths byte by byte: that makes eight of them for a small response."""

RESET_FRAMES: Final = 2
"""What the reset of a stream costs that we have not answered: as many streams as there may be can be cancelled at once, but
not again and again."""

FRAMES_OF_REFUSED: Final = 4
"""Frames that may be on their way on a stream when we refuse or reset it, free of charge."""

MAX_REFUSED: Final = 1024
"""Streams of which that is remembered."""

LARGE_FRAME: Final = 13
"""As a power of two, the bytes that count as a frame more: large messages take time to decode, too."""

RTT_MAX_AGE: Final = 10.0
"""Seconds after which a bulk transfer measures the round-trip time again (rust-yamux's interval)."""

# Plain integers: an enum member costs a lookup and a slower comparison for every frame. Final, each by itself: compiled, those
# are no lookups at all.
DATA: Final = int(FrameType.DATA)
WINDOW_UPDATE: Final = int(FrameType.WINDOW_UPDATE)
PING: Final = int(FrameType.PING)
GO_AWAY: Final = int(FrameType.GO_AWAY)
SYN: Final = int(Flag.SYN)
ACK: Final = int(Flag.ACK)
FIN: Final = int(Flag.FIN)
RST: Final = int(Flag.RST)


class Stream(ReceiveWindow):
    """One stream's state in the session; its receive window is a base class, which saves an object for each request.
    ``owner`` is for whoever drives the session."""

    __slots__ = ("greeting", "id", "local_open", "outbound", "owner", "remote_open", "send_window")

    def __init__(self, stream_id: int, now: float, *, outbound: bool) -> None:
        ReceiveWindow.__init__(self, now)
        self.id = stream_id
        self.outbound = outbound
        self.greeting = SYN if outbound else ACK
        """The flag that our first frame carries; then 0."""
        self.local_open = True
        """We may send: neither FIN nor RST has left or come."""
        self.remote_open = True
        """The remote may send."""
        self.send_window = INITIAL_WINDOW
        """Bytes that we may send now."""
        self.owner: Any = None

    def __repr__(self) -> str:
        return f"<yamux.Stream {self.id} send_window={self.send_window}>"


# Plain classes: where this module is compiled, those are cheapest.


class StreamOpened:
    """The remote opened a stream."""

    __slots__ = ("stream",)

    def __init__(self, stream: Stream) -> None:
        self.stream = stream


class DataReceived:
    """Bytes came on a stream, at least one; hand them back with :meth:`Session.credit` when they are consumed."""

    __slots__ = ("data", "stream")

    def __init__(self, stream: Stream, data: bytes) -> None:
        self.stream = stream
        self.data = data


class WindowOpened:
    """The remote lets us send more on a stream."""

    __slots__ = ("stream",)

    def __init__(self, stream: Stream) -> None:
        self.stream = stream


class StreamEnded:
    """The remote sends no more on a stream (FIN)."""

    __slots__ = ("stream",)

    def __init__(self, stream: Stream) -> None:
        self.stream = stream


class StreamReset:
    """The remote reset a stream; ``code`` is go-yamux's error code, else 0."""

    __slots__ = ("code", "stream")

    def __init__(self, stream: Stream, code: int) -> None:
        self.stream = stream
        self.code = code


class GoAwayReceived:
    """The remote ends the session; go-, js-, py- and rust-libp2p close the connection at once after it."""

    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        self.code = code


Event = StreamOpened | DataReceived | WindowOpened | StreamEnded | StreamReset | GoAwayReceived


class Session:
    """One side of a session.

    ``initiator`` is the dialer of the connection, whose streams have odd ids. Times are seconds of any monotonic clock.
    """

    def __init__(
        self,
        *,
        initiator: bool,
        max_inbound_streams: int,
        max_receive_window: int,
        max_control_frames: int,
        max_control_frames_per_second: float,
        budget: ReceiveBudget,
    ) -> None:
        self.outbound_streams = 0
        """Streams of ours that have not ended both ways; a remote counts them against its limits for as long."""
        self.rtt: float | None = None
        """The last measured round-trip time, in seconds."""
        self.pending = 0
        """Bytes that :meth:`data_to_send` would return."""
        self.can_open = True
        """Whether ids are left: a busy connection runs out of its 2^31 within a day, and a new one must follow it."""
        self.unread = False
        """Bytes are left that :meth:`receive_data` was given: :meth:`go_on` takes the next of them."""
        self.body_left = 0
        """Bytes of the frame under way that have not come."""
        self._initiator = initiator
        self._max_inbound_streams = max_inbound_streams
        self._max_receive_window = max_receive_window
        self._budget = budget
        self._streams: dict[int, Stream] = {}
        self._refused: dict[int, int] = {}
        """Streams that we have refused or reset, and how many frames more are free on each."""
        self._next_id = 1 if initiator else 2
        self._events: list[Event] = []
        self._frames_left = FRAMES_AT_ONCE
        """Those that are taken before what has happened is asked for."""
        self._output: list[bytes | memoryview] = []
        self._gone_away = False
        self._failed = False
        self._max_allowance = float(max_control_frames)
        self._allowance_per_second = max_control_frames_per_second
        self._allowance = self._max_allowance
        """Frames without a payload that the remote may send."""
        self._allowance_at = 0.0
        self._ping_value = 0
        self._ping_sent_at: float | None = None
        self._rtt_measured_at = 0.0
        # What the last call of receive_data left: frames; or a part of a header, or of a body.
        self._rest = b""
        self._rest_offset = 0
        self._header_part = b""
        self._body_stream: Stream | None = None
        self._body_flags = 0

    # -- the four verbs --------------------------------------------------------------------------

    def receive_data(self, data: bytes, now: float) -> None:
        """Takes bytes from the connection, cut anywhere: some frames of them until :meth:`events_received` is called, and
        the rest by :meth:`go_on`. Requires that nothing is :attr:`unread`.

        Raises:
            MuxerError: the remote broke the protocol. Events before that remain, a Go Away is ready to be sent; what
                comes later is ignored.
        """
        assert not self.unread
        if self._failed:
            return
        try:
            self._receive(data, 0, now)
        except MuxerError as error:
            self._fail(error)
            raise

    def go_on(self, now: float) -> bool:
        """Takes the next frames of what is :attr:`unread`; returns whether that was all. Raises as :meth:`receive_data`."""
        rest, self._rest = self._rest, b""
        self.unread = False
        self._frames_left = FRAMES_AT_ONCE
        try:
            self._receive(rest, self._rest_offset, now)
        except MuxerError as error:
            self._fail(error)
            raise
        return not self.unread

    def awaiting(self, size: int) -> Stream | None:
        """The stream to which all of the next ``size`` bytes belong, if that is known and it takes them: they need not be
        given to :meth:`receive_data`, but to :meth:`receive_placed`. There may be more, up to :attr:`body_left`."""
        stream = self._body_stream
        if stream is None or self.unread or self._failed or size > self.body_left or not stream.remote_open:
            return None
        return stream

    def receive_placed(self, stream: Stream, size: int) -> None:
        """So many bytes, for which ``stream`` is :meth:`awaiting`, were written to where they belong. That is no event, but an
        end that came with the last of a frame is."""
        self._body_part_received(stream, size)

    def charge(self, now: float, frames: int = 1) -> None:
        """The remote has caused work without a payload, as much as so many control frames. An honest remote does that
        seldom, or because of data that we sent.

        Raises:
            MuxerError: more than it may.
        """
        allowance = self._allowance + (now - self._allowance_at) * self._allowance_per_second
        self._allowance_at = now
        self._allowance = min(allowance, self._max_allowance) - frames
        if self._allowance < 0:
            raise MuxerError("too many frames without a payload", GoAwayCode.RATE_LIMIT)

    def events_received(self) -> list[Event]:
        """What has happened since the last call, in order."""
        events = self._events
        self._events = []
        self._frames_left = FRAMES_AT_ONCE
        return events

    def data_to_send(self) -> list[bytes | memoryview]:
        """What must be sent now, in order."""
        output = self._output
        self._output = []
        self.pending = 0
        return output

    # -- streams ---------------------------------------------------------------------------------

    @property
    def streams(self) -> list[Stream]:
        """All streams that have not ended both ways."""
        return list(self._streams.values())

    def __len__(self) -> int:
        return len(self._streams)

    def open_stream(self, now: float) -> Stream:
        """A new stream. Nothing is sent yet: SYN rides on its first frame. Requires :attr:`can_open`."""
        stream = Stream(self._next_id, now, outbound=True)
        self._streams[stream.id] = stream
        self._next_id += 2
        self.can_open = self._next_id <= MAX_ID
        self.outbound_streams += 1
        return stream

    def send_data(self, stream: Stream, data: bytes | memoryview) -> None:
        """One Data frame. The caller keeps within ``stream.send_window``, which may be less than it would like."""
        size = len(data)
        assert stream.local_open
        assert size <= stream.send_window
        stream.send_window -= size
        self._output += (HEADER.pack(VERSION, DATA, stream.greeting, stream.id, size), data)
        if (
            not stream.greeting or stream.outbound
        ):  # else it may be the lines alone, of a stream that is reset before its answer
            self._allowance += ALLOWANCE_OF_DATA
        stream.greeting = 0
        self.pending += HEADER_SIZE + size

    def send_fin(self, stream: Stream) -> None:
        """Half-closes the stream: we send no more."""
        if not stream.local_open:
            return
        if stream.greeting:
            self._send(WINDOW_UPDATE, stream.greeting, stream.id, 0)
            stream.greeting = 0
        if not stream.outbound:
            self._allowance += 2 * ALLOWANCE_OF_DATA
        self._output.append(HEADER.pack(VERSION, DATA, FIN, stream.id, 0))
        self.pending += HEADER_SIZE
        stream.local_open = False
        if not stream.remote_open:
            self._forget(stream)

    def reset(self, stream: Stream, code: int = 0) -> None:
        """Ends the stream at once, both ways. A code needs a window update to carry it (go-yamux)."""
        if self._forget(stream) and stream.greeting != SYN:
            self._refuse_frames_of(stream.id)
            self._send(WINDOW_UPDATE if code else DATA, RST, stream.id, code)

    def credit(self, stream: Stream, size: int, now: float) -> None:
        """The application has consumed ``size`` bytes of the stream: the remote may send as many again."""
        if not stream.remote_open:
            return
        stream.consumed += size
        delta = stream.next_window_update(now, self.rtt, self._max_receive_window, self._budget)
        if delta:
            self._send(WINDOW_UPDATE, stream.greeting, stream.id, delta)
            stream.greeting = 0
            self._measure_rtt(now)

    def expect(self, stream: Stream, size: int) -> None:
        """The application knows that ``size`` bytes are to come on the stream: the remote may send them without a wait,
        as far as the largest window and the budget allow."""
        if stream.remote_open:
            growth = stream.grow_window(size - stream.receivable, self._max_receive_window, self._budget)
            if growth:
                self._send(WINDOW_UPDATE, stream.greeting, stream.id, growth)
                stream.greeting = 0

    def ping(self, now: float) -> None:
        """Asks for an answer, which measures :attr:`rtt`; an earlier one that is still to come counts no more."""
        self._ping_value = (self._ping_value + 1) & 0xFFFFFFFF
        self._ping_sent_at = now
        self._send(PING, SYN, 0, self._ping_value)

    @property
    def ping_pending(self) -> bool:
        """Whether the answer to :meth:`ping` has not come."""
        return self._ping_sent_at is not None

    def go_away(self, code: int = GoAwayCode.NORMAL) -> None:
        """Ends the session: new streams of the remote are reset from now on."""
        if not self._gone_away:
            self._gone_away = True
            self.can_open = False
            self._send(GO_AWAY, 0, 0, code)

    # -- frames in -------------------------------------------------------------------------------

    def _receive(self, data: bytes, offset: int, now: float) -> None:
        if self.body_left:
            offset = self._receive_body_part(data)
        if self._header_part:
            data = self._header_part + data
            self._header_part = b""
        end = len(data)
        streams = self._streams
        events = self._events
        frames_left = self._frames_left
        version: int  # else they are objects, where this is compiled
        kind: int
        flags: int
        stream_id: int
        length: int
        while end - offset >= HEADER_SIZE:
            if frames_left <= 0:
                self._frames_left = 0
                self._rest, self._rest_offset, self.unread = data, offset, True
                return
            frames_left -= 1
            version, kind, flags, stream_id, length = HEADER.unpack_from(data, offset)
            offset += HEADER_SIZE
            if version != VERSION:
                raise MuxerError(f"version {version} is unknown")
            if kind > WINDOW_UPDATE:
                self._handle_session_frame(kind, flags, length, now)
                continue
            stream = streams.get(stream_id)
            if flags & SYN:
                stream = self._handle_syn(stream_id, stream, now)
            elif stream is None:
                if not self._was_refused(stream_id):
                    self.charge(now)
            elif kind == WINDOW_UPDATE or not length:
                # The regular end of a stream is free: there is one for each. So is a reset of what we have answered.
                if not flags & (FIN | RST):
                    self.charge(now)
                elif stream.local_open if flags & RST else not stream.remote_open:
                    self.charge(now, 1 if stream.outbound else RESET_FRAMES)
            if kind == WINDOW_UPDATE:
                self._handle_window_update(stream, flags, length)
                continue
            if not length:
                if flags & (FIN | RST) and stream is not None:
                    self._handle_end(stream, flags, 0)
                continue
            if stream is None:
                if length > self._max_receive_window:
                    raise MuxerError(f"{length} bytes for a stream that is not open")
            elif length > stream.receivable:
                raise MuxerError(f"{length} bytes exceed the window of {stream.receivable}")
            else:
                stream.receivable -= length
                frames_left -= length >> LARGE_FRAME
            body_end = offset + length
            if body_end > end:
                self.body_left, self._body_stream, self._body_flags = length, stream, flags
                if offset < end:
                    self._receive_body_part(data[offset:])
                self._frames_left = frames_left
                return
            if stream is not None:
                if stream.remote_open:
                    events.append(DataReceived(stream, data[offset:body_end]))
                if flags & (FIN | RST):
                    self._handle_end(stream, flags, 0)
            offset = body_end
        self._frames_left = frames_left
        if offset < end:
            self._header_part = data[offset:]

    def _receive_body_part(self, data: bytes) -> int:
        """Takes what belongs to the body under way; returns how much that was. A whole buffer is passed uncopied."""
        size = min(self.body_left, len(data))
        stream = self._body_stream
        if size and stream is not None and stream.remote_open:
            # Compiled, a slice of the whole would be a copy.
            self._events.append(DataReceived(stream, data if size == len(data) else data[:size]))
        self._body_part_received(stream, size)
        return size

    def _body_part_received(self, stream: Stream | None, size: int) -> None:
        self.body_left -= size
        if not self.body_left:
            self._body_stream = None
            if stream is not None and self._body_flags & (FIN | RST):
                self._handle_end(stream, self._body_flags, 0)

    def _handle_syn(self, stream_id: int, stream: Stream | None, now: float) -> Stream | None:
        if stream is not None:
            raise MuxerError(f"stream {stream_id} is already open")
        if not stream_id or stream_id & 1 == self._initiator:
            raise MuxerError(f"the remote may not open stream {stream_id}")
        inbound_streams = len(self._streams) - self.outbound_streams
        exhausted = self._budget.exhausted and self._budget.is_exhausted()
        if self._gone_away or inbound_streams >= self._max_inbound_streams or exhausted:
            self.charge(now)
            self._send(DATA, RST, stream_id, 0)
            self._refuse_frames_of(stream_id)
            return None
        stream = self._streams[stream_id] = Stream(stream_id, now, outbound=False)
        self._events.append(StreamOpened(stream))
        return stream

    def _refuse_frames_of(self, stream_id: int) -> None:
        """The remote does not know yet that we have reset the stream."""
        if len(self._refused) >= MAX_REFUSED:
            del self._refused[next(iter(self._refused))]
        self._refused[stream_id] = FRAMES_OF_REFUSED

    def _was_refused(self, stream_id: int) -> bool:
        """Whether a frame is one of the few that were on their way when we reset its stream."""
        left = self._refused.pop(stream_id, 0)
        if left > 1:
            self._refused[stream_id] = left - 1
        return left > 0

    def _handle_window_update(self, stream: Stream | None, flags: int, delta: int) -> None:
        if stream is None:
            return
        if flags & RST:
            # go-yamux puts an error code where the window would be.
            self._handle_end(stream, flags, delta)
            return
        if delta:
            if stream.send_window + delta > MAX_WINDOW:
                raise MuxerError(f"a window update by {delta} overflows stream {stream.id}")
            stream.send_window += delta
            self._events.append(WindowOpened(stream))
        if flags & FIN:
            self._handle_end(stream, flags, 0)

    def _handle_end(self, stream: Stream, flags: int, code: int) -> None:
        if flags & RST:
            if self._forget(stream):
                self._events.append(StreamReset(stream, code))
        elif stream.remote_open:
            stream.remote_open = False
            if not stream.local_open:
                self._forget(stream)
            self._events.append(StreamEnded(stream))

    def _handle_session_frame(self, kind: int, flags: int, value: int, now: float) -> None:
        if kind == PING:
            self.charge(now)
            if flags & SYN:
                self._send(PING, ACK, 0, value)
            elif self._ping_sent_at is not None and value == self._ping_value:
                self.rtt = now - self._ping_sent_at
                self._ping_sent_at = None
                self._rtt_measured_at = now
        elif kind == GO_AWAY:
            self._gone_away = True
            self.can_open = False
            self._events.append(GoAwayReceived(value))
        else:
            raise MuxerError(f"frame type {kind} is unknown")

    def _fail(self, error: MuxerError) -> None:
        self._failed = True
        self.unread = False
        self._rest = b""
        self.go_away(error.code)

    # -- frames out ------------------------------------------------------------------------------

    def _send(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        self._output.append(HEADER.pack(VERSION, kind, flags, stream_id, length))
        self.pending += HEADER_SIZE

    def _measure_rtt(self, now: float) -> None:
        """Only a bulk transfer needs the round-trip time, so only that asks for it."""
        if not self.ping_pending and (self.rtt is None or now - self._rtt_measured_at > RTT_MAX_AGE):
            self.ping(now)

    def _forget(self, stream: Stream) -> bool:
        """Drops the stream's state; False if it had ended already."""
        stream.local_open = stream.remote_open = False
        if self._streams.pop(stream.id, None) is None:
            return False
        self.outbound_streams -= stream.outbound
        if stream.window_size > INITIAL_WINDOW:
            stream.close_window(self._budget)
        return True
