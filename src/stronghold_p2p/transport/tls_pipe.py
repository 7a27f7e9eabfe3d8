"""TLS as a byte pipe over another one, by OpenSSL without its sockets."""

from __future__ import annotations

import ssl
from typing import Final

from ..errors import TlsError
from ..events import Path
from ..multiaddr import Multiaddr
from ..resources.turns import Turns
from .intake import EMPTY_PER_SECOND, Allowance, Intake
from .pipe import BytePipe, NullReceiver, PipeReceiver
from .transport import Connected

__all__ = ["TlsPipe", "client_pipe", "server_pipe"]

SUFFIX: Final = Multiaddr.parse("/tls")

RECORD_TYPES: Final = range(20, 24)
"""The first byte of whatever TLS sends (RFC 8446, section 5.1): no text begins so, and no line of multistream-select."""

OTHERS: Final = {
    b"HTTP/": ", for which an address ends in /ws without /tls before it",
    b"\x13/multistream/": ", for which an address ends before /tls/ws",
}
"""What a server may answer that is none of TLS, and what to do about it."""

NO_TLS_ALERT: Final = b"\x15\x03\x01\x00\x02\x02\x46"
"""The answer to what is no TLS: a fatal alert, "protocol version"."""

HEAD_SIZE: Final = 5
"""Bytes before a record: its type, a version, its length."""

RECORD_SIZE: Final = 16 * 1024
"""Bytes of data in a record at most."""

RECORDS_AT_ONCE: Final = 32
"""Records that OpenSSL gets at once: it would work on any number of those without data in one call."""

MAX_ANSWERS: Final = 16 * 1024
"""Bytes that OpenSSL has to answer, a new key for each that is asked for, while the remote does not read."""

FAULTS: Final = {
    9: "that is not valid yet",
    10: "that has expired",
    18: "that is self-signed, and not trusted",
    19: "of an authority that is not trusted",
    20: "of an authority that is not trusted",
    62: "for another name",
    64: "for another IP address",
}
"""What may be wrong with a certificate, by OpenSSL's number (x509_vfy.h)."""


def client_pipe(
    lower: BytePipe, turns: Turns, context: ssl.SSLContext, host: str, path: Path, connected: Connected
) -> TlsPipe:
    """The client's end. The server's certificate must be for ``host``, a name or an IP address; a name is also what the
    server is told."""
    pipe = TlsPipe(lower, turns, context, host, path)
    pipe.receiver = connected(pipe)
    pipe.advance()
    return pipe


def server_pipe(lower: BytePipe, turns: Turns, context: ssl.SSLContext, path: Path, connected: Connected) -> TlsPipe:
    """The server's end."""
    pipe = TlsPipe(lower, turns, context, None, path)
    pipe.receiver = connected(pipe)
    return pipe


