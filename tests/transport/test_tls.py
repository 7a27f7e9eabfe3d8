"""WebSocket over TLS: whole peers, certificates that are none, and TLS where there is none."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path as File
from types import SimpleNamespace
from typing import Any, cast

import pytest
from conftest import MakePeer
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from support.certificates import Authority
from support.compiled import COMPILED, replaces_parts
from support.recording_pipe import RecordingPipe
from support.waiting import next_event

from stronghold_p2p import (
    CertificateError,
    Config,
    DialError,
    FirewallRules,
    InboundConnectionFailed,
    InvalidAddress,
    ListenError,
    Multiaddr,
    Path,
    StrongholdP2p,
    TlsError,
    WebSocketError,
)
from stronghold_p2p.resources.turns import Turns
from stronghold_p2p.transport import tls as certificates
from stronghold_p2p.transport.intake import EMPTY_AT_ONCE
from stronghold_p2p.transport.pipe import NullReceiver
from stronghold_p2p.transport.tls import ServerCertificate
from stronghold_p2p.transport.tls_pipe import TlsPipe, server_pipe

LISTEN = "/ip4/127.0.0.1/tcp/0/tls/ws"
PATIENCE = 1000.0

Peer = StrongholdP2p


@pytest.fixture
def authority(tmp_path: File) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def listening(
    certificate: tuple[File, File] | None, address: str = LISTEN
) -> AsyncIterator[tuple[Peer, Multiaddr]]:
    async with StrongholdP2p(firewall=FirewallRules.allow_all(), codec="raw") as peer:
        peer.on_request(lambda request: request.body)
        yield peer, await peer.listen(address, certificate=certificate)


async def failure(address: Multiaddr | str, authority: Authority | None = None) -> Exception:
    """Why ``address`` cannot be dialed."""
    async with StrongholdP2p(authorities=authority.file if authority else None) as alice:
        with pytest.raises(DialError) as caught:
            await alice.connect(address)
    ((_, error, *_),) = caught.value.attempts
    return error


def named(address: Multiaddr, host: str = "/dns4/bob.example", form: str = "/tls/ws") -> Multiaddr:
    """The same, with the name of the host, and perhaps another ending."""
    port, peer = address.components[1][1], address.components[-1][1]
    return Multiaddr.parse(f"{host}/tcp/{port}{form}/p2p/{peer}")


# -- whole peers ---------------------------------------------------------------------------------------


async def test_requests_over_tls(authority: Authority) -> None:
    async with listening(authority.issue("127.0.0.1")) as (bob, target):
        assert str(target).endswith(f"/tls/ws/p2p/{bob.peer_id}")
        async with StrongholdP2p(codec="raw", authorities=authority.file) as alice:
            for size in 0, 1, 16_384, 65_536, 3_000_000:
                body = os.urandom(size)
                assert await alice.send_request(target, body) == body
            bodies = [os.urandom(size * 997 % 50_000) for size in range(50)]
            assert await asyncio.gather(*(alice.send_request(target, body) for body in bodies)) == bodies
            (info,) = alice.connections
            assert info.path == Path("tls/ws", target.without_peer())
            assert info.address == target.without_peer()
            (info,) = bob.connections
            assert info.path == Path("tls/ws", None)
            assert str(info.address).endswith("/tls/ws")


@pytest.mark.parametrize("form", ["/tls/ws", "/wss", "/tls/sni/bob.example/ws"])
async def test_a_server_by_its_name(authority: Authority, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    leads_here(monkeypatch, "bob.example")
    async with listening(authority.issue("bob.example")) as (_, target):
        host = "/ip4/127.0.0.1" if "sni" in form else "/dns4/bob.example"
        address = named(target, host, form)
        async with StrongholdP2p(codec="raw", authorities=authority.file) as alice:
            assert await alice.send_request(address, b"hello") == b"hello"
            (info,) = alice.connections
            assert info.path == Path("tls/ws", address.without_peer())


async def test_listening_on_wss(authority: Authority) -> None:
    async with listening(authority.issue("127.0.0.1"), "/ip4/127.0.0.1/tcp/0/wss") as (bob, target):
        assert str(target).endswith(f"/wss/p2p/{bob.peer_id}")
        async with StrongholdP2p(codec="raw", authorities=authority.file) as alice:
            assert await alice.send_request(target, b"hello") == b"hello"
        await bob.stop_listening(target)
        assert not bob.listeners


async def test_the_name_is_told_to_the_server(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """In TLS, and in HTTP without the port that every such server has."""
    leads_here(monkeypatch, "bob.example")
    names: list[str | None] = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("bob.example"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.sni_callback = lambda _, name, __: names.append(name)
    requests: asyncio.Queue[tuple[bytes, str | None]] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        requests.put_nowait((request, writer.get_extra_info("ssl_object").selected_alpn_protocol()))
        writer.close()

    async with StrongholdP2p() as bob, await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        error = await failure(f"/dns4/bob.example/tcp/{port}/tls/ws/p2p/{bob.peer_id}", authority)
    request, protocol = requests.get_nowait()
    assert f"Host: bob.example:{port}\r\n".encode() in request
    assert names == ["bob.example"]
    assert protocol == "http/1.1"
    assert isinstance(error, WebSocketError)


# -- certificates that are none ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "days", "known", "reason"),
    [
        (["127.0.0.2"], 1, True, "got one for another IP address"),
        (["bob.example"], 1, True, "got one for another IP address"),
        (["127.0.0.1"], -1, True, "got one that has expired"),
        (["127.0.0.1"], 1, False, "got one of an authority that is not trusted"),
    ],
    ids=["ip", "name", "expired", "unknown"],
)
async def test_a_certificate_that_is_not_valid(
    authority: Authority, tmp_path: File, names: list[str], days: float, known: bool, reason: str
) -> None:
    async with listening(authority.issue(*names, days=days)) as (bob, target):
        events = bob.events()
        error = await failure(target, authority if known else Authority(tmp_path, "another"))
        assert isinstance(error, TlsError)
        assert error.reason == f"expected a certificate for 127.0.0.1, {reason}"
        failed = await next_event(events, InboundConnectionFailed)
        assert isinstance(failed.error, TlsError)
        assert failed.error.reason.startswith("the remote ended the handshake: ")


async def test_a_certificate_for_another_name(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    leads_here(monkeypatch, "bob.example")
    async with listening(authority.issue("carol.example")) as (_, target):
        error = await failure(named(target), authority)
        assert isinstance(error, TlsError)
        assert error.reason == "expected a certificate for bob.example, got one for another name"


async def test_a_certificate_that_is_self_signed(authority: Authority) -> None:
    chain, _ = authority.issue("127.0.0.1")
    chain.write_bytes(authority.file.read_bytes())
    async with listening((chain, authority.key_file())) as (_, target):
        error = await failure(target)
        assert str(error) == "tls: expected a certificate for 127.0.0.1, got one that is self-signed, and not trusted"


@pytest.mark.parametrize("name", ["a..b", "x" * 64, ".".join(["a" * 60] * 5)], ids=["empty", "label", "long"])
async def test_a_name_that_is_none(name: str) -> None:
    async with StrongholdP2p() as bob:
        error = await failure(f"/ip4/127.0.0.1/tcp/1/tls/sni/{name}/ws/p2p/{bob.peer_id}")
    assert isinstance(error, InvalidAddress)
    assert "name" in error.reason


@pytest.mark.parametrize("content", [None, "", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
async def test_a_file_of_authorities_that_is_none(authority: Authority, content: str | None) -> None:
    authority.file.unlink() if content is None else authority.file.write_text(content)
    async with StrongholdP2p() as bob:
        error = await failure(f"/ip4/127.0.0.1/tcp/1/tls/ws/p2p/{bob.peer_id}", authority)
    assert isinstance(error, CertificateError)
    assert error.path == str(authority.file)


# -- TLS where there is none -----------------------------------------------------------------------------


async def test_tls_where_there_is_none(authority: Authority) -> None:
    async with listening(None, "/ip4/127.0.0.1/tcp/0/ws") as (bob, plain):
        events = bob.events()
        address = str(plain).replace("/ws/", "/tls/ws/")
        assert str(await failure(address)) == (
            "tls: expected TLS, got b'HTTP/1.1 400 Bad Req', for which an address ends in /ws without /tls before it"
        )
        failed = await next_event(events, InboundConnectionFailed)
        assert str(failed.error) == "websocket: expected HTTP, got TLS, for which an address ends in /tls/ws"
        tcp = await bob.listen()
        address = str(tcp).replace("/p2p/", "/tls/ws/p2p/")
        assert str(await failure(address)) == (
            "tls: expected TLS, got b'\\x13/multistream/1.0.0\\n', for which an address ends before /tls/ws"
        )


async def test_no_tls_where_it_is(authority: Authority) -> None:
    async with listening(authority.issue("127.0.0.1")) as (bob, target):
        events = bob.events()
        error = await failure(str(target).replace("/tls/ws/", "/ws/"))
        assert str(error) == "websocket: expected HTTP, got TLS, for which an address ends in /tls/ws"
        failed = await next_event(events, InboundConnectionFailed)
        assert str(failed.error) == "tls: expected TLS, got b'GET / HTTP/1.1\\r\\nHost'"
        error = await failure(str(target).replace("/tls/ws/", "/"))
        assert str(error).endswith("; it speaks TLS: if that is a WebSocket, append /tls/ws to the address")
        failed = await next_event(events, InboundConnectionFailed)
        assert "expected TLS, got b'\\x13/multistream" in str(failed.error)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_a_version_of_tls_that_is_no_longer_safe(authority: Authority, version: ssl.TLSVersion) -> None:
    async with listening(authority.issue("127.0.0.1")) as (bob, target):
        events = bob.events()
        context = ssl.create_default_context(cafile=authority.file)
        context.minimum_version = context.maximum_version = version
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol version"):
            await asyncio.open_connection("127.0.0.1", port_of(target), ssl=context)
        failed = await next_event(events, InboundConnectionFailed)
        assert str(failed.error) == "tls: unsupported protocol"


async def test_no_other_handshake_follows_the_first(authority: Authority) -> None:
    """TLS 1.2 would let a client shake hands again and again (Python's own client cannot)."""
    certificate = await ServerCertificate.load(authority.issue("127.0.0.1"))
    assert certificate.context.options & ssl.OP_NO_RENEGOTIATION


async def test_a_handshake_that_stalls(authority: Authority) -> None:
    """At any byte."""
    outgoing = ssl.MemoryBIO()
    machine = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="bob.example")
    with pytest.raises(ssl.SSLWantReadError):
        machine.do_handshake()
    hello = outgoing.read()
    certificate = authority.issue("127.0.0.1")
    async with StrongholdP2p(config=Config(connection_timeout=0.2)) as bob:
        target = await bob.listen(LISTEN, certificate=certificate)
        events = bob.events()
        cuts = range(0, len(hello), 10)
        opened = [await asyncio.open_connection("127.0.0.1", port_of(target)) for _ in cuts]
        for (_, writer), size in zip(opened, cuts, strict=True):
            writer.write(hello[:size])
        for reader, writer in opened:
            with suppress(ConnectionResetError):  # its time may have been up before that was written
                assert await reader.read() == b""
            writer.close()
            assert "stalled" in str((await next_event(events, InboundConnectionFailed)).error)


