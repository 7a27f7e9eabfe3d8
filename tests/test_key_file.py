"""Forms of key files that are not read, and what is not overwritten."""

from __future__ import annotations

import base64
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    pkcs12,
)

from stronghold_p2p.errors import KeyFileError
from stronghold_p2p.identity import Keypair

KEY = ed25519.Ed25519PrivateKey.generate()
P256 = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
LIBP2P = Keypair(KEY).to_protobuf()


def private(form: PrivateFormat, encoding: Encoding = Encoding.PEM, key: Any = KEY, passphrase: bytes = b"") -> bytes:
    encoded: bytes = key.private_bytes(
        encoding, form, BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    )
    return encoded


def public(encoding: Encoding, form: PublicFormat, key: Any = KEY) -> bytes:
    encoded: bytes = key.public_key().public_bytes(encoding, form)
    return encoded


def version_2() -> bytes:
    """RFC 5958: a version, the algorithm, the private key, and in [1] the public one."""
    body = (
        bytes.fromhex("020101 300506032b6570 04220420") + KEY.private_bytes_raw() + bytes.fromhex("812100")
    ) + KEY.public_key().public_bytes_raw()
    return bytes((0x30, len(body))) + body


def pem(label: str, data: bytes) -> bytes:
    return f"-----BEGIN {label}-----\n".encode() + base64.encodebytes(data) + f"-----END {label}-----\n".encode()


@pytest.mark.parametrize(
    ("content", "form"),
    [
        pytest.param(private(PrivateFormat.OpenSSH), "a key in OpenSSH's form", id="OpenSSH"),
        pytest.param(pem("OPENSSH PRIVATE KEY", b"aes256-ctr"), "a key in OpenSSH's form", id="OpenSSH encrypted"),
        pytest.param(private(PrivateFormat.PKCS8, Encoding.DER), "DER", id="DER, PKCS#8"),
        pytest.param(private(PrivateFormat.PKCS8, Encoding.DER, passphrase=b"x"), "DER", id="DER, encrypted"),
        pytest.param(private(PrivateFormat.PKCS8, Encoding.DER, RSA), "DER", id="DER, RSA"),
        pytest.param(private(PrivateFormat.TraditionalOpenSSL, Encoding.DER, RSA), "DER", id="DER, PKCS#1"),
        pytest.param(private(PrivateFormat.TraditionalOpenSSL, Encoding.DER, P256), "DER", id="DER, SEC1"),
        pytest.param(version_2(), "DER", id="DER, version 2"),
        pytest.param(
            pkcs12.serialize_key_and_certificates(None, RSA, None, None, NoEncryption()), "DER", id="PKCS#12"
        ),
        pytest.param(pem("PRIVATE KEY", version_2()), "PKCS#8 of version 2", id="version 2"),
        pytest.param(
            pem("PRIVATE KEY", version_2()).replace(b"\n", b"\r\n"), "PKCS#8 of version 2", id="version 2, line ends"
        ),
        pytest.param(base64.b64encode(LIBP2P), "libp2p's form in base64", id="base64"),
        pytest.param(base64.encodebytes(LIBP2P), "libp2p's form in base64", id="base64 in lines"),
        pytest.param(base64.b64encode(Keypair(RSA).to_protobuf()), "libp2p's form in base64", id="base64, RSA"),
        pytest.param(LIBP2P.hex().encode(), "text in hexadecimal digits", id="hexadecimal"),
        pytest.param(public(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "no private key", id="public"),
        pytest.param(public(Encoding.PEM, PublicFormat.PKCS1, RSA), "no private key", id="public RSA"),
        pytest.param(public(Encoding.OpenSSH, PublicFormat.OpenSSH), "a public key of OpenSSH", id="public OpenSSH"),
        pytest.param(pem("CERTIFICATE", b"x"), "a certificate", id="certificate"),
        pytest.param(pem("PGP PRIVATE KEY BLOCK", b"x"), 'PEM of a "PGP PRIVATE KEY BLOCK"', id="OpenPGP"),
        pytest.param(
            private(PrivateFormat.TraditionalOpenSSL, key=dsa.generate_private_key(1024)), "PEM of a \"DSA", id="DSA"
        ),
        pytest.param(b"PuTTY-User-Key-File-3: ssh-ed25519\n", "a key in PuTTY's form", id="PuTTY"),
        pytest.param(b'{"Identity": {"PrivKey": "CAES"}}', "JSON", id="JSON"),
        pytest.param(private(PrivateFormat.PKCS8).decode().encode("utf-16"), "text with a byte order", id="UTF-16"),
        pytest.param(private(PrivateFormat.PKCS8).decode().encode("utf-8-sig"), "text with a byte order", id="mark"),
    ],
)  # fmt: skip
def test_a_form_that_is_not_supported_is_named(content: bytes, form: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(KeyFileError) as raised:
        Keypair.load(path, "x")
    assert form in raised.value.reason
    assert raised.value.reason.endswith("is not supported; PEM (PKCS#8) and libp2p's protobuf are")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"Bag Attributes\n    localKeyID: 01\n" + private(PrivateFormat.PKCS8), id="text before it"),
        pytest.param(pem("CERTIFICATE", b"x") + private(PrivateFormat.PKCS8), id="another block before it"),
        pytest.param(pem("EC PARAMETERS", b"x") + private(PrivateFormat.TraditionalOpenSSL, key=P256), id="parameters"),
        pytest.param(private(PrivateFormat.PKCS8).replace(b"\n", b"\r\n"), id="line ends of Windows"),
        pytest.param(b"\n\n" + private(PrivateFormat.PKCS8) + b"\n\n", id="empty lines"),
        pytest.param(private(PrivateFormat.TraditionalOpenSSL, key=RSA), id="PKCS#1"),
        pytest.param(private(PrivateFormat.TraditionalOpenSSL, key=RSA, passphrase=b"x"), id="PKCS#1, encrypted"),
    ],
)
def test_pem_as_others_write_it(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    Keypair.load(path, "x")


@pytest.mark.parametrize("content", [b"", b"\n", b"hello", b"\x08\x01\x12\x40", b"\x00" * 100, b"0x", b"aGVsbG8="])
def test_what_is_no_known_form(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(KeyFileError, match="not a private key in libp2p's form"):
        Keypair.load(path)


def test_a_missing_file_and_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"there is no such file; .*`stronghold-p2p key new` makes one"):
        Keypair.load(tmp_path / "key")


# -- what is not overwritten ---------------------------------------------------------------------------


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize(
    ("make", "kind"),
    [(os.mkfifo, "pipe"), (make_socket, "device or socket"), (Path.mkdir, "directory")],
    ids=["pipe", "socket", "directory"],
)
def test_what_is_no_file_is_not_replaced(
    make: Callable[[Path], object], kind: str, linked: bool, tmp_path: Path
) -> None:
    path = there = tmp_path / "there"
    make(there)
    if linked:
        path = tmp_path / "link"
        path.symlink_to(there)
    before = path.lstat()
    with pytest.raises(KeyFileError, match=f"is a {kind}; only a regular file is overwritten"):
        Keypair.generate().save(path, force=True)
    assert os.path.samestat(path.lstat(), before)
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, there.name}


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "link"
    path.symlink_to(os.devnull)
    for name in (path, os.devnull):
        with pytest.raises(KeyFileError, match="is a device"):
            Keypair.generate().save(name, force=True)
    assert path.is_symlink()
