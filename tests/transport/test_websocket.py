"""WebSocket: whole peers over it, and HTTP and frames that are none."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from support.compiled import replaces_parts
from support.proxy import proxy
from support.recording_pipe import RecordingPipe
from support.waiting import next_event
from websockets.client import ClientProtocol
from websockets.uri import parse_uri
from websockets.utils import accept_key

from stronghold_p2p import (
    Config,
    ConnectionLost,
    DialError,
    FirewallRules,
    InboundConnectionFailed,
    Multiaddr,
    Path,
    StrongholdP2p,
    WebSocketError,
)
from stronghold_p2p.resources.turns import Turns
from stronghold_p2p.transport.intake import EMPTY_AT_ONCE
from stronghold_p2p.transport.pipe import BytePipe, NullReceiver, PipeReceiver
from stronghold_p2p.transport.websocket import WebSocketTransport
from stronghold_p2p.transport.websocket_handshake import MAX_HEAD_SIZE
from stronghold_p2p.transport.websocket_pipe import SMALL, TOGETHER, server_pipe
from stronghold_p2p.wire import multistream
from stronghold_p2p.wire.websocket import BINARY, CLOSE, FrameReader, encode_frame

LISTEN = "/ip4/127.0.0.1/tcp/0/ws"

Peer = StrongholdP2p


@asynccontextmanager
async def listening(address: str = LISTEN) -> AsyncIterator[tuple[Peer, Multiaddr]]:
    async with StrongholdP2p(firewall=FirewallRules.allow_all(), codec="raw") as peer:
        peer.on_request(lambda request: request.body)
        yield peer, await peer.listen(address)


# -- whole peers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [LISTEN, "/ip6/::1/tcp/0/ws"])
async def test_requests_over_a_websocket(address: str) -> None:
    async with listening(address) as (bob, target), StrongholdP2p(codec="raw") as alice:
        assert str(target).endswith(f"/ws/p2p/{bob.peer_id}")
        for size in 0, 1, 125, 126, 65_535, 65_536, 3_000_000:
            body = os.urandom(size)
            assert await alice.send_request(target, body) == body
        assert await alice.ping(target) > 0
        (info,) = alice.connections
        assert info.path == Path("ws", target.without_peer())
        assert info.address == target.without_peer()
        (info,) = bob.connections
        assert info.path == Path("ws", None)
        assert str(info.address).endswith("/ws")


async def test_many_requests_at_once() -> None:
    async with listening() as (_, target), StrongholdP2p(codec="raw") as alice:
        bodies = [os.urandom(size * 997 % 50_000) for size in range(100)]
        assert await asyncio.gather(*(alice.send_request(target, body) for body in bodies)) == bodies


async def test_tcp_and_websocket_beside_each_other() -> None:
    async with listening() as (bob, over_websocket), StrongholdP2p(codec="raw") as alice:
        over_tcp = await bob.listen("/ip4/127.0.0.1/tcp/0")
        assert await alice.send_request(over_tcp, b"1") == b"1"
        await alice.disconnect(bob.peer_id)
        assert await alice.send_request(over_websocket, b"2") == b"2"
        assert {listener.address for listener in bob.listeners} == {over_websocket, over_tcp}


async def test_a_wrong_identity_behind_a_websocket() -> None:
    async with listening() as (_, target), StrongholdP2p() as alice, StrongholdP2p() as carol:
        with pytest.raises(DialError, match="but the remote is"):
            await alice.connect(target.without_peer().with_peer(carol.peer_id))


async def test_a_websocket_where_plain_tcp_listens_and_the_reverse() -> None:
    async with listening() as (bob, websocket), StrongholdP2p() as alice:
        tcp = await bob.listen("/ip4/127.0.0.1/tcp/0")
        with pytest.raises(DialError, match="it speaks HTTP: if that is a WebSocket, append /ws"):
            await alice.connect(str(websocket).replace("/ws", ""))
        with pytest.raises(DialError, match="got libp2p without a WebSocket, for which an address ends before /ws"):
            await alice.connect(str(tcp).replace("/p2p", "/ws/p2p"))


async def test_what_it_supports() -> None:
    transport = WebSocketTransport(Config(), Turns(asyncio.get_running_loop(), 1.0))
    for host in "/ip4/1.2.3.4", "/ip6/::1", "/dns4/example.com":
        for form in "/ws", "/tls/ws", "/wss", "/tls/sni/example.com/ws":
            assert transport.supports(Multiaddr.parse(f"{host}/tcp/1{form}"))
    for address in (
        "/ip4/1.2.3.4/tcp/1",
        "/ip4/1.2.3.4/udp/1/ws",
        "/ws",
        "/ip4/1.2.3.4/tcp/1/tls",
        "/dns4/x/tcp/1/sni/x/ws",
    ):
        assert not transport.supports(Multiaddr.parse(address))


async def test_pongs_that_are_not_read_are_not_kept() -> None:
    """A remote that pings and does not read gets no answer until what was written has left."""
    pipes: list[BytePipe] = []

    def connected(pipe: BytePipe) -> PipeReceiver:
        pipes.append(pipe)
        return NullReceiver()

    lower = RecordingPipe()
    pipe = server_pipe(lower, Turns(asyncio.get_running_loop(), 1.0), Path("ws"), connected)
    pipe.data_received(memoryview(head(*UPGRADE)))
    lower.written.clear()
    pipe.data_received(memoryview(frame(9, b"one")))
    assert lower.written == [bytes([0x8A, 3]) + b"one"]
    pipe.pause_writing()
    pipe.data_received(memoryview(frame(9, b"two") * 50))
    pipe.resume_writing()
    pipe.data_received(memoryview(frame(9, b"six")))
    assert lower.written[1:] == [bytes([0x8A, 3]) + b"six"]


@replaces_parts
@pytest.mark.parametrize(
    "empty", [(9, b"?"), (9, b""), (10, b""), (0, b"")], ids=["ping", "empty ping", "pong", "continuation"]
)
async def test_frames_without_data_are_counted(empty: tuple[int, bytes]) -> None:
    receiver = Ended()
    lower = RecordingPipe()
    turns = Turns(asyncio.get_running_loop(), 1000.0)
    pipe = server_pipe(lower, turns, Path("ws"), lambda _: receiver)
    pipe.data_received(memoryview(head(*UPGRADE)))
    pipe.data_received(memoryview(frame(2, b"x", fin=False)))
    flood = frame(*empty, fin=empty[0] != 0)
    pipe.data_received(memoryview(flood * EMPTY_AT_ONCE))
    closed = [lower.closed]
    pipe.data_received(memoryview(flood * 10))
    assert [*closed, lower.closed] == [False, True]
    assert b"more than 10 frames a second without any" in lower.written[-1]
    pipe.pipe_closed(None)
    assert isinstance(receiver.error, WebSocketError)
    assert str(receiver.error) == "websocket: expected data, got more than 10 frames a second without any"


class Ended:
    """What came, and why the pipe has ended."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.error: Exception | None = None

    def data_received(self, data: memoryview) -> None:
        self.received.append(bytes(data))

    def pipe_closed(self, error: Exception | None) -> None:
        self.error = error

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


