"""A WebSocket as a byte pipe over another one (RFC 6455). Imported on first use: its core takes 50 ms to import."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator
from typing import Final

from websockets.client import ClientProtocol
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.streams import StreamReader
from websockets.uri import WebSocketURI

from ..errors import TlsError, WebSocketError
from ..events import Path
from ..multiaddr import Multiaddr
from ..resources.turns import Turns
from .intake import EMPTY_PER_SECOND, Allowance, Intake
from .pipe import BytePipe, NullReceiver, PipeReceiver
from .tls_pipe import RECORD_TYPES
from .transport import Connected

__all__ = ["MAX_HEAD_SIZE", "MAX_MESSAGE_SIZE", "WebSocketPipe", "client_pipe", "server_pipe"]

MAX_HEAD_SIZE: Final = 16 * 1024
"""Bytes of an HTTP head: browsers and proxies send one or two thousand."""

MAX_MESSAGE_SIZE: Final = 4 * 1024 * 1024
"""Bytes of one message, which is kept until it is whole. libp2p peers send a Noise message in one, or a few."""

FRAMES_AT_ONCE: Final = 32
"""Frames that the core works on in one call: some 10 us each, and a read may bring a hundred thousand."""

NO_HTTP: Final = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
"""The answer to TLS: the client sees at once that there is none."""

_logger: Final = logging.getLogger("stronghold_p2p.websocket")
"""For the core, whose errors are raised here."""
_logger.propagate = False


def client_pipe(
    lower: BytePipe, turns: Turns, host: str, port: int, path: Path, connected: Connected, *, secure: bool
) -> WebSocketPipe:
    """The client's end. ``host``, a name or an IP address, and ``port`` are for the request; ``secure``: over TLS."""
    uri = WebSocketURI(secure, host, port, path="/", query="")  # not parsed: a remote may have told us the name
    machine = ClientProtocol(uri, max_size=MAX_MESSAGE_SIZE, logger=_logger)
    pipe = WebSocketPipe(lower, turns, machine, path)
    machine.send_request(machine.connect())
    pipe.receiver = connected(pipe)
    pipe.flush()
    return pipe


def server_pipe(lower: BytePipe, turns: Turns, path: Path, connected: Connected) -> WebSocketPipe:
    """The server's end."""
    pipe = WebSocketPipe(lower, turns, ServerProtocol(max_size=MAX_MESSAGE_SIZE, logger=_logger), path)
    pipe.receiver = connected(pipe)
    return pipe


class _Reader(StreamReader):
    """What the core reads from. It asks before each frame whether more is to come, and waits while it gets no answer."""

    def __init__(self) -> None:
        super().__init__()
        self.frames_left = FRAMES_AT_ONCE

    @property
    def stopped(self) -> bool:
        """Something has come at which the core may not have looked."""
        return not self.frames_left and bool(self.buffer)

    def at_eof(self) -> Generator[None, None, bool]:
        while True:
            if not self.buffer:
                if self.eof:
                    return True
            elif self.frames_left:
                self.frames_left -= 1
                return False
            yield


