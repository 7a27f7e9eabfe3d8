"""Certificates of TLS: those that a listener shows, and those that a dialer trusts.

Files are read in threads. A pipe keeps the certificate that it began with.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from stat import S_ISREG
from typing import Final, NoReturn

from ..errors import CertificateError
from .transport import CertificateFiles

__all__ = ["ServerCertificate", "trust"]

logger = logging.getLogger("stronghold_p2p")

INTERVAL: Final = 10.0
"""Seconds from one look at a certificate's files to the next: who renews one does so days before it expires."""

ALPN: Final = ["http/1.1"]
"""WebSocket's handshake is HTTP/1.1 (RFC 6455); some servers speak HTTP/2 to whoever does not say so."""


class ServerCertificate:
    """What a listener shows, read from its files, and read anew when they change."""

    def __init__(self, context: ssl.SSLContext, files: CertificateFiles, seen: object) -> None:
        self.context = context
        """For the next pipe."""
        self._files = files
        self._loaded = self._noticed = seen

    @classmethod
    async def load(cls, files: CertificateFiles) -> ServerCertificate:
        """Raises CertificateError."""
        seen = await asyncio.to_thread(_stamps, files)  # before: what is written meanwhile is noticed later
        return cls(await asyncio.to_thread(_server_context, *files), files, seen)

    async def check(self) -> None:
        """Reads the files if they have changed, and then stood still since the last look: a certificate and its key are
        not written at once.

        Raises:
            CertificateError: they cannot be used; the certificate before stays. Told once for each change.
        """
        seen = await asyncio.to_thread(_stamps, self._files)
        settled, self._noticed = seen == self._noticed, seen
        if settled and seen != self._loaded:
            self._loaded = seen
            self.context = await asyncio.to_thread(_server_context, *self._files)

    async def watch(self) -> NoReturn:
        """Checks until it is cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self.check()
            except CertificateError as error:
                logger.warning("%s; the previous certificate stays in use", error)


async def trust(authorities: str | os.PathLike[str] | None) -> ssl.SSLContext:
    """What a dialer verifies servers by: the system's authorities, and those of a file of PEM.

    Raises:
        CertificateError: the file cannot be used.
    """
    return await asyncio.to_thread(_client_context, authorities)


def _client_context(authorities: str | os.PathLike[str] | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(ALPN)
    if authorities is not None:
        _check(authorities, b"CERTIFICATE-----", "certificate")
        try:
            context.load_verify_locations(authorities)
        except ssl.SSLError as error:
            raise CertificateError(authorities, "its certificate is damaged") from error
    return context


def _server_context(chain: str | os.PathLike[str], key: str | os.PathLike[str]) -> ssl.SSLContext:
    _check(chain, b"CERTIFICATE-----", "certificate")
    _check(key, b"PRIVATE KEY-----", "private key")

    def no_passphrase() -> str:
        raise CertificateError(key, "the private key is encrypted: give one without a passphrase")

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.options |= ssl.OP_NO_RENEGOTIATION  # a client of TLS 1.2 could have us shake hands again and again
    context.set_alpn_protocols(ALPN)
    try:
        context.load_cert_chain(chain, key, no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise CertificateError(key, f"not the private key of the certificate in {chain}") from error
        raise CertificateError(chain, f"the certificate, or the private key in {key}, is damaged") from error
    return context


def _check(path: str | os.PathLike[str], mark: bytes, what: str) -> None:
    """Says what OpenSSL does not: which file, and what is missing there."""
    try:
        if not S_ISREG(os.stat(path).st_mode):  # a pipe could be read once alone, and may never end
            raise CertificateError(path, "expected a regular file")
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise CertificateError(path, (error.strerror or str(error)).lower()) from error
    if mark not in content:
        raise CertificateError(path, f"expected a {what} in PEM, found none")


def _stamps(files: CertificateFiles) -> object:
    """What a change of the files changes."""
    return [_stamp(path) for path in files]


def _stamp(path: str | os.PathLike[str]) -> tuple[int, int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
