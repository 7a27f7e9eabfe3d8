"""The yardstick: what bare ChaCha20-Poly1305 frames between two processes reach on this machine in plain Python.

No handshake, no multiplexing, no codec, no firewall: a frame is a 2-byte length and one encrypted message, as in Noise.
Whatever the library reaches is judged as a share of this, since absolute figures differ by machine. Three figures:

* 64-byte messages echoed with 32 in flight, a second; answers to what one read brought leave in one write;
* the same, one at a time;
* bulk, one way: messages of 65,519 bytes, encrypted into a fresh output (a transport may keep a view of what it is
  given) and decrypted from one reused buffer into another. In 10^6 bytes of plaintext a second.

    python bench/limit.py [--seconds 2] [--loop uvloop] [--json]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from typing import cast

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

TAG = 16
MESSAGE = 64
IN_FLIGHT = 32
BULK_MESSAGE = 65_535 - TAG
BULK_FRAME = 2 + BULK_MESSAGE + TAG
BULK_BATCH = 4
"""Frames a write: 256 KiB, which a socket takes in a few system calls while it stays in the processor's cache."""

DIALER_KEY, LISTENER_KEY = bytes(32), bytes([1]) * 32

_length = struct.Struct(">H")
_nonce = struct.Struct("<4xQ").pack


class Frames(asyncio.BufferedProtocol):
    """Reads into one buffer that it keeps; what is left of a frame that was cut off moves to the buffer's start."""

    def __init__(self, encrypt_key: bytes, decrypt_key: bytes) -> None:
        self.closed = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport
        self._encrypt_into = ChaCha20Poly1305(encrypt_key).encrypt_into
        self._decrypt_into = ChaCha20Poly1305(decrypt_key).decrypt_into
        self._sent = self._received = 0
        self._buffer = memoryview(bytearray(BULK_BATCH * BULK_FRAME))
        self._filled = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set_result(None)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[self._filled :]

    def _keep_from(self, start: int, end: int) -> None:
        self._filled = end - start
        if start and self._filled:
            self._buffer[: self._filled] = self._buffer[start:end]


class Echo(Frames):
    """Answers each message with itself, encrypted anew. Both ends do so; the dialer throws in the first ones."""

    answered = 0

    def __init__(self, encrypt_key: bytes, decrypt_key: bytes) -> None:
        super().__init__(encrypt_key, decrypt_key)
        self._message = bytearray(MESSAGE)

    def start(self, in_flight: int) -> None:
        frames = bytearray(in_flight * (2 + MESSAGE + TAG))
        for at in range(0, len(frames), 2 + MESSAGE + TAG):
            _length.pack_into(frames, at, MESSAGE + TAG)
            self._encrypt_into(_nonce(self._sent), self._message, None, memoryview(frames)[at + 2 :][: MESSAGE + TAG])
            self._sent += 1
        self.transport.write(frames)

    def buffer_updated(self, nbytes: int) -> None:
        end = self._filled + nbytes
        buffer, message = self._buffer, self._message
        encrypt_into, decrypt_into, nonce, length_at = (
            self._encrypt_into,
            self._decrypt_into,
            _nonce,
            _length.unpack_from,
        )
        received, sent = self._received, self._sent
        answers = bytearray(buffer[:end])  # of the same lengths as what came: the headers are in place already
        view = memoryview(answers)
        at = 0
        while end - at >= 2 and (stop := at + 2 + length_at(buffer, at)[0]) <= end:
            decrypt_into(nonce(received), buffer[at + 2 : stop], None, message)
            encrypt_into(nonce(sent), message, None, view[at + 2 : stop])
            received += 1
            sent += 1
            at = stop
        self.answered += received - self._received
        self._received, self._sent = received, sent
        self._keep_from(at, end)
        if at:
            self.transport.write(view[:at])


class BulkSender(Frames):
    """Sends for as long as it is told, never faster than the socket takes it."""

    def __init__(self, encrypt_key: bytes, decrypt_key: bytes) -> None:
        super().__init__(encrypt_key, decrypt_key)
        self.total: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._writable = asyncio.Event()
        self._writable.set()

    async def send_for(self, seconds: float) -> None:
        message = bytes(BULK_MESSAGE)
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            output = bytearray(BULK_BATCH * BULK_FRAME)
            view = memoryview(output)
            for at in range(0, len(output), BULK_FRAME):
                _length.pack_into(output, at, BULK_MESSAGE + TAG)
                self._encrypt_into(_nonce(self._sent), message, None, view[at + 2 : at + BULK_FRAME])
                self._sent += 1
            self.transport.write(output)
            await self._writable.wait()
        self.transport.write_eof()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._filled == 8:
            self.total.set_result(int.from_bytes(self._buffer[:8], "big"))


