"""The HTTP handshake of a WebSocket (RFC 6455, section 4), without I/O. Imported on first use: its machine takes 50 ms to
import."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from http import HTTPStatus
from typing import Final

from websockets.client import ClientProtocol
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.streams import StreamReader
from websockets.uri import WebSocketURI

from ..wire import multistream
from .tls_pipe import RECORD_TYPES

__all__ = ["MAX_HEAD_SIZE", "Handshake"]

MAX_HEAD_SIZE: Final = 16 * 1024
"""Bytes of an HTTP head: browsers and proxies send one or two thousand."""

BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
"""The answer to what is no HTTP, such as TLS: the client sees at once what is here."""

_logger: Final = logging.getLogger("stronghold_p2p.websocket")
"""For the machine, whose errors are raised elsewhere."""
_logger.propagate = False


class _Reader(StreamReader):
    """What the machine reads from. It is to read the head alone: behind it, it never learns whether more is to come."""

    def at_eof(self) -> Generator[None, None, bool]:
        while True:
            yield


class Handshake:
    """One side. It has ended when :attr:`error` is set, or :attr:`done`; send what there is to send in either case."""

    def __init__(self, machine: ClientProtocol | ServerProtocol) -> None:
        self.done = False
        self.error: str | None = None
        self._machine = machine
        self._server = machine if isinstance(machine, ServerProtocol) else None
        self._request: Request | None = None
        self._size = 0
        self._outbound = b""
        machine.reader = _Reader()
        machine.parser = machine.parse()  # anew: it had begun with another reader
        next(machine.parser)

    @classmethod
    def of_client(cls, host: str, port: int, *, secure: bool) -> Handshake:
        """``host``, a name or an IP address, and ``port`` are for the request; ``secure``: over TLS."""
        # Not parsed: a remote may have told us the name.
        machine = ClientProtocol(WebSocketURI(secure, host, port, path="/", query=""), logger=_logger)
        machine.send_request(machine.connect())
        return cls(machine)

    @classmethod
    def of_server(cls) -> Handshake:
        return cls(ServerProtocol(logger=_logger))

    @property
    def requested(self) -> bool:
        """A client's request waits for :meth:`accept` or :meth:`reject`."""
        return self._request is not None

    def header(self, name: str) -> Sequence[str]:
        """The values in the request."""
        assert self._request is not None
        return self._request.headers.get_all(name)

    def receive_data(self, data: memoryview) -> None:
        """Takes a piece of the stream, which is not empty."""
        if not self._size and (other := _other_protocol(data)) is not None:
            self._refuse(other)
            return
        self._size += len(data)
        self._machine.receive_data(data)  # type: ignore[arg-type]  # it copies what it is given
        for event in self._machine.events_received():
            if isinstance(event, Request) and self._size <= MAX_HEAD_SIZE:
                self._request = event
                return
        self._look()

    def receive_eof(self) -> None:
        """The stream has ended; so may an HTTP response. There is an error then."""
        self._machine.receive_eof()
        self.error = str(self._machine.handshake_exc or "the connection ended before it was open")

    def accept(self) -> None:
        """Answers the request, and agrees to it if it is one for a WebSocket."""
        assert self._server is not None
        assert self._request is not None
        self._respond(self._server.accept(self._request))

    def reject(self, reason: str) -> None:
        """Answers the request that there is none."""
        assert self._server is not None
        self._respond(self._server.reject(HTTPStatus.BAD_REQUEST, f"{reason}\n"))
        self.error = reason

    def data_to_send(self) -> bytes:
        data = self._outbound + b"".join(self._machine.data_to_send())
        self._outbound = b""
        return data

    def data_behind(self) -> bytes:
        """What has come behind the head."""
        return bytes(self._machine.reader.buffer)

    def _respond(self, response: Response) -> None:
        assert self._server is not None
        self._request = None
        self._server.send_response(response)
        self._look()

    def _look(self) -> None:
        """Sees what has become of it."""
        machine = self._machine
        if machine.handshake_exc is not None:
            self._outbound = b"".join(machine.data_to_send())
            self._refuse(str(machine.handshake_exc))
        elif machine.state is State.OPEN:
            self.done = True
        elif self._size > MAX_HEAD_SIZE:
            self._refuse(f"expected an HTTP head of at most {MAX_HEAD_SIZE:,} bytes")

    def _refuse(self, reason: str) -> None:
        self.error = reason
        if self._server is not None and not self._outbound:
            self._outbound = BAD_REQUEST


def _other_protocol(data: memoryview) -> str | None:
    """What is wrong with something that is no HTTP."""
    if data[0] in RECORD_TYPES:
        return "expected HTTP, got TLS, for which an address ends in /tls/ws"
    if data[0] == multistream.HEADER[0]:
        return "expected HTTP, got libp2p without a WebSocket, for which an address ends before /ws"
    return None
