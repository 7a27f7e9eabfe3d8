"""A py-libp2p peer to test against. See interop/README.md for its command line."""

from __future__ import annotations

import argparse
import collections
import json
import sys
import time

import trio
from libp2p import new_host
from libp2p.abc import IHost, INetStream
from libp2p.custom_types import TProtocol
from libp2p.discovery.events.peerDiscovery import peerDiscovery
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.exceptions import StreamFailure
from libp2p.host.ping import PingService
from libp2p.identity.identify.identify import ID as IDENTIFY_PROTOCOL
from libp2p.identity.identify.identify import parse_identify_response
from libp2p.network.stream.exceptions import StreamClosed, StreamEOF, StreamReset
from libp2p.peer.envelope import consume_envelope
from libp2p.peer.id import ID as PeerId
from libp2p.peer.peerinfo import PeerInfo, info_from_p2p_addr
from libp2p.utils import decode_uvarint_from_stream, encode_varint_prefixed
from libp2p.utils.varint import read_length_prefixed_protobuf
from multiaddr import Multiaddr

REQUEST_PROTOCOL = TProtocol("/stronghold-p2p/1.0.0")
MAX_MESSAGE = 17 * 2**20
DIAL_TIMEOUT = 60


class NoResponse(Exception):
    """The stream was closed in order without a byte of response."""


class NotSupported(Exception):
    """The remote does not offer the protocol."""


class Failures(Exception):
    """Some of a burst's requests failed."""

    def __init__(self, ok: int, failures: dict[str, int]) -> None:
        super().__init__("requests failed")
        self.ok = ok
        self.failures = failures


OUTCOMES: dict[type[BaseException], str] = {
    NoResponse: "no_response",
    NotSupported: "not_supported",
    StreamReset: "reset",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="peer")
    modes = parser.add_subparsers(dest="mode", required=True)
    listening = modes.add_parser("listen")
    listening.add_argument("--handler", choices=["echo"], default="echo")
    listening.add_argument("--reject", action="store_true")
    listening.add_argument("--no-protocol", action="store_true")
    listening.add_argument("--delay-ms", type=int, default=0)
    listening.add_argument("--high-limits", action="store_true", help="changes nothing: no limit was met")
    listening.add_argument("--ws", action="store_true", help="listen for WebSocket, not TCP")
    listening.add_argument("--mdns", metavar="IP", help="listen on this IPv4 address, announce it and discover by mDNS")
    dialing = modes.add_parser("dial")
    dialing.add_argument("address", type=Multiaddr)
    commands = dialing.add_subparsers(dest="command", required=True)
    commands.add_parser("ping").add_argument("count", type=int, nargs="?", default=1)
    commands.add_parser("identify")
    commands.add_parser("request").add_argument("file")
    burst = commands.add_parser("burst")
    burst.add_argument("count", type=int)
    burst.add_argument("--size", type=int, default=64)
    burst.add_argument("--concurrency", default="all")
    commands.add_parser("large").add_argument("size", type=int)
    commands.add_parser("cancel").add_argument("delay_ms", type=int, nargs="?", default=0)
    options = parser.parse_args()
    try:
        trio.run(listen if options.mode == "listen" else dial, options)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is reported
        cause = only_cause(error)
        counts = vars(cause) if isinstance(cause, Failures) else {}
        emit({"error": OUTCOMES.get(type(cause)) or str(cause) or repr(cause), **counts})
        sys.exit(1)


