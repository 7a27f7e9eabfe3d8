"""What libp2p puts into and around Noise_XX_25519_ChaChaPoly_SHA256.

Sources: libp2p/specs noise/README.md and connections/inlined-muxer-negotiation.md; the Noise Protocol Framework, revision 34
("Noise" below).

:class:`NoiseHandshake` is the handshake of libp2p, :class:`NoiseTransport` the channel it leads to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Final, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ..encoding import messages
from ..errors import HandshakeError
from ..identity import Keypair, PublicKey
from .noise_xx import RESERVED_NONCE, TAG, CipherState, HandshakeState, NoiseKey, nonces_are_used_up, pack_nonce

__all__ = [
    "MAX_HANDSHAKE_MESSAGE",
    "MAX_PLAINTEXT",
    "NoiseHandshake",
    "NoiseIdentity",
    "NoiseTransport",
]

MAX_HANDSHAKE_MESSAGE: Final = 4096
"""Bytes of a handshake message that we take. The longest that has a use, with the key and the signature of an RSA
identity of 8,192 bits, has some 2,200; 65,535, which Noise allows, would be a gift to a remote not yet known."""

_LENGTH: Final = 2
_MAX_MESSAGE: Final = 65535
MAX_PLAINTEXT: Final = _MAX_MESSAGE - TAG
"""Bytes of plaintext in one transport message (Noise, section 3)."""

_MESSAGES_AT_ONCE: Final = 256
"""Messages that one call decrypts at most: a fraction of a millisecond of empty ones."""
_LARGE: Final = 16 * 1024
"""From this size on, copying a buffer in order to join it costs more than a message of its own, and a message that is
worked on before the next is decrypted, unless it has a place for both, costs less than memory for them."""

_pack_length: Final = Struct(">H").pack
_pack_length_into: Final = Struct(">H").pack_into


class NoiseIdentity:
    """Who we are in every handshake: a static key, and the payload that proves it to be ours.

    Made once, since the proof is a signature: making it anew would cost each handshake as much as a key exchange.
    """

    __slots__ = ("muxers", "payload", "peer_id", "static")

    def __init__(self, keypair: Keypair, static: X25519PrivateKey, muxers: Sequence[str]) -> None:
        """``muxers``: what we offer, the most preferred first; none means that the muxer is negotiated afterwards."""
        self.peer_id = keypair.peer_id
        self.static = NoiseKey(static)
        self.muxers = muxers
        payload = messages.NoiseHandshakePayload(
            identity_key=keypair.public_key.to_protobuf(),
            identity_sig=keypair.sign(_SIGNATURE_PREFIX + self.static.public),
        )
        if muxers:
            payload.extensions.stream_muxers.extend(muxers)
        self.payload: bytes = payload.SerializeToString()


class NoiseHandshake:
    """The three handshake messages of libp2p, framed: ``-> e``, ``<- e, ee, s, es``, ``-> s, se``.

    Messages 2 and 3 carry the sender's identity key, its signature over the sender's Noise static key, and the muxers
    that the sender offers.
    """

    __slots__ = ("_identity", "_initiator", "_state", "muxer", "remote_key")

    remote_key: PublicKey
    """The remote's identity, there once the remote has proved it."""
    muxer: str | None
    """What both offer, by the initiator's preference; None unless both have sent a list."""

    def __init__(self, identity: NoiseIdentity, *, initiator: bool, ephemeral: NoiseKey) -> None:
        """``ephemeral`` is for this handshake alone."""
        self.muxer = None
        self._identity = identity
        self._initiator = initiator
        self._state = HandshakeState(initiator=initiator, ephemeral=ephemeral, static=identity.static)

    def write_message(self) -> bytes:
        """Our next message, with its length prefix.

        Raises:
            HandshakeError: the remote's key is of low order.
        """
        message = self._state.write_message(b"" if self._state.position == 0 else self._identity.payload)
        return _pack_length(len(message)) + message

    def read_message(self, message: bytes) -> None:
        """The remote's next message, without its length.

        Raises HandshakeError for one that is short, altered, replayed or out of order, whose payload does not prove the
        identity it names, or that offers none of our muxers; DecodeError for a malformed payload or identity key.
        """
        opening = self._state.position == 0
        payload = self._state.read_message(message)
        if not opening:
            self._read_payload(payload)
        elif payload:
            raise HandshakeError("the first message has a payload, which anyone could read and alter")

    def transport(self) -> NoiseTransport:
        """The channel, after the last message."""
        initiators, responders = self._state.split()
        return NoiseTransport(*((initiators, responders) if self._initiator else (responders, initiators)))

    def _read_payload(self, payload: bytes) -> None:
        message = messages.parse(messages.NoiseHandshakePayload, payload, "noise")
        key = PublicKey.from_protobuf(message.identity_key)
        if not key.verify(message.identity_sig, _SIGNATURE_PREFIX + self._state.remote_static):
            raise HandshakeError("the identity key did not sign the static key")
        self.muxer = self._choose_muxer(message.extensions.stream_muxers)
        self.remote_key = key

    def _choose_muxer(self, theirs: Sequence[str]) -> str | None:
        ours = self._identity.muxers
        if not ours or not theirs:
            return None
        preferred, known = (ours, theirs) if self._initiator else (theirs, ours)
        for muxer in preferred:
            if muxer in known:
                return muxer
        raise HandshakeError("no muxer in common")


