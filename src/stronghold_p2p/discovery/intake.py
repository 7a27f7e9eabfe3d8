"""How much of what comes is looked at: anybody on the network can send any number of packets. Pure."""

from __future__ import annotations

from typing import Final

__all__ = ["Intake"]

MAX_PACKETS: Final = 2000
"""Packets a second that are read, of all services and senders, some 4 us each. A hundred printers and televisions send a
tenth of it. The system drops what comes beyond, ours or not."""
MAX_BYTES: Final = 256 * 1024
"""Bytes a second of packets for us that are decoded: 200 answers, each of twelve addresses, take 60 ms at most, and the
dearest packets that I know of 70 ms."""
MAX_BYTES_PER_SENDER: Final = MAX_BYTES // 4
"""The same of one IP address: fifty answers."""
PACKET: Final = 512
"""Bytes that a packet costs at least."""


class Intake:
    """Counts packets, a second at a time."""

    def __init__(self) -> None:
        self._until = float("-inf")
        self._packets = 0
        self._bytes = 0
        self._by_sender: dict[str, int] = {}

    def read(self, now: float) -> float:
        """Counts a packet that is read. Returns for how many seconds none should be, if it was the last one."""
        if now >= self._until:
            self._until = now + 1.0
            self._packets = self._bytes = 0
            self._by_sender.clear()
        self._packets += 1
        return self._until - now if self._packets >= MAX_PACKETS else 0.0

    def takes(self, sender: str, size: int) -> bool:
        """Counts a packet that is to be decoded, the one that was read last. Returns whether it may be."""
        cost = max(size, PACKET)
        used = self._by_sender.get(sender, 0) + cost
        if used > MAX_BYTES_PER_SENDER or self._bytes + cost > MAX_BYTES:
            return False
        self._bytes += cost
        self._by_sender[sender] = used
        return True
