"""Reading and writing key files as bytes, and recognizing unsupported formats."""

from __future__ import annotations

import base64
import binascii
import contextlib
import logging
import os
import re
import stat
import tempfile
from typing import Final

from .errors import KeyFileError

__all__ = ["is_pem", "read", "refusal", "write"]

logger = logging.getLogger("stronghold_p2p")

MAX_SIZE: Final = 1 << 16
"""Bytes of a key file; an RSA key of 8,192 bits takes 6,566 in encrypted PEM. The path may lead to an endless device."""

BEGIN: Final = re.compile(rb"^-----BEGIN ([!-~ ]*)-----", re.MULTILINE)
"""RFC 7468, section 2; there may be text before it."""

PEM_KEYS: Final = frozenset({"PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"})
PEM_OTHERS: Final = {
    "OPENSSH PRIVATE KEY": "a key in OpenSSH's form",
    "PUBLIC KEY": "a public key (no private key)",
    "RSA PUBLIC KEY": "a public key (no private key)",
    "CERTIFICATE": "a certificate (no private key)",
}
"""What PEM holds, by its label."""

LIBP2P: Final = re.compile(rb"\x08[\x00-\x03]\x12")
"""How a private key in libp2p's form begins: with its type, and the tag of its data."""

SEQUENCE: Final = rb"(?s:\x30(?:[\x00-\x80]|\x81.|\x82..|\x83...))"
"""How DER of a key begins; what follows is an integer (02) or another sequence."""

OTHERS: Final = (
    (rb"\s*\{", "JSON"),
    (rb"PuTTY-User-Key-File", "a key in PuTTY's form"),
    (rb"(?:ssh|ecdsa)-\S+ AAAA", "a public key of OpenSSH (no private key)"),
    (rb"\xff\xfe|\xfe\xff|\xef\xbb\xbf", "text with a byte order mark"),
    (rb"(?:\s*[0-9a-fA-F]){16,}\s*\Z", "text in hexadecimal digits (`xxd -r -p` decodes it)"),
    (SEQUENCE + rb"[\x02\x30]", "DER (`openssl pkey -inform DER` makes PEM of it)"),
)
"""What else there is, by its beginning."""


def is_pem(data: bytes) -> bool:
    """Whether there is a PEM block in it."""
    return BEGIN.search(data) is not None


def refusal(data: bytes) -> str | None:
    """The error for a file in a known but unsupported format; None for other files."""
    form: str | None
    labels = [label.decode("ascii") for label in BEGIN.findall(data)]
    if PEM_KEYS.intersection(labels):
        form = "PKCS#8 of version 2 (RFC 5958)" if _is_version_2(data) else None
    elif labels:
        form = PEM_OTHERS.get(labels[0], f'PEM of a "{labels[0]}"')
    elif LIBP2P.match(_decode_base64(data)):
        form = "libp2p's form in base64 (`base64 -d` decodes it)"
    else:
        form = next((name for beginning, name in OTHERS if re.match(beginning, data)), None)
    return form and f"{form} is not supported; PEM (PKCS#8) and libp2p's protobuf are"


def read(path: str | os.PathLike[str]) -> bytes:
    """All of it, once: it may be a pipe, which is waited for. Warns in the log if others can read it.

    Raises:
        KeyFileError: it cannot be read, or is too long for a key.
    """
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(MAX_SIZE + 1)
    except FileNotFoundError as error:
        reason = "there is no such file; Keypair.generate().save() or `stronghold-p2p key new` makes one"
        raise KeyFileError(path, reason) from error
    except OSError as error:
        raise KeyFileError(path, error.strerror or str(error)) from error
    if len(data) > MAX_SIZE:
        raise KeyFileError(path, f"over {MAX_SIZE:,} bytes: not a key file")
    if mode & 0o077:
        logger.warning("key file %s is open to other users (mode %04o); `chmod 600` it", path, mode)
    return data


def write(path: str | os.PathLike[str], data: bytes, *, force: bool) -> None:
    """With mode 0600; it is complete and on disk, or not there at all. ``force``: also in the place of another file.

    Raises:
        KeyFileError: it cannot be written, or what stands there is not to be replaced.
    """
    try:
        if force:
            _check_replaceable(path)
        _write(path, data, force)
    except FileExistsError as error:
        raise KeyFileError(path, "exists: choose another name, or pass force=True (--force) to overwrite it") from error
    except FileNotFoundError as error:
        raise KeyFileError(path, "its folder does not exist") from error
    except OSError as error:
        raise KeyFileError(path, error.strerror or str(error)) from error


def _check_replaceable(path: str | os.PathLike[str]) -> None:
    """A link is replaced, not followed, unless it leads to a device."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        kind = "directory" if stat.S_ISDIR(mode) else "pipe" if stat.S_ISFIFO(mode) else "device or socket"
        raise KeyFileError(path, f"is a {kind}; only a regular file is overwritten")


def _write(path: str | os.PathLike[str], data: bytes, force: bool) -> None:
    parent = os.path.dirname(path) or os.curdir
    descriptor, temporary = tempfile.mkstemp(dir=parent, prefix=".key-")  # created with mode 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if force:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)  # unlike a rename, fails if the file exists
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    folder = os.open(parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the name, too, outlives a power cut
    finally:
        os.close(folder)


def _is_version_2(data: bytes) -> bool:
    """Its version is 1, counted from 0, and its algorithm follows, a sequence: RFC 5958, section 2."""
    block = re.search(rb"-----BEGIN PRIVATE KEY-----([^-]*)", data)
    der = _decode_base64(block[1]) if block else b""
    return re.match(SEQUENCE + rb"\x02\x01\x01\x30", der) is not None


def _decode_base64(text: bytes) -> bytes:
    """Nothing if it is none."""
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error:
        return b""
