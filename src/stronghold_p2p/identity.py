"""Identities: key pairs, public keys and peer ids (libp2p/specs peer-ids/peer-ids.md)."""

from __future__ import annotations

import enum
import functools
import hashlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal, NoReturn, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256K1,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    derive_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
)

from . import key_file
from .encoding import messages, multibase, varint
from .errors import DecodeError, InvalidAddress, KeyFileError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

__all__ = ["KeyType", "Keypair", "PeerId", "PublicKey"]

_MIN_RSA_BITS = 2048
_MAX_RSA_BITS = 8192
"""As in go-libp2p: shorter keys are insecure, and longer ones let an attacker consume CPU time."""

_MAX_RSA_EXPONENT = (1 << 31) - 1
"""As in Go's crypto/rsa: with a large exponent, verifying would cost as much as signing."""

_MAX_PUBLIC_KEY = 1200
"""Bytes of an encoded public key; an RSA key of 8,192 bits takes 1,067. Longer ones are refused unread."""

_MAX_INLINE_KEY = 42
"""Encoded keys of up to 42 bytes are their own multihash (peer-ids.md, "Peer Ids")."""

_IDENTITY = 0x00
_SHA2_256 = 0x12
_CID_V1_LIBP2P_KEY = b"\x01\x72"

_SECP256K1_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

_UNSUPPORTED = "neither Ed25519, RSA, ECDSA over P-256 nor secp256k1"

_AnyPrivateKey = Ed25519PrivateKey | RSAPrivateKey | EllipticCurvePrivateKey


class KeyType(enum.IntEnum):
    """Key types, numbered as in libp2p's ``KeyType`` (peer-ids.md)."""

    RSA = 0
    ED25519 = 1
    SECP256K1 = 2
    ECDSA = 3


class PeerId:
    """A peer id: the multihash of a public key (peer-ids.md, "Peer Ids"). Immutable and hashable."""

    __slots__ = ("_hash", "_text", "multihash")

    def __init__(self, multihash: bytes) -> None:
        """
        Raises:
            ValueError: not a multihash of a public key. Prefer :meth:`parse` and :meth:`from_bytes`.
        """
        if not _is_peer_id(multihash):
            raise ValueError("neither a sha2-256 multihash nor an encoded key of up to 42 bytes")
        self.multihash: Final = multihash
        """The binary form, as :meth:`to_bytes` gives it. Its hash, and whether two are equal, take no call in Python."""
        self._hash: Final = hash(multihash)
        self._text: str | None = None

    @classmethod
    def from_bytes(cls, multihash: bytes) -> PeerId:
        """Decodes the binary form, as sent by remotes.

        Raises:
            DecodeError: not a peer id.
        """
        try:
            return cls(bytes(multihash))
        except ValueError as error:
            raise DecodeError("identity", f"not a peer id: {error}") from error

    @classmethod
    def parse(cls, text: str) -> PeerId:
        """Parses base58 (``12D3Koo...``, ``Qm...``) or CIDv1 text in base16, 32, 36 or 58.

        Raises:
            InvalidAddress: not a peer id.
        """
        return _parse_peer_id(text)

    @classmethod
    def of(cls, peer: object) -> PeerId:
        """Converts a peer id or its text to a peer id.

        Raises:
            InvalidAddress: not the text of a peer id.
            TypeError: another type, which would never match as a key of rules or bans.
        """
        if isinstance(peer, str):
            return cls.parse(peer)
        if not isinstance(peer, PeerId):
            raise TypeError(f"expected a PeerId or its text, got {peer!r}")
        return peer

    def to_bytes(self) -> bytes:
        """The multihash."""
        return self.multihash

    def __bytes__(self) -> bytes:
        return self.multihash

    def to_cid(self) -> str:
        """As CIDv1 text in base32 (``bafz...``)."""
        return multibase.encode_base32(_CID_V1_LIBP2P_KEY + self.multihash)

    def __str__(self) -> str:
        if self._text is None:
            self._text = multibase.encode_base58(self.multihash)
        return self._text

    def __repr__(self) -> str:
        return f"PeerId({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, PeerId) and self.multihash == other.multihash)

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[type[PeerId], tuple[bytes]]:
        return PeerId, (self.multihash,)  # without the hash, which differs between processes


