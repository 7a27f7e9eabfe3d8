"""A WebSocket as a byte pipe over another one (RFC 6455). Imported on first use: the package for its handshake takes 50 ms
to import."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Generator
from http import HTTPStatus
from typing import Final

from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.exceptions import ProtocolError
from websockets.frames import OK_CLOSE_CODES, Close, CloseCode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.streams import StreamReader
from websockets.uri import WebSocketURI

from ..errors import TlsError, WebSocketError
from ..events import Path
from ..multiaddr import Multiaddr
from ..resources.turns import Turns
from ..wire import multistream
from ..wire.websocket import BINARY, CLOSE, PING, PONG, TEXT, Frame, FrameReader, encode_frame
from .intake import EMPTY_PER_SECOND, Allowance, Intake
from .pipe import BytePipe, NullReceiver, PipeReceiver
from .tls_pipe import RECORD_TYPES
from .transport import Connected

__all__ = ["MAX_HEAD_SIZE", "WebSocketPipe", "client_pipe", "server_pipe"]

MAX_HEAD_SIZE: Final = 16 * 1024
"""Bytes of an HTTP head: browsers and proxies send one or two thousand."""

BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
"""The answer to what is no HTTP, such as TLS: the client sees at once what is here."""

MAX_REASON: Final = 123
"""Bytes of the reason in a close frame; ours are ASCII."""

SUFFIX: Final = Multiaddr.parse("/ws")

_logger: Final = logging.getLogger("stronghold_p2p.websocket")
"""For the handshake's machine, whose errors are raised here."""
_logger.propagate = False


def client_pipe(
    lower: BytePipe, turns: Turns, host: str, port: int, path: Path, connected: Connected, *, secure: bool
) -> WebSocketPipe:
    """The client's end. ``host``, a name or an IP address, and ``port`` are for the request; ``secure``: over TLS."""
    uri = WebSocketURI(secure, host, port, path="/", query="")  # not parsed: a remote may have told us the name
    machine = ClientProtocol(uri, logger=_logger)
    pipe = WebSocketPipe(lower, turns, machine, path)
    machine.send_request(machine.connect())
    pipe.receiver = connected(pipe)
    pipe.send_handshake()
    return pipe


def server_pipe(
    lower: BytePipe,
    turns: Turns,
    path: Path,
    connected: Connected,
    readdress: Callable[[Headers, BytePipe], None] | None = None,
) -> WebSocketPipe:
    """The server's end. ``readdress`` gets the headers of the request before that is accepted, and may raise
    WebSocketError: it must not be."""
    pipe = WebSocketPipe(lower, turns, ServerProtocol(logger=_logger), path, readdress)
    pipe.receiver = connected(pipe)
    return pipe


class _Reader(StreamReader):
    """What the handshake's machine reads from. It is to read the head alone: behind it, it never learns whether more is
    to come."""

    def at_eof(self) -> Generator[None, None, bool]:
        while True:
            yield


