"""All size and time limits, with their defaults and reasons.

Times are in seconds, sizes in bytes. ``Config()`` is safe on an open network; change single fields with
``Config(request_timeout=30)`` or ``dataclasses.replace``.
"""

from __future__ import annotations

from dataclasses import dataclass

from .limit_fields import check_limits, explain, limit

__all__ = ["Config"]

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Size and time limits of a peer.

    Raises:
        ValueError: a value is not a positive finite number, or inconsistent with another one.
    """

    # -- time limits -----------------------------------------------------------------------------

    request_timeout: float = limit(
        10.0,
        """Outbound: from the call to the response, if the call has no timeout. Inbound: from the opening of the stream to
        the complete request, so that a remote cannot hold a stream open by sending byte by byte.""",
    )

    handler_timeout: float = limit(
        10.0,
        """From the firewall's decision to the handler's response. Equals the requester's default.""",
    )

    firewall_timeout: float = limit(
        10.0,
        """The answer to a question of the firewall. Equals the default of requesters, also of the Rust crate; people who
        need more time should set a rule.""",
    )

    firewall_quiet: float | None = limit(
        30.0,
        """After a question that somebody saw, and that was not answered or was withdrawn, the same peer causes no new ones
        for this time about requests of that type, or, if the question was about the peer, none at all: to protect people
        from floods of questions. After the answer "reject all from this network", that network causes none. None: off.""",
    )

    connection_timeout: float = limit(
        10.0,
        """Connecting, from the first packet to the end of the upgrade. Bounds how long a stalling remote holds a pending
        connection.""",
    )

    idle_timeout: float = limit(
        10.0,
        """Connections without a stream are closed after this time. Below the 20 s of the Rust crate, so that we close
        first: a request must not meet a connection that the remote is closing.""",
    )

    liveness_interval: float = limit(
        5.0,
        """Silence of a remote after which a ping is sent, while a stream is open or the peer is to be kept. Longer than
        most requests take, so that few cost a ping.""",
    )

    liveness_timeout: float = limit(
        15.0,
        """Silence after which the connection is lost, with the answer to that ping. Also the time in which the system must
        have delivered what was sent (Linux). Two thirds of it are enough for a peer that does something else meanwhile, and
        for TCP to send a lost packet five times.""",
    )

    close_timeout: float = limit(
        5.0,
        """Closing: for running requests, the last bytes, and the other half of half-closed streams. The rest is then
        reset.""",
    )

    dial_stagger: float = limit(
        0.25,
        """The delay between dials to addresses of one peer (RFC 8305, section 5, "Connection Attempt Delay"). Shorter on
        local networks.""",
    )

    # -- several processes -----------------------------------------------------------------------

    processes: int = limit(
        1,
        """How many processes are this peer together, see ``listen(reuse_port=True)``. What one peer may have of requests, in a
        second and at once, is divided by it, whether a policy says so or this; all other limits are those of one process.
        With more than one, remotes are not asked whether they can dial us, and a policy with approvers is refused: what
        they send may come to any of the processes.""",
    )

    # -- connections (the limits of the Rust crate's `ConnectionLimits`) ---------------------------

    max_pending_inbound_connections: int = limit(
        256,
        """Connections in their upgrade. Each costs a key exchange and two signatures, so a flood would take all CPU
        time.""",
    )

    max_pending_outbound_connections: int = limit(
        256,
        """Peers that are being dialed; further ones are refused with DialError.""",
    )

    max_dials_per_peer: int = limit(
        8,
        """Addresses of one peer that are dialed at once; further ones wait until one fails. As in go-libp2p and
        rust-libp2p: each takes a socket, and few peers answer at more than two of their addresses.""",
    )

    max_inbound_connections: int = limit(
        4096,
        """Established inbound connections. About 30 KiB each when idle.""",
    )

    max_outbound_connections: int = limit(
        4096,
        """Established outbound connections, with the same memory each.""",
    )

    max_connections: int = limit(
        8192,
        """Established connections in total.""",
    )

    max_connections_per_peer: int = limit(
        5,
        """Established connections with one peer that the same side has dialed; the Rust crate has 5 in all. One is enough;
        changing networks cause two or three.""",
    )

    max_discovered_peers: int = limit(
        1024,
        """Peers that are known by mDNS. Anybody on the local network can announce any number; beyond that, one of the sender
        of most is forgotten. Each takes 7 KiB with a dozen addresses, and at most 30.""",
    )

    # -- the address book ------------------------------------------------------------------------

    max_given_addresses: int = limit(
        16_384,
        """Addresses of other peers that your program has added or called, over all peers; 64 of one peer. Beyond that, the
        peer whose addresses were added or led to it the longest time ago loses them. About 1.5 KiB each, with the peer.""",
    )

    max_told_addresses: int = limit(
        16_384,
        """Addresses that remotes have told, over all peers and sources; 16 of one peer by one source. Beyond that, the
        oldest of the network that has told the most are forgotten. About 1.5 KiB each, and at most 4 KiB.""",
    )

    # -- streams ----------------------------------------------------------------------------------

    max_inbound_streams_per_connection: int = limit(
        512,
        """Open streams of a remote on one connection, as in rust-yamux. Further ones are reset.""",
    )

    max_outbound_streams_per_connection: int = limit(
        256,
        """Streams that we open at once on a connection to a peer of this library; further ones wait. go-yamux and
        rust-yamux hold back unacknowledged streams above 256.""",
    )

    max_outbound_streams_to_others: int = limit(
        32,
        """The same for all other peers: js-libp2p serves 32 streams of a protocol at once, and resets further ones.""",
    )

    max_requests_in_flight_per_peer: int = limit(
        1024,
        """Requests of one peer that are read or handled at once, over all of its connections; further ones wait in
        their streams. Four connections of a peer of this library open as many.""",
    )

    max_requests_per_second_per_peer: float | None = limit(
        None,
        """Requests of one peer per second, by a token bucket with a capacity of one second; further ones wait in their
        streams. None: no limit, since reasonable rates differ between applications.""",
    )

    max_control_frames: int = limit(
        1024,
        """Yamux frames without a payload that a remote may send at once on a connection: pings, window updates, empty
        frames, frames for streams that have ended, resets of requests before their answer, protocols that are not offered.
        As many as streams that two connections may have open. Beyond that the connection is closed.""",
    )

    max_control_frames_per_second: float = limit(
        100.0,
        """The same for each second. Data frames and answers that we send allow more, since they may cause some: a peer that
        reads byte by byte returns its window so.""",
    )

    max_negotiation_rounds: int = limit(
        16,
        """Protocols that a dialer may propose on one stream before it is reset: each costs us an answer.""",
    )

    # -- questions of the firewall -----------------------------------------------------------------

    max_firewall_questions: int = limit(
        1024,
        """Open questions. More than a person can answer; programs answer faster than questions arrive. Beyond that, the
        newest question of the network and peer with the most is rejected; so it is with the two other totals.""",
    )

    max_firewall_questions_per_peer: int = limit(
        32,
        """The same for one peer, so that it cannot block the questions about others.""",
    )

    max_firewall_waiting_requests: int = limit(
        4096,
        """Requests that wait for an answer, in total: each holds a stream and a task.""",
    )

    max_firewall_waiting_requests_per_peer: int = limit(
        256,
        """The same for one peer; a peer of this library opens as many at once.""",
    )

    max_firewall_waiting_bytes: int = limit(
        256 * MIB,
        """Memory of those requests, decoded, in total; an upper estimate.""",
    )

    max_firewall_waiting_bytes_per_peer: int = limit(
        64 * MIB,
        """The same for one peer: enough for one request of maximum size, since a megabyte of JSON can take 60 MB.""",
    )

    # -- memory -----------------------------------------------------------------------------------

    max_json_message: int = limit(
        MIB,
        """One JSON message. Decoding is synchronous: 16 MiB of ``[]`` would block the loop for seconds and take
        1 GB.""",
    )

    max_msgpack_message: int = limit(
        MIB,
        """One MessagePack message, for the same reason.""",
    )

    max_json_values: int = limit(
        150_000,
        """Values in one JSON message, keys among them. Bytes tell little of the time: a megabyte may be one text, or 350,000
        arrays. The worst 150,000 take 20 ms to decode on a machine of 2024; a megabyte of usual records has 130,000, one of
        floats with 17 digits 55,000. A number counts for what reading it takes: for 3 more with an exponent of 0 or above,
        for 100 more with one of three digits (``1e308`` takes 10 us), and for 10 more by every 24 digits. Messages of up to
        8 KiB are not counted.""",
    )

    max_msgpack_values: int = limit(
        100_000,
        """The same in one MessagePack message, every number as 1. Fewer, since the keys of maps are checked before decoding,
        which takes as long again: 25 ms for the worst.""",
    )

    max_raw_message: int = limit(
        16 * MIB,
        """One raw message: not decoded, so only the size matters.""",
    )

    max_receive_window: int = limit(
        16 * MIB,
        """The maximum receive window of a stream: the bandwidth-delay product of 1 Gbit/s at 128 ms, as in go-yamux. It
        starts at 256 KiB, and grows only if the round-trip time requires it.""",
    )

    max_receive_buffer: int = limit(
        128 * MIB,
        """Unread input, and receive windows beyond the initial 256 KiB per stream, over all connections. Each network and
        peer may hold as much as is free. Above its share, no windows are returned and new streams are reset, so that a
        remote stalls itself. At twice its share, which initial windows can cause, streams with further data are
        reset.""",
    )

    unapproved_share: float = limit(
        1 / 16,
        """The part of the memory above that is free for a peer that no firewall rule allows: enough for its first requests,
        until somebody has answered.""",
    )

    max_response_buffer: int = limit(
        64 * MIB,
        """Responses that wait because the remote does not read. One peer alone gets a third; a peer above its share is
        served no further request until it reads. At this size the newest response of the largest holder is
        reset.""",
    )

    turn_time: float = limit(
        0.005,
        """Work on input in one turn of the event loop. The rest waits for the next turn, in which each network and each
        connection is served in turn: longer than a request or a handshake takes, and short enough that nobody
        notices.""",
    )

    max_send_buffer: int = limit(
        256 * KIB,
        """Unsent bytes of a connection before writers wait, not counting the socket's own buffer.""",
    )

    max_control_backlog: int = limit(
        256 * KIB,
        """Unsent control frames (pongs, resets, acknowledgements). Above it the connection is closed: a remote that causes
        replies without reading them would exhaust our memory.""",
    )

    def __post_init__(self) -> None:
        check_limits(self)
        if self.liveness_interval >= self.liveness_timeout:
            raise ValueError(
                "Config.liveness_timeout must exceed Config.liveness_interval: a ping takes time to be answered"
            )
        if not 256 * KIB <= self.max_receive_window < 2**32:
            raise ValueError(
                "Config.max_receive_window must lie between Yamux's initial window, 262,144 bytes, and 2^32 - 1"
            )


Config.__doc__ = explain(Config)