@pytest.mark.parametrize(
    "sent", [b"\x16", b"\x16\x03\x01\xff\xff", b"\x17\x03\x03\x00\x01x", b"\x16\x03\x01\x00\x05\x01\xff\xff\xff\xff"]
)
async def test_a_client_hello_that_is_none(authority: Authority, sent: bytes) -> None:
    async with listening(authority.issue("127.0.0.1")) as (bob, target):
        events = bob.events()
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(target))
        writer.write(sent)
        writer.close()
        await writer.wait_closed()
        failed = await next_event(events, InboundConnectionFailed)
        assert isinstance(failed.error, TlsError)
        async with StrongholdP2p(codec="raw", authorities=authority.file) as carol:
            assert await carol.send_request(target, b"still there") == b"still there"


async def test_the_end_is_told_in_tls(authority: Authority) -> None:
    """Both ways: who closes says so, and whoever hears it closes too."""
    async with listening(authority.issue("127.0.0.1")) as (bob, target):
        events = bob.events()
        reader, writer = await open_tls(target, authority)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 ")  # to its end: without a close_notify, reading fails
        writer.close()
        await next_event(events, InboundConnectionFailed)
        reader, writer = await open_tls(target, authority)
        writer.close()
        failed = await next_event(events, InboundConnectionFailed)
        assert isinstance(failed.error, WebSocketError)