_SIGNATURE_PREFIX: Final = b"noise-libp2p-static-key:"


class NoiseTransport:
    """The encrypted channel: transport messages, each behind its length. Every connection's every byte passes here.

    Nonces are counted here and not by :class:`CipherState`, which would cost a call for each message.
    """

    __slots__ = (
        "_carry",
        "_decrypt",
        "_decrypt_into",
        "_encrypt",
        "_encrypt_into",
        "_kept",
        "_received",
        "_rest",
        "_sent",
        "large",
        "take_block",
        "unread",
    )

    def __init__(self, sending: CipherState, receiving: CipherState) -> None:
        self.take_block: Callable[[int], bytearray] = bytearray
        """Gives memory for output, and for what is kept: at least so many bytes, of which nobody has a view."""
        self.unread = False
        """Messages are left of what :meth:`decrypt` was given."""
        self.large = 0
        """Bytes of plaintext of the first of these, if it is a large one: :meth:`decrypt_into` takes it, too."""
        self._encrypt = sending.aead.encrypt
        self._encrypt_into = sending.aead.encrypt_into
        self._sent = sending.nonce
        self._decrypt: Callable[..., bytes] = receiving.aead.decrypt
        self._decrypt_into: Callable[..., int] = receiving.aead.decrypt_into
        self._received = receiving.nonce
        self._carry = bytearray()
        """A message that did not end in what came; whole only if it is the large one."""
        self._rest: bytes | bytearray | memoryview = b""
        """What is unread, but for what is in :attr:`_carry`."""
        self._kept = False
        """That is in memory of ours."""

    def encrypt(self, buffers: Sequence[bytes | bytearray | memoryview]) -> bytes | memoryview:
        """The messages that carry ``buffers``, in one buffer: ready for one write, and not touched again while anybody has
        a view of it.

        Small buffers share messages; those of 16 KiB and more are encrypted from where they lie. Keep a call below
        some 512 KiB, so that the first bytes leave before the last are encrypted.

        Raises:
            HandshakeError: the nonces are used up.
        """
        if sum(map(len, buffers)) >= _LARGE:
            return self._encrypt_bulk(_arrange(buffers))
        nonce = self._sent
        if nonce == RESERVED_NONCE:
            nonces_are_used_up()
        message = self._encrypt(pack_nonce(nonce), b"".join(buffers), None)
        self._sent = nonce + 1
        return _pack_length(len(message)) + message

    def _encrypt_bulk(self, plaintexts: list[bytes | memoryview]) -> memoryview:
        nonce = self._sent
        if nonce + len(plaintexts) > RESERVED_NONCE:
            nonces_are_used_up()
        encrypt_into = self._encrypt_into
        view = memoryview(self.take_block(sum(map(len, plaintexts)) + len(plaintexts) * (_LENGTH + TAG)))
        offset = 0
        for plaintext in plaintexts:
            length = len(plaintext) + TAG
            _pack_length_into(view, offset, length)
            start = offset + _LENGTH
            offset = start + length
            encrypt_into(pack_nonce(nonce), plaintext, None, view[start:offset])
            nonce += 1
        self._sent = nonce
        return view[:offset]

    def decrypt(self, data: bytes | bytearray | memoryview = b"") -> list[bytes]:
        """The plaintext of messages that end in ``data``, any piece of what the remote sends: of small ones up to the first
        large one, of some at most, or of one large one. Call it again, with or without data, while something is
        :attr:`unread`.

        ``data`` must not change while something is unread, or until :meth:`keep_unread`; what it has of a message that does
        not end in it is kept. Raises HandshakeError for a message that is short, altered, replayed or out of order, and
        when the nonces are used up; nothing is decrypted any more after that.
        """
        if self.unread:
            if data:
                data = b"".join((self._rest, data))
                self._kept = True
            else:
                data = self._rest
            if self.large:
                self._rest = data
                return [self._open(self._take_large())]
            self.unread = False
            self._rest = b""
        else:
            self._kept = False
        view = memoryview(data)
        end = len(view)
        offset = 0
        plaintexts: list[bytes] = []
        if self._carry:
            offset = _fill(self._carry, view)
            if _missing(self._carry):
                return plaintexts
            if len(self._carry) >= _LARGE:
                self._leave(view[offset:], len(self._carry) - _LENGTH - TAG)
                return plaintexts
            plaintexts.append(self._open(memoryview(self._carry)[_LENGTH:]))
            self._carry = bytearray()
        decrypt = self._decrypt
        nonce = self._received
        try:
            while (start := offset + _LENGTH) <= end:
                stop = start + (view[offset] << 8 | view[offset + 1])
                if stop > end:
                    break
                if stop - start >= _LARGE:
                    self._leave(view[offset:], stop - start - TAG)
                    return plaintexts
                if len(plaintexts) == _MESSAGES_AT_ONCE:
                    self._leave(view[offset:], 0)
                    return plaintexts
                if nonce == RESERVED_NONCE:
                    nonces_are_used_up()
                plaintexts.append(decrypt(pack_nonce(nonce), view[start:stop], None))
                nonce += 1
                offset = stop
        except InvalidTag:
            self._fail()
        finally:
            self._received = nonce
        if offset < end:
            self._carry += view[offset:]
        return plaintexts

    def decrypt_into(self, place: memoryview) -> int:
        """Writes the plaintext of the :attr:`large` message, which comes next, to ``place``, and that of large ones behind it, as
        far as they fit. Returns how many bytes. Raises as :meth:`decrypt`; what came right before the false one is lost then."""
        filled = 0
        while 0 < self.large <= len(place) - filled:
            end = filled + self.large
            with place[filled:end] as part:
                self._open(self._take_large(), part)
            filled = end
        return filled

    def keep_unread(self) -> None:
        """What is unread is kept: the data it came in may change."""
        if self.unread and not self._kept:
            size = len(self._rest)
            kept = memoryview(self.take_block(size))[:size]
            kept[:] = self._rest
            self._rest = kept
            self._kept = True

    def _leave(self, rest: memoryview, large: int) -> None:
        self.unread = True
        self.large = large
        self._rest = rest

    def _take_large(self) -> memoryview:
        """The large message, without its length."""
        rest = memoryview(self._rest)
        if self._carry:
            message = memoryview(self._carry)[_LENGTH:]
            self._carry = bytearray()
        else:
            end = _LENGTH + (rest[0] << 8 | rest[1])
            message = rest[_LENGTH:end]
            rest = rest[end:]
        self.large = _large_at(rest)
        if rest:
            self._rest = rest
        else:
            self.unread = False
            self._rest = b""  # nor a view of nothing
        return message

    def _open(self, message: memoryview, place: memoryview | None = None) -> bytes:
        """The plaintext of one message, or nothing, if it was written to ``place``."""
        if self._received == RESERVED_NONCE:
            nonces_are_used_up()
        nonce = pack_nonce(self._received)
        plaintext = b""
        try:
            if place is None:
                plaintext = self._decrypt(nonce, message, None)
            else:
                self._decrypt_into(nonce, message, None, place)
        except InvalidTag:
            if place is not None:
                place[:] = bytes(len(place))  # what nobody has vouched for is there already
            self._fail()
        self._received += 1
        return plaintext

    def _fail(self) -> NoReturn:
        self._decrypt = self._decrypt_into = _refuse
        self.unread = False
        self.large = 0
        self._rest = b""
        raise HandshakeError("a message is short, altered, replayed or out of order") from None