class BulkReceiver(Frames):
    """Decrypts and counts; when all is there, it answers with the number of bytes."""

    def __init__(self, encrypt_key: bytes, decrypt_key: bytes) -> None:
        super().__init__(encrypt_key, decrypt_key)
        self._message = bytearray(BULK_MESSAGE)

    def buffer_updated(self, nbytes: int) -> None:
        end = self._filled + nbytes
        buffer, message = self._buffer, self._message
        at = 0
        while end - at >= 2 and (stop := at + 2 + _length.unpack_from(buffer, at)[0]) <= end:
            self._decrypt_into(_nonce(self._received), buffer[at + 2 : stop], None, message)
            self._received += 1
            at = stop
        self._keep_from(at, end)

    def eof_received(self) -> None:
        self.transport.write((self._received * BULK_MESSAGE).to_bytes(8, "big"))


LISTENERS: dict[str, type[Frames]] = {"echo": Echo, "bulk": BulkReceiver}


async def listen(kind: str) -> None:
    """Serve one connection; its port is the one line on stdout."""
    done = asyncio.get_running_loop().create_future()

    def accept() -> Frames:
        protocol = LISTENERS[kind](LISTENER_KEY, DIALER_KEY)
        protocol.closed.add_done_callback(done.set_result)
        return protocol

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await done
    server.close()


async def echoes_per_second(port: int, in_flight: int, seconds: float) -> float:
    _, echo = await asyncio.get_running_loop().create_connection(
        lambda: Echo(DIALER_KEY, LISTENER_KEY), "127.0.0.1", port
    )
    echo.start(in_flight)
    await asyncio.sleep(seconds / 10)  # warm-up
    answered, start = echo.answered, time.perf_counter()
    await asyncio.sleep(seconds)
    rate = (echo.answered - answered) / (time.perf_counter() - start)
    echo.transport.abort()
    await echo.closed
    return rate


async def bulk_mb_per_second(port: int, seconds: float) -> float:
    _, sender = await asyncio.get_running_loop().create_connection(
        lambda: BulkSender(DIALER_KEY, LISTENER_KEY), "127.0.0.1", port
    )
    start = time.perf_counter()
    await sender.send_for(seconds)
    rate = await sender.total / 1e6 / (time.perf_counter() - start)
    await sender.closed
    return rate


def loop_factory(name: str | None = None) -> Callable[[], asyncio.AbstractEventLoop]:
    """Of "asyncio" or "uvloop"; None: of :func:`default_loop`."""
    if (name or default_loop()) == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop


def default_loop() -> str:
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return "asyncio"
    return "uvloop"


FIGURES: dict[str, tuple[str, Callable[[int, float], Coroutine[None, None, float]]]] = {
    "requests_per_second": ("echo", lambda port, seconds: echoes_per_second(port, IN_FLIGHT, seconds)),
    "requests_per_second_one_at_a_time": ("echo", lambda port, seconds: echoes_per_second(port, 1, seconds)),
    "bulk_mb_per_second": ("bulk", bulk_mb_per_second),
}
"""What is measured: the listener's kind, and the coroutine that dials it."""


def measure(figure: str, loop: str, seconds: float) -> int:
    """Measure one figure, against a listener process of its own."""
    kind, dial = FIGURES[figure]
    command = [sys.executable, __file__, "--loop", loop, "--listen", kind]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listener,
        asyncio.Runner(loop_factory=loop_factory(loop)) as runner,
    ):
        assert listener.stdout is not None
        try:
            return round(runner.run(dial(int(listener.stdout.readline()), seconds)))
        finally:
            listener.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description="The limit of encrypted frames in plain Python on this machine.")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each of the three (default: 2)")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default=default_loop())
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--listen", choices=LISTENERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.listen:
        with asyncio.Runner(loop_factory=loop_factory(arguments.loop)) as runner:
            return runner.run(listen(arguments.listen))
    figures = {figure: measure(figure, arguments.loop, arguments.seconds) for figure in FIGURES}
    if arguments.json:
        print(json.dumps({"loop": arguments.loop, **figures}))
    else:
        print(f"bare ChaCha20-Poly1305 frames between two processes, on {arguments.loop}")
        print(f"{MESSAGE} bytes, {IN_FLIGHT} in flight  {figures['requests_per_second']:>9,} requests/s")
        print(f"{MESSAGE} bytes, one at a time {figures['requests_per_second_one_at_a_time']:>9,} requests/s")
        print(f"bulk, one way           {figures['bulk_mb_per_second']:>9,} MB/s")


if __name__ == "__main__":
    main()
