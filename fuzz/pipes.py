"""What stands over a pipe or a stream: TLS, the WebSocket, a proxy's headers, messages."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fuzz.target import Outcome, framed, outcome, pieces, target
from stronghold_p2p.encoding import varint
from stronghold_p2p.errors import TlsError, WebSocketError
from stronghold_p2p.events import Path
from stronghold_p2p.multiaddr import Multiaddr
from stronghold_p2p.requests.message import MessageReader
from stronghold_p2p.resources.turns import Turns
from stronghold_p2p.transport import forwarding, tls_pipe, websocket_pipe
from stronghold_p2p.transport.pipe import PipeReceiver
from stronghold_p2p.wire import multistream
from stronghold_p2p.wire.websocket import BINARY, CLOSE, PING, encode_frame

__all__ = ["TARGETS"]


class LowerPipe:
    """A byte pipe that leads nowhere."""

    receiver: PipeReceiver
    allowance = None
    remote_address = Multiaddr.parse("/ip4/192.0.2.1/tcp/1")
    local_address: Multiaddr | None = None
    path = Path("tcp")

    def __init__(self) -> None:
        self.sent = bytearray()
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def silence(self) -> float:
        return 0.0

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


class Receiver:
    """Counts what comes out of a pipe."""

    def __init__(self) -> None:
        self.received = 0
        self.ended: list[Exception | None] = []

    def data_received(self, data: memoryview) -> None:
        assert data, "no data would be taken for an end"
        self.received += len(data)

    def pipe_closed(self, error: Exception | None) -> None:
        self.ended.append(error)

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class NoLoop:
    """What waits for its turn gets none: it never waits, since the turn has no end."""

    def call_soon(self, callback: Callable[[], None]) -> None: ...


def drive(pipe: PipeReceiver, lower: LowerPipe, parts: Iterable[bytes], bound: int) -> None:
    """Has these come to the pipe, and the end after them. Its answers have ``bound`` bytes at most."""
    before = len(lower.sent)
    for part in parts:
        if lower.closed:
            break
        pipe.data_received(memoryview(part))
    assert len(lower.sent) - before <= bound, "answers are bounded"
    pipe.pipe_closed(None)


# -- TLS ----------------------------------------------------------------------------------------------


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's, with a certificate for 127.0.0.1, and that of who trusts it."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=True)
        .sign(key, hashes.SHA256())
    ).public_bytes(Encoding.PEM)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.flush()
        server.load_cert_chain(file.name)
    return server, ssl.create_default_context(cadata=certificate.decode())


class TlsClient:
    """OpenSSL's, by hand."""

    def __init__(self) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = contexts()[1].wrap_bio(self.incoming, self.outgoing, server_hostname="127.0.0.1")

    def shake(self, answer: bytes | bytearray = b"") -> memoryview:
        """What it sends next."""
        self.incoming.write(answer)
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return memoryview(self.outgoing.read())


def tls_seeds() -> Iterator[bytes]:
    """Its keys are others each time."""
    for cut in (0, 1, 100):
        yield bytes((0, cut)) + bytes(TlsClient().shake())
        yield bytes((1, cut, 40)) + b"hello" * 40
        yield bytes((1, cut, 1)) + b"a\x17\x03\x03\xff\xff" + bytes(1000)
        yield bytes((2, cut)) + tls_pipe.NO_TLS_ALERT
        yield bytes((2, cut)) + b"\x16\x03\x03\x00\x04\x02\0\0\0" + b"\x14\x03\x03\x00\x01\x01" * 70
        yield bytes((2, cut)) + b"HTTP/1.1 200 OK\r\n\r\n"
    yield b"\0\0" + REQUEST


@target("tls-pipe", seeds=tls_seeds, max_size=20_000)
def fuzz_tls(data: bytes) -> None:
    """TLS over a pipe: a server's before (0) and after (1) its handshake, or a client's (2). After it, as many records as the
    third byte says are the client's own, and what follows is anybody's."""
    role = data[0] % 3 if data else 0
    lower, receiver = LowerPipe(), Receiver()
    turns = Turns(NoLoop(), float("inf"))  # type: ignore[arg-type]
    server, client = contexts()
    if role == 2:
        pipe = tls_pipe.client_pipe(lower, turns, client, "127.0.0.1", Path("ws"), lambda pipe: receiver)
    else:
        pipe = tls_pipe.server_pipe(lower, turns, server, Path("ws"), lambda pipe: receiver)
    true = 0
    if role == 1:
        remote = TlsClient()
        pipe.data_received(remote.shake())
        pipe.data_received(remote.shake(lower.sent))
        true = min(data[2], len(data) - 3) if len(data) > 2 else 0
        for byte in data[3 : 3 + true]:
            remote.tls.write(bytes((byte,)))
        data = data[:2] + remote.outgoing.read() + data[3 + true :]
    _, parts = pieces(data[1:])
    drive(pipe, lower, parts, 4096 + 8 * len(data))
    assert receiver.received == true, "only what was sent is received"
    assert len(receiver.ended) == 1, "a pipe ends once"
    assert receiver.ended[0] is None or isinstance(receiver.ended[0], TlsError)


# -- the WebSocket ------------------------------------------------------------------------------------