class WebSocketPipe:
    """One end of a WebSocket over ``lower``. What is written before the handshake has ended waits for that."""

    receiver: PipeReceiver

    def __init__(self, lower: BytePipe, turns: Turns, machine: ClientProtocol | ServerProtocol, path: Path) -> None:
        self.remote_address = lower.remote_address.encapsulate(Multiaddr.parse("/ws"))
        self.local_address = lower.local_address
        self.path = path
        self.receiver = NullReceiver()
        self._lower = lower
        self._machine = machine
        self._reader = machine.reader = _Reader()
        machine.parser = machine.parse()  # anew: it had begun with another reader
        next(machine.parser)
        self._intake = Intake(lower, turns, self._work, self._tell_end)
        self._allowance = Allowance()
        self._events: deque[Request | Response | Frame] = deque()
        """What the core has told and was not handled yet."""
        self._waiting: list[bytes | bytearray] = []
        """What was written before the handshake's end."""
        self._head_size = 0
        self._error: WebSocketError | None = None
        self._paused = False
        self._closing = False

    # -- as a pipe -------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray) -> None:
        state = self._machine.state
        if state is State.CONNECTING:
            self._waiting.append(data)
        elif state is State.OPEN:  # else the remote has closed, and reads no more
            self._machine.send_binary(data)
            self.flush()

    def pause_reading(self) -> None:
        self._intake.pause()

    def resume_reading(self) -> None:
        self._intake.resume()

    def close(self) -> None:
        if not self._closing:
            if self._machine.state is State.OPEN:
                self._machine.send_close(CloseCode.NORMAL_CLOSURE)
            self._end()

    def abort(self) -> None:
        self._closing = True
        self._intake.drop()
        self._lower.abort()

    def flush(self) -> None:
        """Sends what the core has to send."""
        data = b"".join(self._machine.data_to_send())
        if data and not self._closing:
            self._lower.write(data)

    # -- as the lower pipe's receiver ------------------------------------------------------------

    def data_received(self, data: memoryview) -> None:
        if self._closing:
            return
        machine = self._machine
        if machine.state is State.CONNECTING:
            if not self._head_size and data[0] in RECORD_TYPES:
                if isinstance(machine, ServerProtocol):
                    self._lower.write(NO_HTTP)
                self._fail("expected HTTP, got TLS, for which an address ends in /tls/ws")
                return
            self._head_size += len(data)
        self._feed(data)
        if self._events or machine.state is not State.OPEN:  # else a part of a frame came
            self._intake.go_on()

    def pipe_closed(self, error: Exception | None) -> None:
        self._intake.end(error)

    def pause_writing(self) -> None:
        self._paused = True
        self.receiver.pause_writing()

    def resume_writing(self) -> None:
        self._paused = False
        self.receiver.resume_writing()

    # -- details ---------------------------------------------------------------------------------

    def _feed(self, data: memoryview | bytes) -> None:
        """Has the core go on."""
        self._reader.frames_left = FRAMES_AT_ONCE
        self._machine.receive_data(data)  # type: ignore[arg-type]  # it copies what it is given
        self._events += self._machine.events_received()

    def _work(self) -> bool:
        """Handles what the core has told, and has it go on."""
        machine, events = self._machine, self._events
        if len(events) > 1 and isinstance(events[0], Request):
            self._fail("got frames before the handshake had ended")  # the core would take them in a state of its own
            return False
        while events:
            if self._intake.paused:
                return True
            self._handle(events.popleft())
            if self._closing:
                return False
        error = machine.handshake_exc or machine.parser_exc
        if error is not None:
            self._fail(str(error))
        elif machine.state is State.CONNECTING and self._head_size > MAX_HEAD_SIZE:
            self._fail(f"expected an HTTP head of at most {MAX_HEAD_SIZE:,} bytes")
        elif machine.state is State.CLOSING:
            self._end()
        elif self._paused:
            machine.data_to_send()  # pongs: what the remote does not read is dropped, and an answer to the last ping is enough
        else:
            self.flush()
        if self._closing or not self._reader.stopped:
            return False
        self._feed(b"")
        return True

    def _handle(self, event: Request | Response | Frame) -> None:
        if isinstance(event, Frame):
            if event.opcode is Opcode.TEXT:
                self._machine.fail(CloseCode.UNSUPPORTED_DATA, "binary messages only")
                self._fail("expected binary messages, got text")
            elif event.data and event.opcode in {Opcode.BINARY, Opcode.CONT}:
                self.receiver.data_received(memoryview(event.data))
            elif event.opcode is not Opcode.CLOSE and not self._allowance.take():
                self._machine.fail(CloseCode.POLICY_VIOLATION, "too many frames without data")
                self._fail(f"expected data, got more than {EMPTY_PER_SECOND:g} frames a second without any")
            return
        if isinstance(event, Request) and isinstance(self._machine, ServerProtocol):
            self._machine.send_response(self._machine.accept(event))
        if self._machine.handshake_exc is None:
            waiting, self._waiting = self._waiting, []
            for data in waiting:
                self.write(data)

    def _tell_end(self, error: Exception | None) -> None:
        machine = self._machine
        connecting = machine.state is State.CONNECTING
        if connecting and self._error is None and not isinstance(error, TlsError):  # TLS's says more
            machine.receive_eof()  # an HTTP response may end with the connection
            self._error = WebSocketError(str(machine.handshake_exc or "the connection ended before it was open"))
            self._error.__cause__ = error
        self._closing = True
        self.receiver.pipe_closed(self._error or error)

    def _fail(self, reason: str) -> None:
        self._error = WebSocketError(reason)
        self._end()

    def _end(self) -> None:
        """Sends what explains the end, a close frame or an HTTP response, and ends the pipe below."""
        self.flush()
        self._closing = True
        self._intake.drop()
        self._lower.close()