class PublicKey:
    """The public key of an identity. Immutable and hashable.

    Keys are compared by their canonical encoding, as in go-libp2p and rust-libp2p. A key read in another form (fields out
    of order, a compressed or uncompressed curve point) is equal, has the same peer id, and is written canonically.
    """

    __slots__ = ("_encoded", "_key", "peer_id", "type")

    def __init__(self, key: PublicKeyTypes) -> None:
        """
        Raises:
            ValueError: an RSA key outside of 2,048 to 8,192 bits, or a type that libp2p does not support.
        """
        key_type, data = _type_and_data(key)
        self._key: Final = key
        self.type: Final = key_type
        self._encoded: Final = _encode(key_type, data)
        self.peer_id: Final = _derive_peer_id(self._encoded)

    @classmethod
    def from_protobuf(cls, data: bytes) -> PublicKey:
        """Decodes libp2p's ``PublicKey`` message (peer-ids.md, "Keys").

        Raises:
            DecodeError: malformed, of an unsupported type, or an RSA key outside of 2,048 to 8,192 bits.
        """
        if len(data) > _MAX_PUBLIC_KEY:
            raise DecodeError("identity", f"a public key of {len(data)} bytes")
        if len(data) == _ED25519_SIZE and data.startswith(_ED25519_HEADER):  # nearly all: nothing has to be parsed
            declared, raw = KeyType.ED25519, data[len(_ED25519_HEADER) :]
        else:
            message = messages.parse(messages.PublicKey, data, "identity")
            declared, raw = KeyType(message.Type), message.Data
        try:
            key = cls(_load_public_key(declared, raw))
        except (ValueError, UnsupportedAlgorithm) as error:
            raise DecodeError("identity", f"public key: {error}") from error
        if key.type is not declared:
            raise DecodeError("identity", f"public key: {key.type.name} declared as {declared.name}")
        return key

    def to_protobuf(self) -> bytes:
        """Encodes libp2p's ``PublicKey`` message, in the canonical form that peer ids are derived from."""
        return self._encoded

    def verify(self, signature: bytes, data: bytes) -> bool:
        """Whether ``signature`` is a valid signature of ``data`` by this key. Never raises."""
        try:
            match self._key:
                case Ed25519PublicKey() as ed25519:
                    ed25519.verify(signature, data)
                case RSAPublicKey() as rsa:
                    rsa.verify(signature, data, PKCS1v15(), SHA256())
                case EllipticCurvePublicKey() as curve:
                    curve.verify(signature, data, ECDSA(SHA256()))
                case _:  # there is no other, see _type_and_data
                    return False
        except InvalidSignature:
            return False
        return True

    def __repr__(self) -> str:
        return f"PublicKey({self.type.name}, {self.peer_id})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PublicKey) and self._encoded == other._encoded

    def __hash__(self) -> int:
        return hash(self._encoded)

    def __reduce__(self) -> tuple[Callable[[bytes], PublicKey], tuple[bytes]]:
        return PublicKey.from_protobuf, (self._encoded,)


