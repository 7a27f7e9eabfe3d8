"""Messages on a stream, each behind its length as a varint: protobuf, or bytes as they are."""

from __future__ import annotations

from typing import Final, TypeVar

from google.protobuf.message import Message

from ..encoding import messages, varint
from ..errors import DecodeError
from ..transport.stream import Stream

__all__ = ["read", "read_bytes", "write", "write_bytes"]

MAX_SIZE: Final = 4096
"""Bytes of a message, as in go-libp2p and rust-libp2p."""

T = TypeVar("T", bound=Message)


async def read(stream: Stream, message_type: type[T], *, max_size: int = MAX_SIZE) -> T:
    """The next message.

    Raises:
        DecodeError: it is malformed, or over ``max_size`` bytes.
        RemoteProtocolError: the stream ended before.
    """
    return messages.parse(message_type, await read_bytes(stream, max_size=max_size), stream.protocol)


async def read_bytes(stream: Stream, *, max_size: int) -> bytes:
    """The next message, undecoded.

    Raises:
        DecodeError: its length is malformed, or over ``max_size``.
        RemoteProtocolError: the stream ended before.
    """
    head = b""
    while (decoded := varint.decode(head)) is None:
        head += await stream.readexactly(1)
    size, _ = decoded
    if size > max_size:
        raise DecodeError(stream.protocol, f"a message of {size} bytes is over the limit of {max_size}")
    return await stream.readexactly(size)


async def write(stream: Stream, message: Message) -> None:
    """Sends one message."""
    await write_bytes(stream, message.SerializeToString())


async def write_bytes(stream: Stream, encoded: bytes) -> None:
    """Sends one message that is encoded already."""
    await stream.write(varint.encode(len(encoded)) + encoded)