async def test_a_remote_that_asks_for_new_keys_and_does_not_read() -> None:
    """As Python's own client cannot: OpenSSL answers each such record at once."""

    class Asked:
        def __init__(self, outgoing: ssl.MemoryBIO) -> None:
            self._outgoing = outgoing

        def do_handshake(self) -> None: ...

        def read(self, size: int) -> bytes:
            self._outgoing.write(bytes(1000))
            raise ssl.SSLWantReadError

    context = SimpleNamespace(wrap_bio=lambda incoming, outgoing, **_: Asked(outgoing))
    lower = RecordingPipe()
    turns = Turns(asyncio.get_running_loop(), PATIENCE)
    pipe = server_pipe(lower, turns, cast("ssl.SSLContext", context), Path("tls/ws"), lambda _: NullReceiver())

    def ask(times: int) -> None:
        for _ in range(times):
            pipe.data_received(memoryview(bytes([22, 3, 3, 0, 0])))

    ask(1)
    assert lower.written == [bytes(1000)]
    pipe.pause_writing()
    ask(10)
    assert lower.written == [bytes(1000)]
    pipe.resume_writing()
    assert lower.written == [bytes(1000), bytes(10_000)]
    pipe.pause_writing()
    ask(16)
    aborted = [lower.aborted]
    ask(1)
    assert [*aborted, lower.aborted] == [False, True]
    assert len(lower.written) == 2


