"""Noise_XX_25519_ChaChaPoly_SHA256.

Source: the Noise Protocol Framework, revision 34 ("Noise" below), whose names the objects and methods bear.
"""

from __future__ import annotations

from hashlib import sha256
from struct import Struct
from typing import Final, NoReturn, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import HandshakeError

__all__ = [
    "RESERVED_NONCE",
    "TAG",
    "CipherState",
    "HandshakeState",
    "NoiseKey",
    "SymmetricState",
    "nonces_are_used_up",
    "pack_nonce",
]

TAG: Final = 16
"""Bytes of a message that authenticate it."""

RESERVED_NONCE: Final = 2**64 - 1
"""Never used: whoever gets here must stop (Noise, section 5.1)."""

pack_nonce: Final = Struct("<4xQ").pack  # Noise, section 12.3


def nonces_are_used_up() -> NoReturn:
    """Instead of the reserved nonce."""
    raise HandshakeError("the nonces are used up")


class NoiseKey:
    """A key with its public half in bytes: deriving that takes a third of the time of an exchange, so it is done before there
    is a handshake."""

    __slots__ = ("private", "public")

    def __init__(self, private: X25519PrivateKey) -> None:
        self.private = private
        self.public = private.public_key().public_bytes_raw()


class HandshakeState:
    """The XX handshake (Noise, section 5.3). A message that fails changes nothing."""

    __slots__ = ("_ephemeral", "_initiator", "_remote_ephemeral", "_static", "_symmetric", "position", "remote_static")

    def __init__(self, *, initiator: bool, ephemeral: NoiseKey, static: NoiseKey, prologue: bytes = b"") -> None:
        self.position = 0
        """How many messages have passed."""
        self.remote_static = b""
        """The remote's static public key, once a message has brought it."""
        self._initiator = initiator
        self._ephemeral = ephemeral
        self._static = static
        self._remote_ephemeral: X25519PublicKey | None = None
        self._symmetric = SymmetricState(_PROTOCOL_NAME)
        self._symmetric.mix_hash(prologue)

    @property
    def handshake_hash(self) -> bytes:
        """What both sides have seen; after the last message the same on either side (Noise, section 11.2)."""
        return self._symmetric.h

    def write_message(self, payload: bytes) -> bytes:
        """Our next message.

        Raises:
            HandshakeError: the remote's key is of low order.
        """
        tokens = self._next_message(ours=True)
        before = self._changeable
        message = b""
        try:
            for token in tokens:
                if token == "e":
                    self._symmetric.mix_hash(self._ephemeral.public)
                    message += self._ephemeral.public
                elif token == "s":
                    message += self._symmetric.encrypt_and_hash(self._static.public)
                else:
                    self._symmetric.mix_key(self._dh(token))
            message += self._symmetric.encrypt_and_hash(payload)
        except HandshakeError:
            self._changeable = before
            raise
        self.position += 1
        return message

    def read_message(self, message: bytes) -> bytes:
        """The payload of the remote's next message.

        Raises:
            HandshakeError: the message is invalid.
        """
        tokens = self._next_message(ours=False)
        before = self._changeable
        try:
            for token in tokens:
                if token == "e":
                    public, message = _split_at(message, _DHLEN)
                    self._remote_ephemeral = X25519PublicKey.from_public_bytes(public)
                    self._symmetric.mix_hash(public)
                elif token == "s":
                    encrypted, message = _split_at(message, _DHLEN + TAG)
                    self.remote_static = self._symmetric.decrypt_and_hash(encrypted)
                else:
                    self._symmetric.mix_key(self._dh(token))
            payload = self._symmetric.decrypt_and_hash(message)
        except HandshakeError:
            self._changeable = before
            raise
        self.position += 1
        return payload

    def split(self) -> tuple[CipherState, CipherState]:
        """After the last message: what encrypts for the initiator, and what encrypts for the responder."""
        return self._symmetric.split()

    def _next_message(self, *, ours: bool) -> tuple[str, ...]:
        """The tokens of the next message."""
        if self.position == len(_XX) or ours != (self._initiator == (self.position % 2 == 0)):
            raise RuntimeError("a handshake message out of turn")
        return _XX[self.position]

    @property
    def _changeable(self) -> tuple[_State, X25519PublicKey | None, bytes]:
        """All that a message changes before it has succeeded; set it to undo that."""
        return self._symmetric.state, self._remote_ephemeral, self.remote_static

    @_changeable.setter
    def _changeable(self, before: tuple[_State, X25519PublicKey | None, bytes]) -> None:
        self._symmetric.state, self._remote_ephemeral, self.remote_static = before

    def _dh(self, token: str) -> bytes:
        ours, theirs = token[:1], token[1:]  # the initiator's key is named first
        if not self._initiator:
            ours, theirs = theirs, ours
        private = (self._ephemeral if ours == "e" else self._static).private
        public = self._remote_ephemeral if theirs == "e" else X25519PublicKey.from_public_bytes(self.remote_static)
        assert public is not None  # the pattern has a key before what uses it
        try:
            return private.exchange(public)
        except ValueError as error:  # all zeros: a secret that everyone knows
            raise HandshakeError("a public key of low order") from error


