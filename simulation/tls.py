"""TLS as in any world: one certificate for all, and messages whose lengths depend on nothing."""

from __future__ import annotations

import ssl
import tempfile
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from stronghold_p2p.transport import tls

__all__ = ["replace_contexts"]


def replace_contexts() -> None:
    """Has every listener show that certificate, and every dialer take it."""
    client, server = _client_context(), _server_context()
    vars(tls)["_client_context"] = lambda authorities: client
    vars(tls)["_server_context"] = lambda chain, key: server


def _client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # addresses change, and the certificate does not
    context.verify_mode = ssl.CERT_NONE
    return context


def _server_context() -> ssl.SSLContext:
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))  # whose signatures are all as long
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
        .sign(key, None)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # which hold random numbers, written as short as they can be
    with tempfile.NamedTemporaryFile() as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.write(certificate.public_bytes(Encoding.PEM))
        file.flush()
        context.load_cert_chain(file.name)
    return context