@replaces_parts
async def test_records_without_data_are_counted(authority: Authority, tmp_path: File) -> None:
    """New keys, one after the other: OpenSSL takes any number of them in one call."""
    receiver = Ended()
    lower = RecordingPipe()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("127.0.0.1"))
    turns = Turns(asyncio.get_running_loop(), PATIENCE)
    pipe = server_pipe(lower, turns, context, Path("tls/ws"), lambda _: receiver)
    client = Client(pipe, lower, authority, tmp_path / "keys")
    pipe.data_received(memoryview(client.encrypt(23, b"data")))
    pipe.data_received(memoryview(b"".join(client.new_key() for _ in range(40))))
    pipe.data_received(memoryview(client.encrypt(23, b"more")))
    assert receiver.received == [b"data", b"more"]
    closed = [lower.closed]
    pipe.data_received(memoryview(b"".join(client.new_key() for _ in range(EMPTY_AT_ONCE))))
    assert [*closed, lower.closed] == [False, True]
    pipe.pipe_closed(None)
    assert str(receiver.error) == "tls: expected data, got more than 10 records a second without any"


# -- what a listener shows -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (LISTEN, "needs a certificate"),
        ("/ip4/127.0.0.1/tcp/0/wss", "needs a certificate"),
        ("/ip4/127.0.0.1/tcp/0/tls/sni/bob.example/ws", "for dialing only"),
    ],
)
async def test_listening_without_a_certificate(address: str, reason: str) -> None:
    async with StrongholdP2p() as bob:
        with pytest.raises(ListenError, match=reason):
            await bob.listen(address)


