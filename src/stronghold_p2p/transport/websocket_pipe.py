"""A WebSocket as a byte pipe over another one (RFC 6455). Imported on first use, as what it imports is."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from websockets.exceptions import ProtocolError
from websockets.frames import OK_CLOSE_CODES, Close, CloseCode

from ..errors import TlsError, WebSocketError
from ..events import Path
from ..multiaddr import Multiaddr
from ..resources.turns import Turns
from ..wire.websocket import BINARY, CLOSE, PING, PONG, TEXT, Frame, FrameReader, encode_frame
from .intake import EMPTY_PER_SECOND, Allowance, Intake
from .pipe import BytePipe, NullReceiver, PipeReceiver
from .transport import Connected
from .websocket_handshake import Handshake

__all__ = ["Readdress", "WebSocketPipe", "client_pipe", "server_pipe"]

Readdress = Callable[[Handshake, BytePipe], None]
"""Called with each request, before that is accepted. Raises WebSocketError if it must not be."""

SMALL: Final = 16 * 1024
"""Bytes of a frame below which those of one read are joined. Their requests are then worked on at once, and what is written to
each of them shares a flush, as over TCP; larger ones are not worth the copy."""

TOGETHER: Final = 32
"""Frames that are joined at most."""

MAX_REASON: Final = 123
"""Bytes of the reason in a close frame; ours are ASCII."""

SUFFIX: Final = Multiaddr.parse("/ws")


def client_pipe(
    lower: BytePipe, turns: Turns, host: str, port: int, path: Path, connected: Connected, *, secure: bool
) -> WebSocketPipe:
    """The client's end. ``host``, a name or an IP address, and ``port`` are for the request; ``secure``: over TLS."""
    handshake = Handshake.of_client(host, port, secure=secure)
    pipe = WebSocketPipe(lower, turns, handshake, path, is_client=True)
    pipe.receiver = connected(pipe)
    lower.write(handshake.data_to_send())
    return pipe


def server_pipe(
    lower: BytePipe, turns: Turns, path: Path, connected: Connected, readdress: Readdress | None = None
) -> WebSocketPipe:
    """The server's end."""
    pipe = WebSocketPipe(lower, turns, Handshake.of_server(), path, readdress, is_client=False)
    pipe.receiver = connected(pipe)
    return pipe


