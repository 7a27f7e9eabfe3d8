"""The lines that open a stream, as a connection speaks them: multistream-select for one protocol at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from ..wire import multistream

__all__ = ["dialer", "encode_lines", "listener", "read_proposal"]

NEWLINE: Final = ord("\n")


@lru_cache(maxsize=256)
def encode_lines(protocol: str) -> bytes:
    """The two lines with which a dialer opens a stream, and which the listener echoes.

    Raises:
        EncodeError: the protocol id does not fit a line.
    """
    return multistream.HEADER + multistream.encode_line(protocol)


def read_proposal(data: bytes) -> tuple[str, int] | None:
    """The protocol that a dialer proposes, and where its lines end, if they came whole and in their shortest form: then
    nothing has to be parsed. Else None, and a machine reads them."""
    start = len(multistream.HEADER) + 1
    if data.startswith(multistream.HEADER) and len(data) > start:
        size = data[start - 1]
        end = start + size
        if 0 < size < 0x80 and end <= len(data) and data[end - 1] == NEWLINE:
            return data[start : end - 1].decode("utf-8", "replace"), end
    return None


def dialer(protocol: str) -> multistream.Dialer:
    """Reads the answer to lines that have left, or leave with the first data."""
    machine = multistream.Dialer(protocol)
    machine.data_to_send()
    return machine


def listener(accepts: Callable[[str], bool], refused: Callable[[str], None], max_rounds: int) -> multistream.Listener:
    """Reads proposals until ``accepts`` says yes to one; ``refused`` is told of the others."""
    return multistream.Listener(_Offered(accepts, refused), max_rounds)


class _Offered:
    """What the remote may open, as a container."""

    def __init__(self, accepts: Callable[[str], bool], refused: Callable[[str], None]) -> None:
        self._accepts = accepts
        self._refused = refused

    def __contains__(self, protocol: object) -> bool:
        assert isinstance(protocol, str)
        accepted = self._accepts(protocol)
        if not accepted:
            self._refused(protocol)
        return accepted