class WebSocketPipe:
    """One end of a WebSocket over ``lower``. What is written before the handshake has ended waits for that."""

    receiver: PipeReceiver

    def __init__(
        self,
        lower: BytePipe,
        turns: Turns,
        machine: ClientProtocol | ServerProtocol,
        path: Path,
        readdress: Callable[[Headers, BytePipe], None] | None = None,
    ) -> None:
        self.path = path
        self.receiver = NullReceiver()
        self._lower = lower
        self._is_client = isinstance(machine, ClientProtocol)
        self._readdress = readdress
        self._machine: ClientProtocol | ServerProtocol | None = machine
        """For the handshake; None after it."""
        machine.reader = _Reader()
        machine.parser = machine.parse()  # anew: it had begun with another reader
        next(machine.parser)
        self._head_size = 0
        self._waiting: list[bytes | bytearray] = []
        """What was written before the handshake's end."""
        self._frames = FrameReader(masked=not self._is_client)
        self._input = memoryview(b"")
        """What has come and was not worked on."""
        self._intake = Intake(lower, turns, self._work, self._tell_end)
        self._allowance = Allowance()
        self._error: WebSocketError | None = None
        self._paused = False
        self._closing = False

    @property
    def remote_address(self) -> Multiaddr:
        return self._lower.remote_address.encapsulate(SUFFIX)

    # -- as a pipe -------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray) -> None:
        if self._machine is not None:
            self._waiting.append(data)
        elif not self._closing:
            self._send(BINARY, data)

    def pause_reading(self) -> None:
        self._intake.pause()

    def resume_reading(self) -> None:
        self._intake.resume()

    def close(self) -> None:
        if not self._closing:
            if self._machine is None:
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
        if self._machine is not None:
            data = self._shake_hands(self._machine, data)
            if not data:
                return
        self._input = data
        self._intake.go_on()
        if self._input:
            self._input = memoryview(bytes(self._input))  # what is left has to be copied

    def pipe_closed(self, error: Exception | None) -> None:
        self._intake.end(error)

    def pause_writing(self) -> None:
        self._paused = True
        self.receiver.pause_writing()

    def resume_writing(self) -> None:
        self._paused = False
        self.receiver.resume_writing()

    # -- the handshake ---------------------------------------------------------------------------

    def _shake_hands(self, machine: ClientProtocol | ServerProtocol, data: memoryview) -> memoryview:
        """Works on a part of the HTTP head, and returns what follows it."""
        if not self._head_size and self._is_no_http(data):
            return memoryview(b"")
        self._head_size += len(data)
        machine.receive_data(data)  # type: ignore[arg-type]  # it copies what it is given
        for event in machine.events_received():
            if isinstance(machine, ServerProtocol) and isinstance(event, Request):
                self._accept(machine, event)
            if self._closing:
                return memoryview(b"")
        answered = self.send_handshake()
        if machine.handshake_exc is not None:
            self._refuse_head(str(machine.handshake_exc), answered=answered)
        elif machine.state is State.OPEN:
            return self._begin(memoryview(machine.reader.buffer))
        elif self._head_size > MAX_HEAD_SIZE:
            self._refuse_head(f"expected an HTTP head of at most {MAX_HEAD_SIZE:,} bytes")
        return memoryview(b"")

    def _is_no_http(self, data: memoryview) -> bool:
        """Says what the remote speaks instead, if that is known."""
        if data[0] in RECORD_TYPES:
            reason = "expected HTTP, got TLS, for which an address ends in /tls/ws"
        elif data[:1] == multistream.HEADER[:1]:
            reason = "expected HTTP, got libp2p without a WebSocket, for which an address ends before /ws"
        else:
            return False
        self._refuse_head(reason)
        return True

    def _accept(self, machine: ServerProtocol, request: Request) -> None:
        """Answers a request."""
        response = None
        if self._readdress is not None:
            try:
                self._readdress(request.headers, self)
            except WebSocketError as error:
                response = machine.reject(HTTPStatus.BAD_REQUEST, f"{error.reason}\n")
                self._error = error
            if self._closing:
                return  # whoever the request comes from is refused
        if response is None:
            response = machine.accept(request)
        machine.send_response(response)

    def _begin(self, data: memoryview) -> memoryview:
        """The handshake has ended, and ``data`` came behind it."""
        self._machine = None
        if data and not self._is_client:
            self._fail("got frames before the handshake had ended")
            return memoryview(b"")
        waiting, self._waiting = self._waiting, []
        for written in waiting:
            self.write(written)
        return data

    def _refuse_head(self, reason: str, *, answered: bool = False) -> None:
        if not answered and not self._is_client:
            self._lower.write(BAD_REQUEST)
        self._fail(reason)

    def send_handshake(self) -> bool:
        """Sends what the handshake's machine has to send, if it has."""
        assert self._machine is not None
        data = b"".join(self._machine.data_to_send())
        if data:
            self._lower.write(data)
        return bool(data)

    # -- frames ----------------------------------------------------------------------------------

    def _work(self) -> bool:
        """Works on a frame, and returns whether more may be there."""
        try:
            frame, self._input = self._frames.read(self._input)
        except WebSocketError as error:
            self._refuse(CloseCode.PROTOCOL_ERROR, error.reason)
            return False
        if frame is not None:
            self._handle(frame)
        return bool(self._input) and not self._closing

    def _handle(self, frame: Frame) -> None:
        opcode, data = frame
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

    def _send(self, opcode: int, data: bytes | bytearray) -> None:
        self._lower.write(encode_frame(opcode, data, secrets.token_bytes(4) if self._is_client else b""))

    def _refuse(self, code: CloseCode, reason: str) -> None:
        """The remote has sent what must not be, and hears so."""
        self._send(CLOSE, Close(code, reason[:MAX_REASON]).serialize())
        self._fail(reason)

    # -- the end ---------------------------------------------------------------------------------

    def _tell_end(self, error: Exception | None) -> None:
        machine = self._machine
        if machine is not None and self._error is None and not isinstance(error, TlsError):  # TLS's says more
            machine.receive_eof()  # an HTTP response may end with the connection
            self._error = WebSocketError(str(machine.handshake_exc or "the connection ended before it was open"))
            self._error.__cause__ = error
        self._closing = True
        self.receiver.pipe_closed(self._error or error)

    def _fail(self, reason: str) -> None:
        self._error = self._error or WebSocketError(reason)
        self._end()

    def _end(self) -> None:
        """Ends the pipe below, after what explains that."""
        self._closing = True
        self._intake.drop()
        self._lower.close()