def only_cause(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def emit(line: dict[str, object]) -> None:
    print(json.dumps(line), flush=True)


# Listening


async def listen(options: argparse.Namespace) -> None:
    peerDiscovery.register_peer_discovered_handler(tell_discovered)
    host = new_host(enable_websocket=True, enable_mDNS=options.mdns is not None)

    async def serve_request(stream: INetStream) -> None:
        try:
            body = await read_message(stream)
            if options.delay_ms:
                emit({"event": "request"})
                await trio.sleep(options.delay_ms / 1000)
            if not options.reject:
                await stream.write(encode_varint_prefixed(body))
            await stream.close()
        except (StreamClosed, StreamReset):
            # The library tells a reset from a close only to who writes: this comes after the delay.
            emit({"event": "request_reset"})
        except (BaseLibp2pError, NoResponse, ValueError):
            await stream.reset()

    if not options.no_protocol:
        host.set_stream_handler(REQUEST_PROTOCOL, serve_request)
    address = f"/ip4/{options.mdns or '127.0.0.1'}/tcp/0" + "/ws" * options.ws
    async with host.run(listen_addrs=[Multiaddr(address)]):
        emit({"event": "listening", "peer": str(host.get_id()), "address": str(host.get_addrs()[0])})
        await trio.to_thread.run_sync(sys.stdin.buffer.read)


def tell_discovered(info: PeerInfo) -> None:
    emit({"event": "discovered", "peer": str(info.peer_id), "addresses": [str(address) for address in info.addrs]})


# Dialing


async def dial(options: argparse.Namespace) -> None:
    commands = {
        "ping": dial_ping,
        "identify": dial_identify,
        "request": dial_request,
        "burst": dial_burst,
        "large": dial_large,
        "cancel": dial_cancel,
    }
    host = new_host(enable_websocket=True)
    info = info_from_p2p_addr(options.address)
    with trio.fail_after(DIAL_TIMEOUT):
        async with host.run(listen_addrs=[]):
            await host.connect(info)
            await commands[options.command](host, info.peer_id, options)


async def dial_ping(host: IHost, peer: PeerId, options: argparse.Namespace) -> None:
    async for rtt in PingService(host).ping_iter(peer, options.count):
        emit({"rtt_ms": rtt})


async def dial_identify(host: IHost, peer: PeerId, options: argparse.Namespace) -> None:
    stream = await host.new_stream(peer, [IDENTIFY_PROTOCOL])
    told = parse_identify_response(await read_length_prefixed_protobuf(stream))
    await stream.close()
    emit(
        {
            "agent": told.agent_version,
            "protocols": list(told.protocols),
            "listen_addrs": [str(Multiaddr(address)) for address in told.listen_addrs],
            "observed_addr": str(Multiaddr(told.observed_addr)) if told.observed_addr else None,
            "signed_record": is_signed_record(told.signedPeerRecord),
        }
    )


def is_signed_record(envelope: bytes) -> bool:
    try:
        consume_envelope(envelope, "libp2p-peer-record")
    except Exception:  # noqa: BLE001 - each way of being malformed has its own
        return False
    return True


async def dial_request(host: IHost, peer: PeerId, options: argparse.Namespace) -> None:
    body = sys.stdin.buffer.read() if options.file == "-" else await trio.Path(options.file).read_bytes()
    try:
        response = await request(host, peer, body)
    except tuple(OUTCOMES) as error:
        emit({"outcome": OUTCOMES[type(error)]})
    else:
        emit({"response": json.loads(response)})


async def dial_burst(host: IHost, peer: PeerId, options: argparse.Namespace) -> None:
    at_once = options.count if options.concurrency == "all" else int(options.concurrency)
    turns = trio.CapacityLimiter(at_once)
    failures: collections.Counter[str] = collections.Counter()

    async def one(i: int) -> None:
        async with turns:
            try:
                await round_trip(host, peer, json_string(i, options.size))
            except Exception as error:  # noqa: BLE001 - counted by kind
                failures[OUTCOMES.get(type(error), repr(error))] += 1

    async with trio.open_nursery() as nursery:
        for i in range(options.count):
            nursery.start_soon(one, i)
    if failures:
        raise Failures(options.count - failures.total(), failures)
    emit({"ok": options.count})


async def dial_large(host: IHost, peer: PeerId, options: argparse.Namespace) -> None:
    start = time.monotonic()
    await round_trip(host, peer, json_string(0, options.size))
    emit({"ok": True, "seconds": time.monotonic() - start})


async def dial_cancel(host: IHost, peer: PeerId, options: argparse.Namespace) -> None:
    connections = host.get_network().get_connections(peer)
    stream = await host.new_stream(peer, [REQUEST_PROTOCOL])
    await stream.write(encode_varint_prefixed(json_string(0, 64)))
    await trio.sleep(options.delay_ms / 1000)
    await stream.reset()
    await round_trip(host, peer, json_string(1, 64))
    if host.get_network().get_connections(peer) != connections:
        raise RuntimeError("not the same connection")
    emit({"ok": True})


# Requests


async def round_trip(host: IHost, peer: PeerId, body: bytes) -> None:
    if await request(host, peer, body) != body:
        raise ValueError("mismatch")


async def request(host: IHost, peer: PeerId, body: bytes) -> bytes:
    try:
        stream = await host.new_stream(peer, [REQUEST_PROTOCOL])
    except StreamFailure as error:
        # The library keeps the kind of failure in the text alone.
        if "not supported" in str(error.__cause__):
            raise NotSupported from error
        raise
    await stream.write(encode_varint_prefixed(body))
    await stream.close_write()
    try:
        response = await read_message(stream)
    except Exception:
        await stream.reset()
        raise
    await stream.close()
    return response


async def read_message(stream: INetStream) -> bytes:
    try:
        length = await decode_uvarint_from_stream(stream)
    except StreamEOF as error:
        raise NoResponse from error
    if length > MAX_MESSAGE:
        raise ValueError(f"message of {length} bytes")
    # The library's own read_exactly gives up after a hundred pieces.
    body = bytearray()
    while len(body) < length:
        body += await stream.read(length - len(body))
    return bytes(body)


def json_string(i: int, size: int) -> bytes:
    """A JSON string of `size` bytes, quotes included, that tells `i`."""
    text = f"{i}:"
    return f'"{text}{"x" * (size - len(text) - 2)}"'.encode()


if __name__ == "__main__":
    main()