# -- a client that is none -----------------------------------------------------------------------------

KEY = base64.b64encode(bytes(16)).decode()


def head(*headers: str, line: str = "GET / HTTP/1.1") -> bytes:
    return "\r\n".join((line, *headers, "", "")).encode()


UPGRADE = (
    "Host: localhost",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    f"Sec-WebSocket-Key: {KEY}",
)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (head("Host: localhost"), b"426"),
        (head(*UPGRADE, line="POST / HTTP/1.1"), b"405"),
        (head(*UPGRADE, line="GET / HTTP/1.0"), b"505"),
        (head(*UPGRADE, "Content-Length: 5") + b"hello", b"400"),
        (head(*UPGRADE, "Transfer-Encoding: chunked") + b"0\r\n\r\n", b"400"),
        (head(*UPGRADE, *(f"X-{number}: y" for number in range(150))), b"431"),
        (head(*UPGRADE[:-1]), b"400"),
        (head(*UPGRADE[:-1], "Sec-WebSocket-Key: short"), b"400"),
        (head(*UPGRADE[:3], "Sec-WebSocket-Version: 12", UPGRADE[-1]), b"400"),
        (head(*UPGRADE, f"X-Long: {'x' * 9000}"), b"431"),
        (head(*UPGRADE, line=f"GET /{'x' * 9000} HTTP/1.1"), b"414"),
        (b"\x13/multistream/1.0.0\n", b"400"),
        (b"\xff" + os.urandom(100) + b"\n", b"400"),
    ],
    ids=[
        "no-upgrade",
        "post",
        "http-1.0",
        "body",
        "chunks",
        "many-lines",
        "no-key",
        "short-key",
        "version",
        "long-header",
        "long-path",
        "multistream",
        "random",
    ],
)
async def test_an_upgrade_that_is_none(sent: bytes, status: bytes) -> None:
    async with listening() as (bob, target):
        events = bob.events()
        answer = await say(target, sent)
        assert answer.startswith(b"HTTP/1.1 " + status)
        failed = await next_event(events, InboundConnectionFailed)
        assert isinstance(failed.error, WebSocketError)
        await still_serves(target)


