"""What an encrypted channel brings."""

from __future__ import annotations

from stronghold_p2p.wire.noise import NoiseTransport

__all__ = ["decrypted"]


def decrypted(channel: NoiseTransport, data: bytes | bytearray | memoryview) -> list[bytes]:
    """The plaintext of all messages that end in ``data``."""
    messages = channel.decrypt(data)
    while channel.unread:
        messages += channel.decrypt()
    return messages
