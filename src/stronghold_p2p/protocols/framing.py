"""Protobuf messages on a stream, each behind its length as a varint."""

from __future__ import annotations

from typing import Final, TypeVar

from google.protobuf.message import Message

from ..encoding import messages, varint
from ..errors import DecodeError
from ..transport.stream import Stream

__all__ = ["read", "write"]

MAX_SIZE: Final = 4096
"""Bytes of a message, as in go-libp2p and rust-libp2p."""

T = TypeVar("T", bound=Message)


async def read(stream: Stream, message_type: type[T], *, max_size: int = MAX_SIZE) -> T:
    """The next message.

    Raises:
        DecodeError: it is malformed, or over ``max_size`` bytes.
        RemoteProtocolError: the stream ended before.
    """
    head = b""
    while (decoded := varint.decode(head)) is None:
        head += await stream.readexactly(1)
    size, _ = decoded
    if size > max_size:
        raise DecodeError(stream.protocol, f"a message of {size} bytes is over the limit of {max_size}")
    return messages.parse(message_type, await stream.readexactly(size), stream.protocol)


async def write(stream: Stream, message: Message) -> None:
    """Sends one message."""
    encoded = message.SerializeToString()
    await stream.write(varint.encode(len(encoded)) + encoded)