@pytest.mark.parametrize(("lines", "size", "end"), [(120, 8000, "\r\n"), (100, 500, "")], ids=["endless", "whole"])
async def test_many_bytes_of_headers(lines: int, size: int, end: str) -> None:
    """A megabyte, or too many in one read."""
    async with listening() as (bob, target):
        events = bob.events()
        whole = head(*UPGRADE, *(f"X-{number}: {'x' * size}" for number in range(lines)))
        await say(target, whole.removesuffix(end.encode()))
        failed = await next_event(events, InboundConnectionFailed)
        assert isinstance(failed.error, WebSocketError)
        assert f"{MAX_HEAD_SIZE:,}" in str(failed.error)
        await still_serves(target)


def frame(opcode: int, data: bytes, *, fin: bool = True, mask: bool = True, rsv: int = 0, length: int = -1) -> bytes:
    size = len(data) if length < 0 else length
    first = opcode | fin << 7 | rsv << 4
    masked = mask << 7
    if size < 126:
        start = bytes([first, masked | size])
    elif size < 65_536:
        start = bytes([first, masked | 126]) + size.to_bytes(2)
    else:
        start = bytes([first, masked | 127]) + size.to_bytes(8)
    return start + bytes(4) * mask + data  # a mask of zeros changes nothing


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (frame(1, b"text"), "expected binary messages, got text"),
        (frame(2, b"x", rsv=4), "reserved bits"),
        (frame(2, b"x", rsv=2), "reserved bits"),
        (frame(2, b"x", mask=False), "expected a masked frame"),
        (frame(2, b"", length=2**63), "less than 2.63 bytes"),
        (frame(0, b"x"), "continuation"),
        (frame(2, b"\x13", fin=False) + frame(2, b"/"), "continuation"),
        (frame(3, b"x"), "opcode"),
        (frame(9, bytes(126)), "control frame of more than 125 bytes"),
        (frame(9, b"x", fin=False), "fragmented control frame"),
        (frame(8, b"x"), "malformed close frame: close frame too short"),
        (frame(8, b"\x03\xe8\xff"), "malformed close frame: 'utf-8' codec"),
        (frame(8, (1006).to_bytes(2)), "malformed close frame: invalid status code"),
    ],
    ids=[
        "text",
        "compressed",
        "reserved",
        "unmasked",
        "2^63",
        "stray",
        "nested",
        "opcode",
        "long-ping",
        "fragmented-ping",
        "short-close",
        "close-text",
        "close-1006",
    ],
)
async def test_frames_that_break_the_protocol(frames: bytes, reason: str) -> None:
    async with listening() as (bob, target):
        events = bob.events()
        answer = await say(target, head(*UPGRADE), frames)
        assert answer.startswith(b"HTTP/1.1 101")
        failed = await next_event(events, InboundConnectionFailed)
        assert isinstance(failed.error, WebSocketError)
        with pytest.raises(WebSocketError, match=reason):
            raise failed.error
        await still_serves(target)