class Keypair:
    """An identity: a private key with its public key. Only :meth:`to_protobuf` and :meth:`save` expose the private key.

    Immutable: a copy is the same object. Pickling raises TypeError, since pickles are stored and sent unencrypted.
    """

    __slots__ = ("_key", "public_key")

    def __init__(self, key: PrivateKeyTypes) -> None:
        """
        Raises:
            ValueError: as for :class:`PublicKey`.
        """
        match key:
            case Ed25519PrivateKey() | RSAPrivateKey() | EllipticCurvePrivateKey():
                self._key: Final = key
                self.public_key: Final = PublicKey(key.public_key())
            case _:
                raise ValueError(_UNSUPPORTED)

    @classmethod
    def generate(cls) -> Keypair:
        """Generates a new Ed25519 identity."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_protobuf(cls, data: bytes) -> Keypair:
        """Decodes libp2p's ``PrivateKey`` message (peer-ids.md, "Keys").

        Raises:
            ValueError: malformed, or of an unsupported type.
        """
        try:
            message = messages.parse(messages.PrivateKey, data, "identity")
            declared = KeyType(message.Type)
            pair = cls(_load_private_key(declared, message.Data))
        except (DecodeError, ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: DER that is encrypted
            raise ValueError(f"not a private key in libp2p's form: {error}") from error
        if pair.public_key.type is not declared:
            raise ValueError(f"{pair.public_key.type.name} key declared as {declared.name}")
        return pair

    def to_protobuf(self) -> bytes:
        """Encodes libp2p's ``PrivateKey`` message: the unencrypted private key."""
        return _encode(self.public_key.type, _private_key_data(self._key))

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], passphrase: str | bytes | Callable[[], str | bytes] | None = None
    ) -> Keypair:
        """Reads a key file: PEM (PKCS#8, possibly encrypted) or libp2p's protobuf, recognized by content.

        The passphrase can be a function, which is called only for encrypted files. For unencrypted files, a passphrase is
        ignored. The file is read once, so it can be a pipe. Logs a warning if other users can read it.

        Raises:
            KeyFileError: the file is missing, damaged, too long, unsupported or not a key, or the passphrase is missing
                or wrong.
        """
        data = key_file.read(path)
        try:
            if key_file.is_pem(data):
                return cls(_load_pem(data, passphrase))
            return cls.from_protobuf(data)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise KeyFileError(path, key_file.refusal(data) or str(error)) from error

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        passphrase: str | bytes | None = None,
        format: Literal["pem", "libp2p"] = "pem",
        force: bool = False,
    ) -> None:
        """Writes a key file of mode 0600, atomically and synced to disk.

        ``pem`` is PKCS#8, encrypted with a passphrase (AES-256; its 2,048 rounds of PBKDF2 do not protect a short
        passphrase). ``libp2p`` is the protobuf of the other implementations, which cannot be encrypted.

        Raises:
            KeyFileError: the file exists without ``force``, is not a regular file, or cannot be written.
            ValueError: an empty passphrase, or a passphrase for ``libp2p``.
        """
        if format == "libp2p" and passphrase is not None:
            raise ValueError("a key file in libp2p's form cannot be encrypted")
        data = self.to_protobuf() if format == "libp2p" else self._to_pem(passphrase)
        key_file.write(path, data, force=force)

    @property
    def peer_id(self) -> PeerId:
        """The peer id of the public key."""
        return self.public_key.peer_id

    def sign(self, data: bytes) -> bytes:
        """Signs ``data`` as libp2p defines for this key type (peer-ids.md, "Key Types")."""
        match self._key:
            case Ed25519PrivateKey() as ed25519:
                return ed25519.sign(data)
            case RSAPrivateKey() as rsa:
                return rsa.sign(data, PKCS1v15(), SHA256())
            case EllipticCurvePrivateKey() as curve:
                signature = curve.sign(data, ECDSA(SHA256()))
                return _with_low_s(signature) if self.public_key.type is KeyType.SECP256K1 else signature

    def __repr__(self) -> str:
        return f"Keypair({self.public_key.type.name}, {self.peer_id})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Keypair cannot be pickled, since the pickle would contain the private key: pass the path of its key file or, "
            "where that is safe, the result of to_protobuf()"
        )

    def _to_pem(self, passphrase: str | bytes | None) -> bytes:
        encryption: KeySerializationEncryption = NoEncryption()
        if passphrase is not None:
            encryption = BestAvailableEncryption(_to_bytes(passphrase))
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@functools.lru_cache(maxsize=1024)  # requests are sent to the same peers again and again
def _parse_peer_id(text: str) -> PeerId:
    try:
        if text.startswith(("1", "Qm")):
            multihash = multibase.decode_base58(text)
            if not _is_peer_id(multihash):
                raise ValueError("cut short, too long, or mistyped")
            return PeerId(multihash)
        cid = multibase.decode(text)
        if not cid.startswith(_CID_V1_LIBP2P_KEY):
            raise ValueError("not the CIDv1 of a libp2p key")
        return PeerId(cid.removeprefix(_CID_V1_LIBP2P_KEY))
    except ValueError as error:
        raise InvalidAddress(text, f"not a peer id: {error}") from error


def _is_peer_id(multihash: bytes) -> bool:
    if len(multihash) <= 2 or multihash[1] != len(multihash) - 2:
        return False
    if multihash[0] == _SHA2_256:
        return multihash[1] == hashlib.sha256().digest_size
    return multihash[0] == _IDENTITY and multihash[1] <= _MAX_INLINE_KEY


