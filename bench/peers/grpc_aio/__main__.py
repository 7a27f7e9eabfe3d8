"""gRPC on asyncio over TLS: a unary call for each request, on one channel."""

from __future__ import annotations

import base64
import datetime
import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from common import Request, answer, coded, main
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@asynccontextmanager
async def serve() -> AsyncIterator[str]:
    key, certificate = self_signed()
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", HANDLERS),))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    await server.start()
    try:
        yield f"127.0.0.1:{port} {base64.b64encode(certificate).decode()}"
    finally:
        await server.stop(None)


async def answer_json(body: bytes, context: Any) -> bytes:
    return answer(body, "json")


async def answer_raw(body: bytes, context: Any) -> bytes:
    return answer(body, "raw")


HANDLERS = {
    "json": grpc.unary_unary_rpc_method_handler(answer_json),
    "raw": grpc.unary_unary_rpc_method_handler(answer_raw),
}


@asynccontextmanager
async def dial(address: str, form: str) -> AsyncIterator[Request]:
    target, certificate = address.split()
    credentials = grpc.ssl_channel_credentials(base64.b64decode(certificate))
    # Without a pool of its own, a channel would share the connection of the one before.
    options = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(target, credentials, options=options) as channel:
        yield coded(channel.unary_unary(f"/bench.Echo/{form}"), form)


def self_signed() -> tuple[bytes, bytes]:
    """A private key and its certificate for 127.0.0.1, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, certificate.public_bytes(pem)


if __name__ == "__main__":
    main(serve, dial, {"grpcio": grpc.__version__})