async def test_small_frames_of_one_read_are_given_on_together() -> None:
    """But not with large ones, or beyond what stands between."""
    receiver = Ended()
    lower = RecordingPipe()
    pipe = server_pipe(lower, Turns(asyncio.get_running_loop(), 1000.0), Path("ws"), lambda _: receiver)
    pipe.data_received(memoryview(head(*UPGRADE)))
    large = bytes(SMALL)
    pieces = [b"a", b"b", large, b"c", large, large, b"d", b"e"]
    data = b"".join(frame(2, piece) for piece in pieces)
    pipe.data_received(memoryview(data + frame(9, b"ping") + frame(2, b"f") + frame(2, b"g")[:-1]))
    assert receiver.received == [b"ab", large, b"c", large, large, b"de", b"f"]
    assert lower.written[-1] == bytes([0x8A, 4]) + b"ping"
    pipe.data_received(memoryview(b"g"))
    assert receiver.received[7:] == [b"g"]
    pipe.data_received(memoryview(frame(2, b"h") * (TOGETHER + 1)))
    assert receiver.received[8:] == [b"h" * TOGETHER, b"h"]


async def test_empty_fragments_without_end() -> None:
    async with listening() as (bob, target):
        events = bob.events()
        await say(target, head(*UPGRADE), frame(2, b"", fin=False) + frame(0, b"", fin=False) * 100_000)
        failed = await next_event(events, InboundConnectionFailed)
        assert "more than 10 frames a second without any" in str(failed.error)
        await still_serves(target)


async def test_fragments_empty_ones_and_pings_between() -> None:
    """As go-libp2p sends messages over 4,096 bytes, and worse: the bytes are what they were."""
    hello = b"\x13/multistream/1.0.0\n\x07/noise\n"
    pieces = [hello[index : index + 1] for index in range(len(hello))]
    frames = frame(2, b"", fin=False) + frame(0, b"", fin=False) * 20
    frames += b"".join(frame(9, b"?") + frame(0, piece, fin=False) for piece in pieces) + frame(0, b"")
    async with listening() as (_, target):
        answer = await say(target, head(*UPGRADE), frames, until=b"/noise\n")
        assert answer.count(bytes([0x8A, 1]) + b"?") == len(pieces)


async def test_a_close_in_the_middle_of_the_handshake() -> None:
    async with listening() as (bob, target):
        events = bob.events()
        answer = await say(target, head(*UPGRADE), frame(2, b"\x13/multi") + frame(8, (1000).to_bytes(2)))
        assert answer.endswith(bytes([0x88, 2]) + (1000).to_bytes(2))
        assert "ended within the upgrade" in str((await next_event(events, InboundConnectionFailed)).error)
        await still_serves(target)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ((1000).to_bytes(2), None),
        ((1000).to_bytes(2) + b"closed", None),  # as go-libp2p closes
        (b"", None),  # as browsers do, which call it 1005
        ((1001).to_bytes(2), None),
        ((1009).to_bytes(2), "the remote closed it with code 1009 (message too big)"),
        ((1011).to_bytes(2) + b"\x1b[2J", r"the remote closed it with code 1011 (internal error): '\x1b[2J'"),
        ((4000).to_bytes(2), "the remote closed it with code 4000 (private use)"),
    ],
)
async def test_what_a_close_frame_says(sent: bytes, reason: str | None) -> None:
    """It is answered with the same, and ends the pipe."""
    receiver = Ended()
    lower = RecordingPipe()
    pipe = server_pipe(lower, Turns(asyncio.get_running_loop(), 1.0), Path("ws"), lambda _: receiver)
    pipe.data_received(memoryview(head(*UPGRADE)))
    pipe.data_received(memoryview(frame(8, sent) + frame(2, b"more")))
    assert lower.written[-1] == bytes([0x88, len(sent)]) + sent
    assert lower.closed
    pipe.pipe_closed(None)
    assert receiver.error is None if reason is None else str(receiver.error) == f"websocket: {reason}"