def _derive_peer_id(encoded_key: bytes) -> PeerId:
    if len(encoded_key) <= _MAX_INLINE_KEY:
        return PeerId(bytes((_IDENTITY, len(encoded_key))) + encoded_key)
    digest = hashlib.sha256(encoded_key).digest()
    return PeerId(bytes((_SHA2_256, len(digest))) + digest)


def _encode(key_type: KeyType, data: bytes) -> bytes:
    """A ``PublicKey`` or ``PrivateKey`` message in the deterministic encoding that peer-ids.md, "Keys", demands.

    Written out because protobuf itself promises no stable bytes, and the peer id hangs on them.
    """
    return bytes((0x08, key_type, 0x12)) + varint.encode(len(data)) + data


_ED25519_HEADER: Final = _encode(KeyType.ED25519, bytes(32))[:-32]
_ED25519_SIZE: Final = len(_ED25519_HEADER) + 32


def _type_and_data(key: PublicKeyTypes) -> tuple[KeyType, bytes]:
    """What a ``PublicKey`` message says. Raises ValueError for a key that libp2p does not support."""
    match key:
        case Ed25519PublicKey():
            return KeyType.ED25519, key.public_bytes_raw()
        case EllipticCurvePublicKey(curve=SECP256K1()):
            return KeyType.SECP256K1, key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        case EllipticCurvePublicKey(curve=SECP256R1()):
            return KeyType.ECDSA, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        case RSAPublicKey():
            if not _MIN_RSA_BITS <= key.key_size <= _MAX_RSA_BITS:
                raise ValueError(f"RSA key of {key.key_size} bits, not {_MIN_RSA_BITS} to {_MAX_RSA_BITS}")
            if key.public_numbers().e > _MAX_RSA_EXPONENT:
                raise ValueError("RSA key with an exponent of more than 31 bits")
            return KeyType.RSA, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    raise ValueError(_UNSUPPORTED)


def _load_public_key(key_type: KeyType, data: bytes) -> PublicKeyTypes:
    match key_type:
        case KeyType.ED25519:
            return Ed25519PublicKey.from_public_bytes(data)
        case KeyType.SECP256K1:
            return EllipticCurvePublicKey.from_encoded_point(SECP256K1(), data)
        case KeyType.RSA | KeyType.ECDSA:
            return load_der_public_key(data)


def _load_private_key(key_type: KeyType, data: bytes) -> PrivateKeyTypes:
    match key_type:
        case KeyType.ED25519:
            key = Ed25519PrivateKey.from_private_bytes(data[:32])
            public = key.public_key().public_bytes_raw()
            if data[32:] not in (public, public + public):  # once, or twice in the older form
                raise ValueError("the public half does not belong to the private one")
            return key
        case KeyType.SECP256K1:
            if len(data) != 32:
                raise ValueError(f"secp256k1 key of {len(data)} bytes, not 32")
            return derive_private_key(int.from_bytes(data), SECP256K1())
        case KeyType.RSA | KeyType.ECDSA:
            return load_der_private_key(data, None)


def _private_key_data(key: _AnyPrivateKey) -> bytes:
    match key:
        case Ed25519PrivateKey():
            return key.private_bytes_raw() + key.public_key().public_bytes_raw()
        case EllipticCurvePrivateKey(curve=SECP256K1()):
            return key.private_numbers().private_value.to_bytes(32)
        case _:  # PKCS#1 for RSA, SEC1 for ECDSA
            return key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def _with_low_s(signature: bytes) -> bytes:
    """The one of two equally valid signatures that BIP 62 prescribes; rust-libp2p and js-libp2p refuse the other."""
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, min(s, _SECP256K1_ORDER - s))


def _load_pem(data: bytes, passphrase: str | bytes | Callable[[], str | bytes] | None) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(data, None)
    except TypeError:  # encrypted
        pass
    except ValueError as error:
        raise ValueError(f"damaged, or not a private key: {error}") from error
    given = passphrase() if callable(passphrase) else passphrase
    if not given:
        raise ValueError("encrypted, a passphrase is needed")
    try:
        return load_pem_private_key(data, _to_bytes(given))
    except ValueError as error:
        raise ValueError(f"wrong passphrase, damaged, or encrypted in an unsupported way: {error}") from error


def _to_bytes(passphrase: str | bytes) -> bytes:
    """What came from the environment may be no UTF-8, which text then holds as surrogates."""
    return passphrase.encode(errors="surrogateescape") if isinstance(passphrase, str) else passphrase