class WebSocketPipe:
    """One end of a WebSocket over ``lower``. What is written before the handshake has ended waits for that."""

    receiver: PipeReceiver
    allowance = None

    def __init__(
        self,
        lower: BytePipe,
        turns: Turns,
        handshake: Handshake,
        path: Path,
        readdress: Readdress | None = None,
        *,
        is_client: bool,
    ) -> None:
        self.local_address = lower.local_address
        self.path = path
        self.receiver = NullReceiver()
        self._lower = lower
        self._is_client = is_client
        self._handshake: Handshake | None = handshake
        """None when it has ended."""
        self._readdress = readdress
        self._waiting: list[bytes | bytearray | memoryview] = []
        """What was written before the handshake's end."""
        self._frames = FrameReader(masked=not is_client)
        self._input = memoryview(b"")
        """What has come and was not worked on."""
        self._ahead: Frame | None = None
        """One that was read and not worked on."""
        self._intake = Intake(lower, turns, self._work, self._tell_end)
        self._allowance = Allowance()
        self._error: WebSocketError | None = None
        self._paused = False
        self._closing = False

    @property
    def remote_address(self) -> Multiaddr:
        return self._lower.remote_address.encapsulate(SUFFIX)

    # -- as a pipe -------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._handshake is not None:
            self._waiting.append(data)
        elif not self._closing:
            self._send(BINARY, data)

    def pause_reading(self) -> None:
        self._intake.pause()

    def silence(self) -> float:
        return self._lower.silence()  # which is paused while anything waits here

    def resume_reading(self) -> None:
        self._intake.resume()

    def close(self) -> None:
        if not self._closing:
            if self._handshake is None:
                self._send(CLOSE, Close(CloseCode.NORMAL_CLOSURE, "").serialize())
            self._end()

    def abort(self) -> None:
        self._closing = True
        self._intake.drop()
        self._lower.abort()

    # -- as the lower pipe's receiver ------------------------------------------------------------

    def data_received(self, data: memoryview) -> None:
        if self._closing:
            return
        if self._handshake is not None:
            data = self._shake_hands(self._handshake, data)
            if not data:
                return
        self._input = data
        self._intake.go_on()
        if self._input:  # what is left has to be copied
            self._input = memoryview(bytes(self._input))
        if self._ahead is not None:
            self._ahead = Frame(self._ahead.opcode, bytes(self._ahead.data))

    def pipe_closed(self, error: Exception | None) -> None:
        self._intake.end(error)

    def pause_writing(self) -> None:
        self._paused = True
        self.receiver.pause_writing()

    def resume_writing(self) -> None:
        self._paused = False
        self.receiver.resume_writing()

    # -- details ---------------------------------------------------------------------------------

    def _shake_hands(self, handshake: Handshake, data: memoryview) -> memoryview:
        """Works on a part of the HTTP head, and returns what follows it."""
        handshake.receive_data(data)
        if handshake.requested:
            self._answer(handshake)
            if self._closing:
                return memoryview(b"")
        if answer := handshake.data_to_send():
            self._lower.write(answer)
        if handshake.error is not None:
            self._fail(handshake.error)
        if not handshake.done:
            return memoryview(b"")
        self._handshake = None
        behind = handshake.data_behind()
        if behind and not self._is_client:
            self._fail("got frames before the handshake had ended")
            return memoryview(b"")
        waiting, self._waiting = self._waiting, []
        for written in waiting:
            self.write(written)
        return memoryview(behind)

    def _answer(self, handshake: Handshake) -> None:
        if self._readdress is not None:
            try:
                self._readdress(handshake, self)
            except WebSocketError as error:
                handshake.reject(error.reason)
                return
            if self._closing:  # whoever the request comes from is refused
                return
        handshake.accept()

    def _work(self) -> bool:
        """Works on a frame, or on small ones together, and returns whether more may be there."""
        pieces: list[bytes | memoryview] = []
        try:
            while self._ahead is None and self._input and len(pieces) < TOGETHER:
                frame, self._input = self._frames.read(self._input)
                if (
                    frame is not None
                    and frame.opcode <= BINARY
                    and frame.opcode != TEXT
                    and 0 < len(frame.data) < SMALL
                ):
                    pieces.append(frame.data)
                else:
                    self._ahead = frame
        except WebSocketError as error:
            self._refuse(CloseCode.PROTOCOL_ERROR, error.reason)
            return False
        if pieces:
            self.receiver.data_received(memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces)))
        elif self._ahead is not None:
            frame, self._ahead = self._ahead, None
            self._handle(frame.opcode, frame.data)
        return (bool(self._input) or self._ahead is not None) and not self._closing

    def _handle(self, opcode: int, data: bytes | memoryview) -> None:
        if opcode == TEXT:
            self._refuse(CloseCode.UNSUPPORTED_DATA, "expected binary messages, got text")
        elif opcode < CLOSE and data:
            self.receiver.data_received(memoryview(data))
        elif opcode == CLOSE:
            self._remote_closes(bytes(data))
        elif not self._allowance.take():
            self._refuse(
                CloseCode.POLICY_VIOLATION,
                f"expected data, got more than {EMPTY_PER_SECOND:g} frames a second without any",
            )
        elif opcode == PING and not self._paused:  # else the pongs would pile up
            self._send(PONG, bytes(data))

    def _remote_closes(self, data: bytes) -> None:
        try:
            close = Close.parse(data)
        except (ProtocolError, UnicodeDecodeError) as error:
            self._refuse(CloseCode.PROTOCOL_ERROR, f"got a malformed close frame: {error}")
            return
        if close.code not in OK_CLOSE_CODES:
            reason = f": {close.reason!r}" if close.reason else ""
            self._error = WebSocketError(f"the remote closed it with code {Close(close.code, '')}{reason}")
        self._send(CLOSE, data)
        self._end()

    def _send(self, opcode: int, data: bytes | bytearray | memoryview) -> None:
        self._lower.write(encode_frame(opcode, data, os.urandom(4) if self._is_client else b""))

    def _refuse(self, code: CloseCode, reason: str) -> None:
        """The remote has sent what must not be, and hears so."""
        self._send(CLOSE, Close(code, reason[:MAX_REASON]).serialize())
        self._fail(reason)

    def _tell_end(self, error: Exception | None) -> None:
        handshake = self._handshake
        if handshake is not None and self._error is None and not isinstance(error, TlsError):  # TLS's says more
            handshake.receive_eof()
            self._error = WebSocketError(handshake.error or "")
            self._error.__cause__ = error
        self._closing = True
        self.receiver.pipe_closed(self._error or error)

    def _fail(self, reason: str) -> None:
        self._error = WebSocketError(reason)
        self._end()

    def _end(self) -> None:
        """Ends the pipe below, after what explains that."""
        self._closing = True
        self._intake.drop()
        self._lower.close()
