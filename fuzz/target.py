"""What is fuzzed: a function of bytes that returns, or raises what it may raise. Anything else is a finding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from stronghold_p2p import Keypair
from stronghold_p2p.encoding import varint
from stronghold_p2p.errors import ProtocolNotSupported, RemoteProtocolError

__all__ = ["KEYPAIRS", "Outcome", "Seeds", "Target", "framed", "outcome", "pieces", "target"]

Seeds = Callable[[], Iterable[bytes]]
Outcome = tuple[object, ...]

KEYPAIRS = tuple(Keypair.from_protobuf(bytes.fromhex("08011240") + bytes([n]) * 32 + public) for n, public in (
    (1, bytes.fromhex("8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c")),
    (2, bytes.fromhex("8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394")),
))  # fmt: skip
"""Us and the remote: the same in every run, so that an input means the same."""


@dataclass(frozen=True)
class Target:
    """One of the things that are fuzzed."""

    name: str
    run: Callable[[bytes], None]
    refuses: tuple[type[Exception], ...]
    """What it may raise."""
    seeds: Seeds
    """Valid inputs, to begin with."""
    max_size: int
    """Bytes of an input."""

    def check(self, data: bytes) -> None:
        """Raises whatever it must not raise."""
        try:
            self.run(data)
        except self.refuses:
            pass


def target(
    name: str, *refuses: type[Exception], seeds: Seeds, max_size: int = 4096
) -> Callable[[Callable[[bytes], None]], Target]:
    """Makes a target of a function."""
    return lambda run: Target(name, run, refuses, seeds, max_size)


def pieces(data: bytes) -> tuple[bytes, Iterator[bytes]]:
    """A stream: whole, and cut. The first byte says into pieces of which size; 0: whole."""
    size, whole = data[0] if data else 0, data[1:]
    size = size or max(len(whole), 1)
    return whole, (whole[start : start + size] for start in range(0, len(whole), size))


def framed(*messages: bytes) -> bytes:
    """Messages behind their lengths."""
    return b"".join(varint.encode(len(message)) + message for message in messages)


def outcome(feed: Callable[[bytes], object], parts: Iterable[bytes]) -> type[Exception] | None:
    """The class of the error that ends a stream, if one does: the remote's fault."""
    try:
        for part in parts:
            feed(part)
    except RemoteProtocolError as error:
        return type(error)
    except ProtocolNotSupported as error:
        return type(error)
    return None
