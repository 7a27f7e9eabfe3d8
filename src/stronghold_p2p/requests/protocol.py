"""Request protocols: under which id requests travel, and what their messages are. A peer may serve several of them."""

from __future__ import annotations

import sys
from types import UnionType
from typing import Any, Final, Generic

from ..config import Config
from ..generics import Req, Res
from ..transport.substream import MAX_LAZY_SIZE
from .codec import PROTOCOLS, Codec, CodecName, make_codec

__all__ = ["RequestProtocol", "make_protocols"]

LAZY_BELOW: Final = MAX_LAZY_SIZE - 2
"""Bytes of a message that is short enough with its length, which takes two then."""


class RequestProtocol(Generic[Req, Res]):
    """One protocol for requests: on each stream one message of ``requests``, and one of ``responses``."""

    __slots__ = ("id", "lazy_below", "requests", "responses")

    def __init__(self, id: str, requests: Codec[Req], responses: Codec[Res]) -> None:
        self.id = id
        """The protocol id."""
        self.requests = requests
        self.responses = responses
        self.lazy_below = LAZY_BELOW if requests.name == "json" else 0
        """A request of fewer bytes may come with the lines to a remote that is not known to serve the protocol. The
        Rust crate takes what follows a line that it does not know for the next line: it must be short, and text."""


def make_protocols(
    codec: CodecName, request_type: type | UnionType | None, response_type: type | UnionType | None, config: Config
) -> tuple[RequestProtocol[Any, Any], ...]:
    """What a peer speaks, the best first. The last one is for remotes of which nothing is known: it must be the one
    that most of them serve.

    Raises:
        TypeError: no codec can be made for a type.
    """
    max_size: int = getattr(config, f"max_{codec}_message")
    max_values: int = getattr(config, f"max_{codec}_values", sys.maxsize)  # a raw message is none but itself
    requests = make_codec(codec, request_type, max_size=max_size, max_values=max_values)
    responses = make_codec(codec, response_type, max_size=max_size, max_values=max_values)
    return (RequestProtocol(PROTOCOLS[codec], requests, responses),)