REQUEST = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n"
)


def websocket_seeds() -> Iterator[bytes]:
    ping = encode_frame(PING, b"", b"\1\2\3\4")
    for cut in (0, 1, 50):
        yield bytes((0, cut)) + REQUEST + b"\r\n"
        yield (
            bytes((1, cut)) + encode_frame(BINARY, b"hello", b"\1\2\3\4") + ping * 3 + encode_frame(CLOSE, b"", b"abcd")
        )
        yield bytes((1, cut)) + encode_frame(CLOSE, b"\x03\xe8bye", b"abcd")
        yield bytes((1, cut)) + ping * 70
        yield bytes((2, cut)) + b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        yield bytes((2, cut)) + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
        for line in (b"Sec-WebSocket-Extensions: permessage-deflate\r\n", b"X-Forwarded-For: 1.2.3.4\r\n"):
            yield bytes((0, cut)) + REQUEST + line + b"\r\n"
    yield b"\0\0\x16\x03\x01"
    yield b"\0\0" + multistream.HEADER
    yield b"\0\0" + REQUEST + b"A: " + b"x" * 9000


@target("websocket-pipe", seeds=websocket_seeds, max_size=20_000)
def fuzz_websocket(data: bytes) -> None:
    """A whole WebSocket over a pipe: a server's before (0) and after (1) its handshake, or a client's (2)."""
    role = data[0] % 3 if data else 0
    lower, receiver = LowerPipe(), Receiver()
    turns = Turns(NoLoop(), float("inf"))  # type: ignore[arg-type]
    if role == 2:
        pipe = websocket_pipe.client_pipe(
            lower, turns, "example.org", 443, Path("ws"), lambda pipe: receiver, secure=False
        )
    else:
        pipe = websocket_pipe.server_pipe(lower, turns, Path("ws"), lambda pipe: receiver)
    if role == 1:
        pipe.data_received(memoryview(REQUEST + b"\r\n"))
    _, parts = pieces(data[1:])
    drive(pipe, lower, parts, 4096 + 8 * len(data))
    assert receiver.received <= len(data), "what comes out has come in"
    assert len(receiver.ended) == 1, "a pipe ends once"
    assert receiver.ended[0] is None or isinstance(receiver.ended[0], WebSocketError)


def forwarded_seeds() -> Iterator[bytes]:
    yield b"1.2.3.4, 10.0.0.1\n"
    yield b"[2001:db8::1]:80, 1.2.3.4:5\n"
    yield b'\nfor="[2001:db8::1]:80";proto=https, for=10.0.0.1;host="a\\"b"'
    yield b"1.2.3.4\nfor=1.2.3.4"
    yield b'\nfor="' + b"\\" * 60


@target("forwarded", WebSocketError, seeds=forwarded_seeds, max_size=16 * 1024)
def fuzz_forwarded(data: bytes) -> None:
    """A proxy's two headers, a line each, with what its client may have put there."""
    first, _, second = data.decode("latin-1").partition("\n")
    trusted = forwarding.parse_networks(["10.0.0.0/8"])
    forwarding.client_of([first] if first else [], [second] if second else [], trusted)


# -- messages on a stream -----------------------------------------------------------------------------

MAX_MESSAGE = 1000


class Held:
    """What a reader of messages asks of its stream, counted."""

    protocol = "/fuzz"

    def __init__(self) -> None:
        self.held = 0
        self.credited = 0

    def hold(self, size: int) -> None:
        self.held += size

    def let_go(self, size: int) -> None:
        self.held -= size
        assert self.held >= 0

    def credit(self, size: int) -> None:
        self.credited += size

    def expect(self, size: int) -> None:
        assert 0 < size <= MAX_MESSAGE + varint.MAX_LENGTH


def message_seeds() -> Iterator[bytes]:
    for cut in (0, 1, 3, 100):
        yield bytes((cut,)) + framed(b"hello", b"", b"x" * 200, b"y")
        yield bytes((cut,)) + framed(b"z" * MAX_MESSAGE) + varint.encode(MAX_MESSAGE + 1)
        yield bytes((cut,)) + b"\x80\x80"


def messages_in(parts: Iterable[bytes]) -> Outcome:
    stream = Held()
    reader = MessageReader(stream, MAX_MESSAGE)  # type: ignore[arg-type]
    found: list[bytes] = []
    came = 0

    def feed(part: bytes) -> None:
        nonlocal came
        came += len(part)
        message = reader.take(part)
        while message is not None:
            found.append(message)
            message = reader.next()
        assert stream.held == reader.kept, "what is kept counts"
        assert stream.credited <= came, "no window is given back twice"
        assert reader.kept <= MAX_MESSAGE + varint.MAX_LENGTH, "one message is kept at most"

    error = outcome(feed, parts)
    reader.drop()
    assert stream.held == 0
    return error, found


@target("message-reader", seeds=message_seeds)
def fuzz_messages(data: bytes) -> None:
    whole, parts = pieces(data)
    if not whole:
        return
    assert messages_in(parts) == messages_in([whole]), "where a stream is cut says nothing"


TARGETS = (fuzz_tls, fuzz_websocket, fuzz_forwarded, fuzz_messages)