async def test_our_close() -> None:
    """It is what go-libp2p takes for the end: 1000."""
    lower = RecordingPipe()
    pipe = server_pipe(lower, Turns(asyncio.get_running_loop(), 1.0), Path("ws"), lambda _: NullReceiver())
    pipe.data_received(memoryview(head(*UPGRADE)))
    pipe.close()
    assert lower.written[-1] == bytes([0x88, 2]) + (1000).to_bytes(2)
    assert lower.closed


async def test_a_close_in_the_middle_of_a_message_of_noise() -> None:
    """The request is lost, and nothing else."""
    cutting = False

    def cut(data: bytes) -> bytes:
        frame, _ = FrameReader(masked=False).read(memoryview(data)) if cutting else (None, b"")
        if frame is None:
            return data
        return encode_frame(BINARY, bytes(frame.data[: len(frame.data) // 2])) + encode_frame(CLOSE, b"\x03\xe8")

    async with listening() as (bob, target), proxy(target, answer=cut) as port, StrongholdP2p(codec="raw") as alice:
        through = f"/ip4/127.0.0.1/tcp/{port}/ws/p2p/{bob.peer_id}"
        assert await alice.send_request(through, b"whole") == b"whole"
        cutting = True
        with pytest.raises(ConnectionLost):
            await alice.send_request(through, b"cut")
        cutting = False
        assert await alice.send_request(through, b"whole again") == b"whole again"


async def test_a_handshake_that_stalls() -> None:
    """At any byte."""
    whole = head(*UPGRADE)
    config = Config(connection_timeout=0.2)
    async with StrongholdP2p(config=config) as bob:
        target = await bob.listen(LISTEN)
        events = bob.events()
        (_, host), (_, port), *_ = target.components
        opened = [await asyncio.open_connection(host, int(port or 0)) for _ in whole]
        for (_, writer), size in zip(opened, range(len(whole)), strict=True):
            writer.write(whole[:size])
        for reader, writer in opened:
            with suppress(ConnectionResetError):  # its time may have been up before that was written
                assert await reader.read() == b""
            writer.close()
            assert "stalled" in str((await next_event(events, InboundConnectionFailed)).error)


async def test_frames_before_the_response() -> None:
    async with listening() as (bob, target):
        events = bob.events()
        await say(target, head(*UPGRADE) + frame(2, b"early") + frame(8, b""))
        assert "before the handshake" in str((await next_event(events, InboundConnectionFailed)).error)
        await still_serves(target)


async def test_what_is_offered_and_not_agreed_to() -> None:
    offers = ("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits", "Sec-WebSocket-Protocol: chat")
    async with listening() as (_, target):
        answer = await say(target, head(*UPGRADE, *offers, "Origin: https://example.com"), until=b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101")
        assert b"Sec-WebSocket-Extensions" not in answer
        assert b"Sec-WebSocket-Protocol" not in answer


# -- a server that is none -----------------------------------------------------------------------------

SWITCH = ("Upgrade: websocket", "Connection: Upgrade")


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (head(line="HTTP/1.1 404 Not Found"), "404"),
        (head(line="HTTP/1.1 101 Switching Protocols"), "Connection"),
        (head(*SWITCH, line="HTTP/1.0 101 Switching Protocols"), "HTTP response"),
        (multistream.HEADER, "got libp2p without a WebSocket, for which an address ends before /ws"),
        (head("Location: /", line="HTTP/1.1 301 Moved"), "301"),
        (head(*SWITCH, line="HTTP/1.1 101 Switching Protocols"), "Accept"),
        (head(*SWITCH, "Sec-WebSocket-Accept: AAAA", line="HTTP/1.1 101 Switching Protocols"), "Accept"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "HTTP response"),
        (head(*[f"X-{n}: {'x' * 1000}" for n in range(100)], line="HTTP/1.1 101 Switching Protocols")[:-2], "head of"),
        (b"", "did not receive a valid HTTP response"),
    ],
    ids=["404", "bare-101", "http-1.0", "libp2p", "redirect", "no-accept", "wrong-accept", "ssh", "head", "nothing"],
)
async def test_an_answer_that_is_none(server: socket.socket, answer: bytes, reason: str) -> None:
    port = server.getsockname()[1]

    async with StrongholdP2p() as alice, StrongholdP2p() as bob:
        serving = asyncio.create_task(serve(server, answer))
        with pytest.raises(DialError, match=reason):
            await alice.connect(f"/ip4/127.0.0.1/tcp/{port}/ws/p2p/{bob.peer_id}")
        request = await serving
        assert request.startswith(b"GET / HTTP/1.1\r\n")
        assert f"Host: 127.0.0.1:{port}\r\n".encode() in request
        assert b"Sec-WebSocket-Extensions" not in request


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (frame(2, b"x"), "expected no masked frame"),
        (frame(1, b"text", mask=False), "expected binary messages, got text"),
        (frame(2, multistream.HEADER, mask=False) + frame(8, (1013).to_bytes(2), mask=False), "1013 .try again later."),
        (frame(2, multistream.HEADER, mask=False) + frame(8, b"", mask=False), "the stream ended within the upgrade"),
    ],
    ids=["masked", "text", "try-later", "close"],
)
async def test_a_server_that_breaks_the_protocol(server: socket.socket, frames: bytes, reason: str) -> None:
    """Its frames may come with its answer."""
    port = server.getsockname()[1]
    async with StrongholdP2p() as alice, StrongholdP2p() as bob:
        serving = asyncio.create_task(serve(server, b"", frames))
        with pytest.raises(DialError, match=reason):
            await alice.connect(f"/ip4/127.0.0.1/tcp/{port}/ws/p2p/{bob.peer_id}")
        await serving


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("dns4/bob.example", "bob.example"),
        ("dns/bücher.example", "xn--bcher-kva.example"),
        ("dns4/alice@bob.example?", "alice@bob.example?"),  # as it is: nothing of it has a meaning of its own
    ],
)
async def test_the_name_of_the_server_is_in_the_request(
    server: socket.socket, name: str, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = server.getsockname()[1]

    def resolve(host: str, *_: object, **__: object) -> list[Any]:
        assert host == written
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    async with StrongholdP2p() as alice, StrongholdP2p() as bob:
        serving = asyncio.create_task(serve(server, b""))
        with pytest.raises(DialError):
            await alice.connect(f"/{name}/tcp/{port}/ws/p2p/{bob.peer_id}")
        request = await serving
        assert f"Host: {written}:{port}\r\n".encode() in request
        assert b"Authorization" not in request


# -- by hand -------------------------------------------------------------------------------------------


async def serve(server: socket.socket, answer: bytes, frames: bytes | None = None) -> bytes:
    """Gives ``answer`` to the first request that comes, and returns that; or accepts it and sends ``frames``."""
    loop = asyncio.get_running_loop()
    accepted, _ = await loop.sock_accept(server)
    with accepted:
        request = await loop.sock_recv(accepted, 65_536)
        if frames is not None:
            key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0].decode()
            accept = f"Sec-WebSocket-Accept: {accept_key(key)}"
            answer = head(*SWITCH, accept, line="HTTP/1.1 101 Switching Protocols") + frames
        await loop.sock_sendall(accepted, answer)
    return request


async def say(target: Multiaddr, data: bytes, frames: bytes = b"", *, until: bytes | None = None) -> bytes:
    """All that the listener answers, or what it answers up to ``until``. ``frames`` follow its first answer."""
    (_, host), (_, port), *_ = target.components
    reader, writer = await asyncio.open_connection(host, int(port or 0))
    answer = b""
    try:
        writer.write(data)
        if frames:
            answer = await reader.readuntil(b"\r\n\r\n")
            writer.write(frames)
        return answer + await (reader.read() if until is None else reader.readuntil(until))
    except ConnectionResetError:
        return b""  # it has not read all of ours
    finally:
        writer.close()


async def still_serves(target: Multiaddr) -> None:
    async with StrongholdP2p(codec="raw") as carol:
        assert await carol.send_request(target, b"still there") == b"still there"


def test_the_core_is_what_a_client_expects() -> None:
    """Without its own extensions: none is offered."""
    assert ClientProtocol(parse_uri("ws://localhost/")).connect().headers.get("Sec-WebSocket-Extensions") is None
