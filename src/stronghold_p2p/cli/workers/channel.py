"""What a supervisor and a worker tell each other: messages as lines of JSON, over a pair of sockets."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any, Final, Self, TypeAlias

import msgspec

from ..ask.asked import Answer
from ..writer import MAX_WAITING

__all__ = [
    "Asked",
    "Channel",
    "Ended",
    "Give",
    "Given",
    "HangUp",
    "Here",
    "Leave",
    "Listening",
    "Printed",
    "Setup",
    "Shown",
    "ToSupervisor",
    "ToWorker",
]

MAX_LINE: Final = 1024 * 1024
"""Bytes of a message. What remotes say is cut before it is printed or asked about."""


class _Message(msgspec.Struct, tag=True, tag_field="message"):
    pass


class Setup(_Message):
    """The first message to a worker: what its command line does not say."""

    number: int
    """From 1. The first worker does what only one can do, and tells what concerns all."""
    key: bytes
    """The identity, as protobuf."""
    addresses: list[str]
    """Where the first worker listens; none: it is the first one, and chooses the ports that were left open."""
    state: bytes | None
    """A path, which need not be UTF-8."""


class Give(_Message):
    """An answer to a question."""

    id: int
    answer: Answer


class Shown(_Message):
    """A question is shown (1), or waits for that (-1)."""

    id: int
    times: int


class Leave(_Message):
    """Nobody answers any more."""


class HangUp(_Message):
    """SIGHUP."""


class Here(_Message):
    """Asks whether the worker reacts, and says that it does."""


class Listening(_Message):
    """The worker listens."""

    addresses: list[str]


class Printed(_Message):
    """A result, as :func:`output.result` takes it; without a record: a note for people."""

    record: dict[str, Any] | None
    text: str | None


class Asked(_Message):
    """A question. Its type and view are cut, and its view is text."""

    id: int
    kind: str
    peer: str
    name: str | None
    address: str | None
    inbound: bool
    type: str | None
    view: str
    network: str | None
    path: list[str]
    seconds: float
    waiting: int
    need: int
    agreed: int


class Given(_Message):
    """What an answer has done: how many questions it ended, or why it was none."""

    id: int
    ended: int
    error: str | None = None


class Ended(_Message):
    """A question has ended."""

    id: int
    outcome: str | None
    by: str | None
    reason: str | None


ToWorker: TypeAlias = Setup | Give | Shown | Leave | HangUp | Here
ToSupervisor: TypeAlias = Here | Listening | Printed | Asked | Given | Ended

_DECODER: Final = msgspec.json.Decoder(ToWorker | ToSupervisor)


class Channel:
    """One end, on an event loop. The other end is of the same program, and believed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        """Takes the socket over."""
        return cls(*await asyncio.open_connection(sock=end, limit=MAX_LINE))

    def send(self, message: ToWorker | ToSupervisor) -> None:
        """Never waits. What the other end does not get, since it has ended, is lost."""
        if not self._writer.is_closing():
            self._writer.write(msgspec.json.encode(message) + b"\n")

    @property
    def is_stalled(self) -> bool:
        """Whether the other end takes nothing, so that no more should be sent than must be."""
        return self._writer.transport.get_write_buffer_size() > MAX_WAITING

    async def receive(self) -> ToWorker | ToSupervisor | None:
        """The next message; None: the other end is gone."""
        try:
            line = await self._reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, OSError):
            return None
        message: ToWorker | ToSupervisor = _DECODER.decode(line)
        return message

    async def close(self) -> None:
        """Returns when all that was sent has left, or cannot."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


def first_message(end: socket.socket) -> Setup:
    """Waits for the setup, and reads nothing that comes after it.

    Raises:
        EOFError: the other end is gone.
    """
    with end.makefile("rb", buffering=0) as file:
        line = file.readline(MAX_LINE)
    if not line.endswith(b"\n"):
        raise EOFError
    return msgspec.json.decode(line, type=Setup)
