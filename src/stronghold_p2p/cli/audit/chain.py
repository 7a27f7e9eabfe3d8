"""The chain of an audit's lines: each carries the hash of itself and of all before it, and heads are signed.

A line is ``{"seq":7,"time":"...","event":"...",...,"hash":"..."}``. The hash is over that of the line before and over this
line up to ``,"hash"``. A head is a line with one more value before its hash: ``"signed"``, an envelope (libp2p/specs RFC 0002)
with the hash that it would have without.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from ...errors import DecodeError
from ...identity import Keypair, PeerId
from ...wire.envelope import open_envelope, seal
from ..text import json_text

__all__ = ["BEGINNING", "MAX_LINE", "Entry", "Link", "Position", "chained", "parse", "signed_head"]

MAX_LINE: Final = 256 * 1024
"""Bytes of a line. What remotes say is cut long before; a longer one is no line of an audit, and is not read as a whole."""

MAX_SEQ: Final = 2**62
"""No peer writes as many lines, and whoever forges a number must not break what counts with it."""

_LINE_DOMAIN: Final = b"stronghold-p2p audit line 1\n"
_HEAD_DOMAIN: Final = "stronghold-p2p audit head 1"
_HEAD_TYPE: Final = b"/stronghold-p2p/audit-head"
"""What is signed for an audit's head can be taken for nothing else that a peer signs, nor the other way around."""

_LINE: Final = re.compile(rb'(\{.+),"hash":"([0-9a-f]{64})"\}', re.DOTALL)
_HEAD: Final = re.compile(rb'(\{.+),"signed":"([A-Za-z0-9+/=]+)"', re.DOTALL)
"""No text in JSON holds these as such, since its quotes are escaped."""


class Position(NamedTuple):
    """How far a chain has come: the number and the hash of its last line."""

    seq: int
    hash: bytes


BEGINNING: Final = Position(0, bytes(32))
"""What the first line of a chain follows."""


class Link(NamedTuple):
    """A line to write, with its end, and the position after it."""

    line: bytes
    position: Position


def chained(after: Position, record: Mapping[str, object]) -> Link:
    """The record as the next line."""
    return _link(after, _content(after, record))


def signed_head(after: Position, time: str, keypair: Keypair) -> Link:
    """A head as the next line: the key's signature over it and all before."""
    content = _content(after, {"time": time, "event": "head"})
    envelope = seal(keypair, _HEAD_DOMAIN, _HEAD_TYPE, _digest(after.hash, content))
    return _link(after, content + b',"signed":"' + base64.b64encode(envelope) + b'"')


class Entry(NamedTuple):
    """A line as it was read."""

    content: bytes
    hash: bytes
    seq: int
    time: str
    event: str
    values: dict[str, Any]

    def follows(self, previous: bytes) -> bool:
        """Whether its hash is that of a line after the one with the hash ``previous``."""
        return self.hash == _digest(previous, self.content)

    def signer(self, previous: bytes) -> PeerId:
        """Who has signed this head, after the line with the hash ``previous``.

        Raises:
            DecodeError: nobody has.
        """
        head = _HEAD.fullmatch(self.content)
        if head is None:
            raise DecodeError("audit", "a head without a signature")
        try:
            envelope = base64.b64decode(head[2], validate=True)
        except binascii.Error as error:
            raise DecodeError("audit", f"a signature that is no base64: {error}") from error
        key, signed = open_envelope(envelope, _HEAD_DOMAIN, _HEAD_TYPE)
        if signed != _digest(previous, head[1]):
            raise DecodeError("audit", "the signature is for other lines")
        return key.peer_id


def parse(line: bytes) -> Entry | None:
    """A line without its end; None if it is none of a chain."""
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    try:
        values = msgspec.json.decode(found[1] + b"}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    match values:
        case {"seq": int(seq), "time": str(time), "event": str(event)} if 0 < seq <= MAX_SEQ:
            return Entry(found[1], bytes.fromhex(found[2].decode()), seq, time, event, values)
    return None


def _content(after: Position, record: Mapping[str, object]) -> bytes:
    """The line up to its hash. What is not plainly seen has escapes."""
    return json_text({"seq": after.seq + 1, **record}, plain=False).encode()[:-1]


def _link(after: Position, content: bytes) -> Link:
    digest = _digest(after.hash, content)
    line = content + b',"hash":"' + digest.hex().encode() + b'"}\n'
    return Link(line, Position(after.seq + 1, digest))


def _digest(previous: bytes, content: bytes) -> bytes:
    return hashlib.sha256(_LINE_DOMAIN + previous + content).digest()
