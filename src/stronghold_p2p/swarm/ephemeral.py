"""The keys that handshakes use once."""

from __future__ import annotations

import asyncio
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ..wire.noise_xx import NoiseKey

__all__ = ["EphemeralKeys"]

DELAY: Final = 0.01
"""Seconds from one key's use to the making of the next: a handshake takes less, and should not wait for it."""


class EphemeralKeys:
    """Gives a key for each handshake, made ahead while nobody waits for it, and given once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._next: NoiseKey | None = _make()
        self._timer: asyncio.TimerHandle | None = None

    def take(self) -> NoiseKey:
        """A key that nobody has had."""
        if self._timer is None:
            self._timer = self._loop.call_later(DELAY, self._make_next)
        key, self._next = self._next, None
        return key or _make()

    def close(self) -> None:
        """Makes no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _make_next(self) -> None:
        self._timer = None
        self._next = _make()


def _make() -> NoiseKey:
    return NoiseKey(X25519PrivateKey.generate())