@pytest.mark.parametrize("address", ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws"])
async def test_a_certificate_without_tls(authority: Authority, address: str) -> None:
    async with StrongholdP2p() as bob:
        with pytest.raises(ListenError, match="for an address with TLS") as caught:
            await bob.listen(address, certificate=authority.issue("127.0.0.1"))
        assert caught.value.address == address
        assert not bob.listeners


async def test_files_that_are_no_certificate(authority: Authority, tmp_path: File) -> None:
    chain, key = authority.issue("127.0.0.1")
    _, other_key = authority.issue("127.0.0.1", stem="other")
    _, secret_key = authority.issue("127.0.0.1", stem="secret", passphrase=b"open sesame")
    missing, empty, damaged = (tmp_path / name for name in ("missing.pem", "empty.pem", "damaged.pem"))
    pipe = tmp_path / "pipe.pem"
    os.mkfifo(pipe)
    empty.write_bytes(b"")
    damaged.write_bytes(chain.read_bytes().replace(b"M", b"N"))
    async with StrongholdP2p() as bob:
        for files, reason in (
            ((missing, key), f"certificate file {missing}: no such file"),
            ((chain, missing), f"certificate file {missing}: no such file"),
            ((tmp_path, key), f"certificate file {tmp_path}: expected a regular file"),
            ((pipe, key), f"certificate file {pipe}: expected a regular file"),
            ((empty, key), f"certificate file {empty}: expected a certificate in PEM, found none"),
            ((key, chain), f"certificate file {key}: expected a certificate in PEM, found none"),
            ((chain, chain), f"certificate file {chain}: expected a private key in PEM, found none"),
            ((chain, other_key), f"certificate file {other_key}: not the private key of the certificate in {chain}"),
            ((chain, secret_key), f"certificate file {secret_key}: the private key is encrypted"),
            ((damaged, key), f"certificate file {damaged}: the certificate, or the private key in {key}, is damaged"),
        ):
            with pytest.raises(ListenError) as caught:
                await bob.listen(LISTEN, certificate=files)
            assert caught.value.reason.startswith(reason)
        assert not bob.listeners


async def test_a_certificate_that_changes(authority: Authority) -> None:
    files = authority.issue("127.0.0.1")
    certificate = await ServerCertificate.load(files)
    first = certificate.context
    await certificate.check()
    authority.issue("127.0.0.1")
    await certificate.check()  # it may be half written
    assert certificate.context is first
    await certificate.check()
    second = certificate.context
    assert second is not first
    await certificate.check()
    assert certificate.context is second


async def test_a_certificate_that_changes_for_the_worse(authority: Authority) -> None:
    files = authority.issue("127.0.0.1")
    certificate = await ServerCertificate.load(files)
    first = certificate.context
    files[0].unlink()
    await certificate.check()
    with pytest.raises(CertificateError, match="no such file"):
        await certificate.check()
    await certificate.check()  # told once
    assert certificate.context is first
    authority.issue("127.0.0.1")
    await certificate.check()
    await certificate.check()
    assert certificate.context is not first


async def test_new_connections_see_the_new_certificate(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(certificates, "INTERVAL", 0.001)
    files = authority.issue("127.0.0.1")
    async with listening(files) as (_, target), StrongholdP2p(codec="raw", authorities=authority.file) as alice:
        await alice.connect(target)
        shown = await shown_to_us(target, authority)
        files[1].write_text("half written")
        while "stays in use" not in caplog.text:
            assert await shown_to_us(target, authority) == shown
        authority.issue("127.0.0.1")
        while await shown_to_us(target, authority) == shown:
            pass
        assert await alice.send_request(target, b"the same connection") == b"the same connection"
        assert len(alice.connections) == 1


# -- by hand ---------------------------------------------------------------------------------------------


def leads_here(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Has ``name`` stand for this machine."""

    def resolve(host: str, *_: object, **__: object) -> list[Any]:
        assert host == name
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def port_of(address: Multiaddr) -> int:
    return int(address.components[1][1] or 0)


async def open_tls(target: Multiaddr, authority: Authority) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = ssl.create_default_context(cafile=authority.file)
    return await asyncio.open_connection("127.0.0.1", port_of(target), ssl=context)


async def shown_to_us(target: Multiaddr, authority: Authority) -> bytes | None:
    """The certificate that a new connection is shown."""
    _, writer = await open_tls(target, authority)
    shown: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return shown


class Ended(NullReceiver):
    """What came, and why the pipe has ended."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.error: Exception | None = None

    def data_received(self, data: memoryview) -> None:
        self.received.append(bytes(data))

    def pipe_closed(self, error: Exception | None) -> None:
        self.error = error


class Client:
    """One of TLS 1.3 that encrypts its records by itself after the handshake (RFC 8446, sections 5.2 and 7)."""

    def __init__(self, pipe: TlsPipe, lower: RecordingPipe, authority: Authority, keys: File) -> None:
        context = ssl.create_default_context(cafile=authority.file)
        context.keylog_filename = str(keys)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        machine = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        for _ in range(2):
            try:
                machine.do_handshake()
            except ssl.SSLWantReadError:
                pass
            pipe.data_received(memoryview(outgoing.read()))
            incoming.write(b"".join(lower.written))
        assert machine.cipher() == ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)
        secrets = dict(line.split()[::2] for line in keys.read_text().splitlines() if line[0] != "#")
        self._use(bytes.fromhex(secrets["CLIENT_TRAFFIC_SECRET_0"]))

    def encrypt(self, kind: int, data: bytes) -> bytes:
        """A record."""
        nonce = (int.from_bytes(self._iv) ^ self._sent).to_bytes(12)
        self._sent += 1
        head = bytes([23, 3, 3]) + (len(data) + 17).to_bytes(2)
        return head + AESGCM(self._key).encrypt(nonce, data + bytes([kind]), head)

    def new_key(self) -> bytes:
        """A record that says that the next one is encrypted with another key."""
        record = self.encrypt(22, bytes([24, 0, 0, 1, 0]))
        self._use(self._derive("traffic upd", 48))
        return record

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._key, self._iv = self._derive("key", 32), self._derive("iv", 12)
        self._sent = 0

    def _derive(self, label: str, length: int) -> bytes:
        name = b"tls13 " + label.encode()
        info = length.to_bytes(2) + bytes([len(name)]) + name + bytes(1)
        return HKDFExpand(hashes.SHA384(), length, info).derive(self._secret)


@pytest.mark.parametrize("certificate", ["chain.pem", ("chain.pem",), ("chain.pem", "key.pem", "more.pem")])
async def test_a_certificate_is_two_files(make_peer: MakePeer, certificate: Any) -> None:
    peer = await make_peer()
    told = "tuple" if COMPILED else "expected a pair for certificate=, the files of the chain and of the private key"
    with pytest.raises(TypeError, match=told):
        await peer.listen("/ip4/127.0.0.1/tcp/0/tls/ws", certificate=certificate)
