"""A question of a firewall as it is sent to an approver: what of it may be seen, cut to limits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ...encoding import messages
from ...errors import DecodeError
from ...events import Direction, QuestionKind, Scope
from ...identity import PeerId
from ...multiaddr import Multiaddr
from .answers import (
    DIRECTIONS,
    KINDS,
    MAX_SECONDS,
    NONCE_SIZE,
    NUMBERS_OF_DIRECTIONS,
    NUMBERS_OF_KINDS,
    ApprovalAnswer,
)

__all__ = ["MAX_BY", "MAX_MESSAGE", "MAX_TYPE", "PROTOCOL", "ApprovalQuestion", "cut", "sendable", "view_text"]

PROTOCOL: Final = "/stronghold-p2p/approval/1.0.0"

MAX_VIEW: Final = 2000
"""Characters of a request: enough to see what is asked for, on a small screen."""

MAX_TYPE: Final = 200
"""Characters of a type. Never cut, since an answer may be about the type: a question with a longer one is sent to nobody."""

MAX_NAME: Final = 100
"""Characters of a peer's name."""

MAX_ADDRESS: Final = 500
"""Bytes of an address, of a peer through a relay at a long name, too."""

MAX_BY: Final = 500
"""Characters of who has answered: several approvers by their ids."""

MAX_MESSAGE: Final = 16 * 1024
"""Bytes of a question: each of the characters above takes 4 at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalQuestion:
    """What an approver gets. Texts that are too long are cut, but for the type."""

    nonce: bytes
    kind: QuestionKind
    peer: PeerId
    """Whose request, or to whom, it is about."""
    name: str | None
    """What the asking peer calls it."""
    address: Multiaddr | None
    """Where the asking peer sees it."""
    direction: Direction
    type: str | None
    view: str
    seconds: float
    """Time left for the answer."""
    waiting: int
    """Requests that wait for the answer."""
    need: int
    """Approvers who must agree."""
    agreed: int
    """Those who have."""

    def encode(self) -> bytes:
        return messages.ApprovalQuestion(
            nonce=self.nonce,
            kind=NUMBERS_OF_KINDS[self.kind],
            peer=self.peer.to_bytes(),
            name=cut(self.name or "", MAX_NAME),
            address=self._address(),
            direction=NUMBERS_OF_DIRECTIONS[self.direction],
            type=self.type,
            view=cut(self.view, MAX_VIEW),
            milliseconds=max(round(self.seconds * 1000), 0),
            waiting=self.waiting,
            need=self.need,
            agreed=self.agreed,
        ).SerializeToString()

    @classmethod
    def decode(cls, data: bytes) -> ApprovalQuestion:
        """Raises DecodeError."""
        message = messages.parse(messages.ApprovalQuestion, data, "approval")
        if len(message.nonce) != NONCE_SIZE or message.kind not in KINDS or message.direction not in DIRECTIONS:
            raise DecodeError("approval", "a question of an unknown kind or direction, or without a nonce")
        if len(message.type) > MAX_TYPE or len(message.address) > MAX_ADDRESS:
            raise DecodeError(
                "approval", f"a type of over {MAX_TYPE} characters, or an address of over {MAX_ADDRESS} bytes"
            )
        return cls(
            nonce=message.nonce,
            kind=KINDS[message.kind],
            peer=PeerId.from_bytes(message.peer),
            name=cut(message.name, MAX_NAME) or None,
            address=Multiaddr.from_bytes(message.address) if message.address else None,
            direction=DIRECTIONS[message.direction],
            type=message.type if message.HasField("type") else None,
            view=cut(message.view, MAX_VIEW),
            seconds=min(message.milliseconds / 1000, MAX_SECONDS),
            waiting=message.waiting,
            need=message.need,
            agreed=message.agreed,
        )

    def _address(self) -> bytes:
        encoded = b"" if self.address is None else self.address.to_bytes()
        return encoded if len(encoded) <= MAX_ADDRESS else b""

    def answer(
        self, sent: bytes, *, asker: PeerId, scope: Scope | None, seconds: float | None, reason: str | None, time: float
    ) -> ApprovalAnswer:
        """The answer to this question as ``asker`` has ``sent`` it."""
        return ApprovalAnswer(
            asker=asker,
            nonce=self.nonce,
            question=hashlib.sha256(sent).digest(),
            kind=self.kind,
            peer=self.peer,
            direction=self.direction,
            type=self.type,
            scope=scope,
            seconds=seconds,
            reason=reason,
            time=time,
        )


def view_text(view: Any) -> str:
    """A view as text: JSON, or bytes as text with escapes. What has no JSON is named by its class."""
    if isinstance(view, bytes):
        return view[: MAX_VIEW + 1].decode("ascii", "backslashreplace")
    try:
        return msgspec.json.encode(view, enc_hook=_class_name).decode()
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        return _class_name(view)


def sendable(text: str) -> str:
    """The text with escapes for surrogates, as of bytes that were no text: UTF-8 has none."""
    return text.encode("utf-8", "backslashreplace").decode()


def cut(text: str, limit: int) -> str:
    """At most so many characters, which can be sent."""
    text = sendable(text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _class_name(value: object) -> str:
    return type(value).__name__