class TlsPipe:
    """One end of TLS over ``lower``; the client's, if there is a ``host``. What is written before the handshake has ended
    waits for that."""

    receiver: PipeReceiver
    allowance = None

    def __init__(self, lower: BytePipe, turns: Turns, context: ssl.SSLContext, host: str | None, path: Path) -> None:
        self.local_address = lower.local_address
        self.path = path
        self.receiver = NullReceiver()
        self._lower = lower
        self._host = host
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=host is None, server_hostname=host)
        self._waiting: list[bytes | bytearray | memoryview] = []
        """What was written before the handshake's end."""
        self._intake = Intake(lower, turns, self._work, self._tell_end)
        self._allowance = Allowance()
        self._input = memoryview(b"")
        """What has come and OpenSSL has not got."""
        self._missing = 0
        """Bytes of the record that it has got a part of."""
        self._records = 0
        """Those that it has got and was not asked for."""
        self._begun = False
        """A byte has come."""
        self._open = False
        """The handshake has ended."""
        self._error: TlsError | None = None
        self._paused = False
        self._closing = False

    @property
    def remote_address(self) -> Multiaddr:
        return self._lower.remote_address.encapsulate(SUFFIX)

    # -- as a pipe -------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing:
            return
        if self._open:
            self._tls.write(data)
            self._flush()
        else:
            self._waiting.append(data)

    def pause_reading(self) -> None:
        self._intake.pause()

    def silence(self) -> float:
        return self._lower.silence()  # which is paused while anything waits here

    def resume_reading(self) -> None:
        self._intake.resume()

    def close(self) -> None:
        if self._closing:
            return
        if self._open:
            try:
                self._tls.unwrap()  # says that no more follows
            except ssl.SSLError:
                pass  # the remote has not said so yet
        self._end()

    def abort(self) -> None:
        self._closing = True
        self._intake.drop()
        self._lower.abort()

    # -- as the lower pipe's receiver ------------------------------------------------------------

    def data_received(self, data: memoryview) -> None:
        if self._closing:
            return
        if not self._begun:
            self._begun = True
            if data[0] not in RECORD_TYPES:
                if self._host is None:
                    self._outgoing.write(NO_TLS_ALERT)
                begin = bytes(data[:20])
                hint = next((hint for start, hint in OTHERS.items() if begin.startswith(start)), "")
                self._fail(f"expected TLS, got {begin!r}{hint}")
                return
        self._input = data if not self._input else memoryview(bytes(self._input) + data)
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
        self._flush()
        self.receiver.resume_writing()

    # -- details ---------------------------------------------------------------------------------

    def advance(self) -> None:
        """Goes on as far as what OpenSSL has got allows, and the receiver."""
        try:
            if not self._open:
                self._tls.do_handshake()
                self._open = True
                waiting, self._waiting = self._waiting, []
                for data in waiting:
                    self.write(data)
            while not (self._closing or self._intake.paused):
                data = self._tls.read(RECORD_SIZE)
                if data:
                    self._records -= 1
                    self.receiver.data_received(memoryview(data))
                else:
                    self.close()  # the remote has said that no more follows
        except ssl.SSLWantReadError:
            if not self._paused:
                self._flush()
            elif self._outgoing.pending > MAX_ANSWERS:
                self._error = TlsError("the remote asks for new keys, and does not read")
                self.abort()
                return
            self._count_empty()
        except ssl.SSLCertVerificationError as error:
            fault = FAULTS.get(error.verify_code, f"that is not valid: {error.verify_message}")
            self._fail(f"expected a certificate for {self._host}, got one {fault}", error)
        except ssl.SSLError as error:
            self._fail(_words(error), error)

    def _work(self) -> bool:
        if not self._records:
            self._feed()
        if self._records:
            self.advance()
        return not self._closing and (bool(self._records) or len(self._input) >= HEAD_SIZE)

    def _feed(self) -> None:
        """Gives OpenSSL some of the records that have come, and a part of the one that is coming."""
        data, end = self._input, self._missing
        size, records = len(data), int(0 < end)
        while records < RECORDS_AT_ONCE and end + HEAD_SIZE <= size:
            end += HEAD_SIZE + (data[end + 3] << 8 | data[end + 4])
            records += 1
        if end > size:
            records -= 1
        self._records = records
        self._missing = max(end - size, 0)
        self._incoming.write(data[:end])
        self._input = data[end:]

    def _count_empty(self) -> None:
        """OpenSSL has no data more: what is left of the records had none."""
        records, self._records = self._records, 0
        for _ in range(records):
            if not self._allowance.take():
                self._fail(f"expected data, got more than {EMPTY_PER_SECOND:g} records a second without any")
                return

    def _tell_end(self, error: Exception | None) -> None:
        if self._error is None and not self._open and not self._closing:
            self._error = TlsError("expected a handshake, but the remote ended the connection")
            self._error.__cause__ = error
        self._closing = True
        self.receiver.pipe_closed(self._error or error)

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._lower.write(self._outgoing.read())

    def _fail(self, reason: str, cause: Exception | None = None) -> None:
        self._error = TlsError(reason)
        self._error.__cause__ = cause
        self._end()

    def _end(self) -> None:
        """Sends what explains the end, an alert, and ends the pipe below."""
        self._flush()
        self._closing = True
        self._intake.drop()
        self._lower.close()


def _words(error: ssl.SSLError) -> str:
    """In OpenSSL's, such as ``TLSV1_ALERT_UNKNOWN_CA``."""
    known: str | None = getattr(error, "reason", None)  # it may be None, which its declared type denies
    kind, alert, reason = (known or "protocol error").replace("_", " ").lower().partition(" alert ")
    return f"the remote ended the handshake: {reason}" if alert else kind
