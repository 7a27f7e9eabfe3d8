"""A connection's upgrade, from the first byte to a channel that is encrypted, authenticated and ready for its muxer
(libp2p/specs connections/README.md).

Both sides agree on Noise by multistream-select, shake hands, and agree on Yamux: within the handshake if both offer
that (connections/inlined-muxer-negotiation.md), else by multistream-select inside the channel.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final

from ..errors import HandshakeError, PeerIdMismatch
from ..identity import PeerId, PublicKey
from .multistream import Dialer, Listener
from .noise import MAX_HANDSHAKE_MESSAGE, NoiseHandshake, NoiseIdentity, NoiseTransport
from .noise_xx import NoiseKey

__all__ = ["MUXERS", "Upgrade"]

_NOISE: Final = "/noise"
_YAMUX: Final = "/yamux/1.0.0"
MUXERS: Final = (_YAMUX,)
"""What a :class:`NoiseIdentity` for upgrades offers."""

_MAX_PROPOSALS: Final = 16
"""More than there are security protocols or muxers. Each costs a remote that is not known yet a line of answer."""

_Waiting = Generator[None, None, None]
"""Advanced whenever bytes have arrived; ``yield`` waits for more of them."""


class Upgrade:
    """One side of an upgrade. What stands below ``done`` is there when it is True; the machine has no more use then."""

    done: bool
    remote_key: PublicKey
    """The identity that the remote has proved."""
    remote_peer: PeerId
    early: list[bytes]
    """What has already come through the channel for the muxer: the remote need not wait for our last word."""

    def __init__(
        self,
        identity: NoiseIdentity,
        *,
        initiator: bool,
        ephemeral: NoiseKey,
        expected_peer: PeerId | None = None,
        admit: Callable[[PeerId], object] | None = None,
    ) -> None:
        """``initiator``: whether we dialed; ``expected_peer``: whom, if known; ``ephemeral`` must never serve twice.

        An initiator's ``admit`` is called with who the remote is before our last message, with which the remote would take us
        in; what it raises ends the upgrade.
        """
        self.done = False
        self._own_peer = identity.peer_id
        self._expected_peer = expected_peer
        self._admit = admit
        self._handshake = NoiseHandshake(identity, initiator=initiator, ephemeral=ephemeral)
        self._noise: NoiseTransport | None = None
        self._inbound = bytearray()
        self._outbound: list[bytes | memoryview] = []
        self._phases = self._dial() if initiator else self._listen()
        next(self._phases)  # up to where it waits for the remote: a dialer's first flight is ready then

    @property
    def noise(self) -> NoiseTransport:
        """The channel. Its keys are derived when it is asked for first: a dialer's last message need not wait for them, nor
        the remote for that."""
        if self._noise is None:
            self._noise = self._handshake.transport()
        return self._noise

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Takes a piece of the stream; ``data`` is read during the call only.

        Raises NegotiationError, ProtocolNotSupported, HandshakeError, PeerIdMismatch, DecodeError, and what ``admit`` raises. The
        upgrade has failed then: send what there is to send, and close.
        """
        self._inbound += data
        next(self._phases, None)

    def receive_eof(self) -> None:
        """
        Raises:
            HandshakeError: the upgrade is not complete.
        """
        if not self.done:
            raise HandshakeError("the stream ended within the upgrade")

    def data_to_send(self) -> bytes:
        """What is to be sent now; also after an error, when it may be the ``na`` that explains it."""
        data = b"".join(self._outbound)
        self._outbound.clear()
        return data

    # The phases. Each takes from what is inbound all that it can use, so that never more than one incomplete line or
    # message waits there.

    def _dial(self) -> _Waiting:
        negotiation = Dialer(_NOISE)
        self._outbound += negotiation.data_to_send()
        self._outbound.append(self._handshake.write_message())  # at once: only Noise is proposed
        yield  # for the first bytes of the remote
        yield from self._agree_on_noise(negotiation)
        yield from self._read_message()
        self._authenticate()
        if self._admit is not None:
            self._admit(self.remote_peer)
        self._outbound.append(self._handshake.write_message())
        yield from self._open_channel(lambda: Dialer(_YAMUX))

    def _listen(self) -> _Waiting:
        yield
        yield from self._agree_on_noise(Listener((_NOISE,), _MAX_PROPOSALS))
        yield from self._read_message()
        self._outbound.append(self._handshake.write_message())
        yield from self._read_message()
        self._authenticate()
        yield from self._open_channel(lambda: Listener((_YAMUX,), _MAX_PROPOSALS))

    def _agree_on_noise(self, negotiation: Dialer | Listener) -> _Waiting:
        for following in (yield from self._negotiate(negotiation)):
            self._inbound += following

    def _read_message(self) -> _Waiting:
        while len(self._inbound) < 2:
            yield
        length = int.from_bytes(self._inbound[:2])
        if length > MAX_HANDSHAKE_MESSAGE:
            raise HandshakeError(f"a handshake message of {length} bytes is over the limit of {MAX_HANDSHAKE_MESSAGE}")
        end = 2 + length
        while len(self._inbound) < end:
            yield
        message = bytes(self._inbound[2:end])
        del self._inbound[:end]
        self._handshake.read_message(message)

    def _authenticate(self) -> None:
        self.remote_key = self._handshake.remote_key
        self.remote_peer = self.remote_key.peer_id
        if self._expected_peer is not None and self._expected_peer != self.remote_peer:
            raise PeerIdMismatch(self._expected_peer, self.remote_peer)
        if self.remote_peer == self._own_peer:
            raise HandshakeError("the remote has our own identity")

    def _open_channel(self, make_negotiation: Callable[[], Dialer | Listener]) -> _Waiting:
        self.early = []
        if self._handshake.muxer is None:
            self.early = yield from self._negotiate(make_negotiation(), self.noise)
        if self._inbound:
            self.early += self.noise.decrypt(self._take_inbound())
        self.done = True

    def _negotiate(
        self, negotiation: Dialer | Listener, channel: NoiseTransport | None = None
    ) -> Generator[None, None, list[bytes]]:
        """Agrees on a protocol, in the clear or inside ``channel``, and returns what follows the agreed line."""
        following: list[bytes] = []
        while True:
            data = self._take_inbound()
            try:
                pieces = [data] if channel is None else channel.decrypt(data)
                following += map(negotiation.receive_data, pieces)
                while channel is not None and channel.unread and negotiation.protocol is None:
                    pieces = channel.decrypt()
                    if not any(pieces):  # no limit of the negotiation counts them
                        raise HandshakeError("too many empty messages in the negotiation of the muxer")
                    following += map(negotiation.receive_data, pieces)
            finally:
                if lines := negotiation.data_to_send():
                    self._outbound += lines if channel is None else [channel.encrypt(lines)]
            if negotiation.protocol is not None:
                return list(filter(None, following))
            yield

    def _take_inbound(self) -> bytes:
        data = bytes(self._inbound)
        self._inbound.clear()
        return data