_PROTOCOL_NAME: Final = b"Noise_XX_25519_ChaChaPoly_SHA256"  # as long as a hash, so it is one (section 5.2)
_XX: Final = (("e",), ("e", "ee", "s", "es"), ("s", "se"))
_DHLEN: Final = 32
_KEYLEN: Final = 32
_HASH: Final = SHA256()


def _split_at(message: bytes, length: int) -> tuple[bytes, bytes]:
    if len(message) < length:
        raise HandshakeError("a message is too short")
    return message[:length], message[length:]


class SymmetricState:
    """The hash of all that has passed, and the keys from it (Noise, section 5.2)."""

    __slots__ = ("_cipher", "_ck", "h")

    def __init__(self, protocol_name: bytes) -> None:
        self.h = protocol_name
        self._ck = protocol_name
        self._cipher: CipherState | None = None

    @property
    def state(self) -> _State:
        """All that a message changes; set it to undo that."""
        return self.h, self._ck, self._cipher, 0 if self._cipher is None else self._cipher.nonce

    @state.setter
    def state(self, state: _State) -> None:
        self.h, self._ck, self._cipher, nonce = state
        if self._cipher is not None:
            self._cipher.nonce = nonce

    def mix_key(self, input_key_material: bytes) -> None:
        self._ck, key = _hkdf(self._ck, input_key_material)
        self._cipher = CipherState(key)

    def mix_hash(self, data: bytes) -> None:
        self.h = sha256(self.h + data).digest()

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        """As it is, and readable by all, before the first key."""
        ciphertext = plaintext if self._cipher is None else self._cipher.encrypt_with_ad(self.h, plaintext)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        """
        Raises:
            HandshakeError: the authentication tag is wrong.
        """
        plaintext = ciphertext if self._cipher is None else self._cipher.decrypt_with_ad(self.h, ciphertext)
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[CipherState, CipherState]:
        first, second = _hkdf(self._ck, b"")
        return CipherState(first), CipherState(second)


class CipherState:
    """A key and the nonce that is next (Noise, section 5.1)."""

    __slots__ = ("aead", "nonce")

    def __init__(self, key: bytes) -> None:
        self.aead = ChaCha20Poly1305(key)
        self.nonce = 0

    def encrypt_with_ad(self, associated_data: bytes, plaintext: bytes) -> bytes:
        ciphertext = self.aead.encrypt(pack_nonce(self.nonce), plaintext, associated_data)
        self.nonce += 1
        return ciphertext

    def decrypt_with_ad(self, associated_data: bytes, ciphertext: bytes) -> bytes:
        """Raises HandshakeError, and keeps the nonce, if the tag does not fit."""
        try:
            plaintext = self.aead.decrypt(pack_nonce(self.nonce), ciphertext, associated_data)
        except InvalidTag:
            raise HandshakeError("a message is short, altered, replayed or out of order") from None
        self.nonce += 1
        return plaintext


_State: TypeAlias = tuple[bytes, bytes, CipherState | None, int]


def _hkdf(chaining_key: bytes, input_key_material: bytes) -> tuple[bytes, bytes]:
    """Two keys from two (Noise, section 4.3)."""
    keys = HKDF(_HASH, 2 * _KEYLEN, chaining_key, None).derive(input_key_material)
    return keys[:_KEYLEN], keys[_KEYLEN:]
