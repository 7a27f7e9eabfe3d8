"""Every limit and every time limit, in one place, each with its default and its reason.

Times are seconds, sizes bytes. ``Config()`` is safe on an open network; change single fields with
``Config(request_timeout=30)`` or ``dataclasses.replace``.
"""

from __future__ import annotations

import inspect
import math
import textwrap
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

__all__ = ["Config"]

KIB = 1024
MIB = 1024 * KIB

T = TypeVar("T")


def _limit(default: T, reason: str) -> T:
    """A field. Its reason is where :func:`help` finds it, too: a docstring under the field would be lost."""
    limit: Any = field(default=default, metadata={"reason": inspect.cleandoc(reason)})
    return limit  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What a peer waits for, and how much of anything it takes.

    Raises:
        ValueError: a value is not a positive finite number, or contradicts another one.
    """

    # -- time limits -----------------------------------------------------------------------------

    request_timeout: float = _limit(
        10.0,
        """A request of ours, from the call to the response, unless the call says otherwise. Inbound: from the opening
        of the stream until the request is complete, so that a remote cannot hold one open by sending it byte by
        byte.""",
    )

    handler_timeout: float = _limit(
        10.0,
        """A handler, from the firewall's word to its response. As long as the requester waits by default.""",
    )

    firewall_timeout: float = _limit(
        10.0,
        """The answer to a question of the firewall. As long as the requester waits by default; a requester of the Rust
        crate waits no longer either, so a person who needs more time should set a rule.""",
    )

    firewall_quiet: float = _limit(
        30.0,
        """A peer that went unanswered, or withdrew its request before the answer, raises no new question for this
        time: it cannot wear out a person.""",
    )

    connection_timeout: float = _limit(
        10.0,
        """Connecting, from the first packet to the end of the upgrade. A remote that stalls in the handshake holds one
        pending connection for no longer.""",
    )

    idle_timeout: float = _limit(
        10.0,
        """A connection without a stream is closed after this time. Below the 20 s of the Rust crate, so that we close
        first and a request of ours never meets a connection that the remote is just closing.""",
    )

    close_timeout: float = _limit(
        5.0,
        """Closing: for running requests to end, for the last bytes to leave, for a half-closed stream's other half.
        After it, what is left is reset.""",
    )

    dial_stagger: float = _limit(
        0.25,
        """The lead that one address of a peer has before the next one is dialed beside it (RFC 8305, section 5). On
        local networks it is shorter.""",
    )

    # -- connections (the limits of the Rust crate's `ConnectionLimits`) ---------------------------

    max_pending_inbound_connections: int = _limit(
        256,
        """Connections in their upgrade. Each costs a key exchange and two signatures: a flood must not take all the
        time.""",
    )

    max_pending_outbound_connections: int = _limit(
        256,
        """Peers that are being dialed; further ones are refused with DialError.""",
    )

    max_dials_per_peer: int = _limit(
        8,
        """Addresses of one peer that are dialed at once; further ones wait until one of them has failed. As in
        go-libp2p and rust-libp2p: each takes a socket, and few peers are at more than two of their addresses.""",
    )

    max_inbound_connections: int = _limit(
        4096,
        """Established ones that remotes dialed. About 30 KiB each when idle.""",
    )

    max_outbound_connections: int = _limit(
        4096,
        """Established ones that we dialed.""",
    )

    max_connections: int = _limit(
        8192,
        """Established ones in all.""",
    )

    max_connections_per_peer: int = _limit(
        5,
        """Established ones with one peer, as in the Rust crate. One is enough; simultaneous dials and changing networks
        make it two or three.""",
    )

    # -- streams ----------------------------------------------------------------------------------

    max_inbound_streams_per_connection: int = _limit(
        512,
        """What a remote may have open on one connection at once (rust-yamux's number). What exceeds is reset.""",
    )

    max_outbound_streams_per_connection: int = _limit(
        256,
        """What we open at once on a connection to a peer of this library; further ones wait. 256 is where go-yamux and
        rust-yamux hold unacknowledged streams back.""",
    )

    max_outbound_streams_to_others: int = _limit(
        32,
        """The same towards every other peer: js-libp2p serves 32 streams of a protocol at once and resets what
        exceeds.""",
    )

    max_requests_in_flight_per_peer: int = _limit(
        1024,
        """Requests of one peer that are read or handled at once, over all of its connections; further ones wait in
        their streams. It is what four connections of a peer of this library open.""",
    )

    max_requests_per_second_per_peer: float | None = _limit(
        None,
        """Requests of one peer that are let in each second, by a token bucket of one second's; further ones wait in
        their streams. None: no such limit, since what is a flood for one application is idle for another.""",
    )

    max_negotiation_rounds: int = _limit(
        16,
        """Protocols that a dialer may propose on one stream before it is reset: each costs a line of answer.""",
    )

    # -- questions of the firewall -----------------------------------------------------------------

    max_firewall_questions: int = _limit(
        1024,
        """Open at once. More than a person answers; a program that answers is quicker than they come.""",
    )

    max_firewall_questions_per_peer: int = _limit(
        32,
        """The same for one peer, so that it cannot keep others from being asked about.""",
    )

    max_firewall_waiting_requests: int = _limit(
        4096,
        """Requests that wait for an answer, in all: each holds a stream and a task.""",
    )

    max_firewall_waiting_requests_per_peer: int = _limit(
        256,
        """The same for one peer; what a peer of this library opens at once.""",
    )

    max_firewall_waiting_bytes: int = _limit(
        256 * MIB,
        """Bytes of memory that those requests take, decoded, in all; estimated from above.""",
    )

    max_firewall_waiting_bytes_per_peer: int = _limit(
        64 * MIB,
        """The same for one peer: one request of full size, whatever it holds. A megabyte of JSON may take sixty.""",
    )

    # -- memory -----------------------------------------------------------------------------------

    max_json_message: int = _limit(
        MIB,
        """One JSON message. Decoding is synchronous: 16 MiB of ``[]`` would block the loop for seconds and cost
        1 GB.""",
    )

    max_msgpack_message: int = _limit(
        MIB,
        """One MessagePack message; the reason is that of JSON.""",
    )

    max_raw_message: int = _limit(
        16 * MIB,
        """One raw message: it is not decoded, so only its size matters.""",
    )

    max_receive_window: int = _limit(
        16 * MIB,
        """What one stream may have on its way to us: the bandwidth-delay product of 1 Gbit/s at 128 ms (go-yamux's
        number). It starts at 256 KiB and grows to this only while the round-trip time asks for it.""",
    )

    max_receive_buffer: int = _limit(
        128 * MIB,
        """Bytes received and not yet handed to the application, and receive windows beyond the initial 256 KiB a
        stream, over all connections. Above it no window is given back and new streams are reset, so that a remote
        stalls itself; at twice as much, which streams' initial windows can bring, whoever sends more is reset.""",
    )

    max_send_buffer: int = _limit(
        256 * KIB,
        """Bytes that a connection's socket has not taken yet before writers wait (the socket's own buffer apart).""",
    )

    max_control_backlog: int = _limit(
        256 * KIB,
        """Answers (pongs, resets, acknowledgements) that wait because the remote does not read. Above it the
        connection is closed: a remote that asks and does not read wants our memory.""",
    )

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value is None and "None" in str(limit.type):
                continue
            number = isinstance(value, int) or (isinstance(value, float) and "float" in str(limit.type))
            if not number or isinstance(value, bool) or not math.isfinite(value) or value <= 0:
                raise ValueError(f"Config.{limit.name} must be a positive {limit.type}, not {value!r}")
        if not 256 * KIB <= self.max_receive_window < 2**32:
            raise ValueError(
                "Config.max_receive_window lies between Yamux's initial window, 262,144 bytes, and 2^32 - 1"
            )


def _explanation() -> str:
    each = (
        f"{limit.name} = {limit.default}\n{textwrap.indent(limit.metadata['reason'], '    ')}"
        for limit in fields(Config)
    )
    return "\n\n".join(
        (inspect.cleandoc(Config.__doc__ or ""), "Fields, with their defaults (times are seconds, sizes bytes):", *each)
    )


Config.__doc__ = _explanation()