def _arrange(buffers: Sequence[bytes | bytearray | memoryview]) -> list[bytes | memoryview]:
    """``buffers`` as the plaintexts of messages: runs of small ones joined, large ones cut without a copy."""
    plaintexts: list[bytes | memoryview] = []
    small: list[bytes | bytearray | memoryview] = []
    room = MAX_PLAINTEXT
    for buffer in buffers:
        size = len(buffer)
        if small and (size >= _LARGE or size > room):
            plaintexts.append(b"".join(small))
            small, room = [], MAX_PLAINTEXT
        if size >= _LARGE:
            view = memoryview(buffer)
            plaintexts += [view[start : start + MAX_PLAINTEXT] for start in range(0, size, MAX_PLAINTEXT)]
        else:
            small.append(buffer)
            room -= size
    if small:
        plaintexts.append(b"".join(small))
    return plaintexts


def _large_at(view: memoryview) -> int:
    """Bytes of plaintext of the large message that ``view`` begins with; 0 if that is a small one, or not all of it."""
    if len(view) < _LARGE:
        return 0
    length = view[0] << 8 | view[1]
    return length - TAG if _LARGE <= length <= len(view) - _LENGTH else 0


def _fill(carry: bytearray, view: memoryview) -> int:
    """Adds to the message in ``carry`` what ``view`` has of it. Returns where in ``view`` the message ends, if it does."""
    end = 0
    while (missing := _missing(carry)) and end < len(view):
        carry += view[end : end + missing]
        end += missing
    return end


def _missing(carry: bytearray) -> int:
    """How many bytes ``carry`` lacks: of the length, and once that is known, of its message."""
    if len(carry) < _LENGTH:
        return _LENGTH - len(carry)
    return _LENGTH + (carry[0] << 8 | carry[1]) - len(carry)


def _refuse(*_: object) -> NoReturn:
    """Stands in for the decryption of a channel that has failed."""
    raise InvalidTag
