"""Emulates a link between two network namespaces, in a process of its own: this kernel's netem is not everywhere.

    link.py PID INTERFACE RATE DELAY LOSS QUEUE

It opens a TAP interface in its own namespace and one in that of process PID, and carries Ethernet frames between them:
RATE bits a second each way, DELAY seconds one way, and each frame is lost with probability LOSS. Frames wait before the
link in QUEUE bytes at most; what has no room is dropped.

It prints ``"ready"``, answers each line of its input with the time and what each direction has carried by then, and ends
with its input.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import random
import select
import signal
import struct
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Final

__all__ = ["Carried", "Direction"]

CLONE_NEWNET: Final = 0x40000000
TUNSETIFF: Final = 0x400454CA
IFF_TAP: Final = 0x0002
IFF_NO_PI: Final = 0x1000

FRAME: Final = 2048
"""Bytes that hold any frame: the interfaces have an MTU of 1,500."""

TICK: Final = 0.001
"""Seconds that frames which are due wait for others: one sleep for each frame takes most of a core."""


@dataclass
class Carried:
    """What one direction has carried, and what not."""

    frames: int = 0
    bytes: int = 0
    busy: float = 0.0
    """Seconds that it took to send them."""
    lost: int = 0
    dropped: int = 0
    """There was no room before the link."""


class Direction:
    """One direction of a link: frames go in, and come out later, or never. Time is an argument, in seconds."""

    def __init__(self, *, rate: float, delay: float, loss: float, queue: int, seed: int) -> None:
        self._seconds_a_byte = 8 / rate
        self._delay = delay
        self._loss = loss
        self._longest_wait = queue * self._seconds_a_byte
        self._random = random.Random(seed)
        self._free_at = 0.0
        """When all that waits has been sent."""
        self._flying: deque[tuple[float, bytes]] = deque()
        self.carried = Carried()

    @property
    def next_due(self) -> float | None:
        """When the next frame comes out."""
        return self._flying[0][0] if self._flying else None

    def put(self, frame: bytes, now: float) -> None:
        start = max(now, self._free_at)
        if start - now > self._longest_wait:
            self.carried.dropped += 1
            return
        duration = len(frame) * self._seconds_a_byte
        self._free_at = start + duration
        self.carried.busy += duration
        if self._loss and self._random.random() < self._loss:
            self.carried.lost += 1
            return
        self.carried.frames += 1
        self.carried.bytes += len(frame)
        self._flying.append((self._free_at + self._delay, frame))

    def take(self, now: float) -> bytes | None:
        """The next frame that has come out."""
        if self._flying and self._flying[0][0] <= now:
            return self._flying.popleft()[1]
        return None


def emulate(taps: tuple[int, int], directions: tuple[Direction, Direction]) -> None:
    """Carries frames until the standard input ends."""
    one, other = taps
    ways = ((one, other, directions[0]), (other, one, directions[1]))
    stdin = sys.stdin.fileno()
    while True:
        due = [direction.next_due for direction in directions if direction.next_due is not None]
        timeout = max(min(due) - time.monotonic(), TICK) if due else None
        readable, _, _ = select.select([one, other, stdin], [], [], timeout)
        if stdin in readable:
            if not os.read(stdin, FRAME):
                return
            carried = [asdict(direction.carried) for direction in directions]
            print(json.dumps({"now": time.monotonic(), "carried": carried}), flush=True)
        now = time.monotonic()
        for source, target, direction in ways:
            if source in readable:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        direction.put(os.read(source, FRAME), now)
            while (frame := direction.take(now)) is not None:
                with contextlib.suppress(OSError):  # that interface is down
                    os.write(target, frame)


def open_tap(name: str) -> int:
    """A TAP interface in the namespace that we are in."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return tap


def enter_network_of(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{pid}/ns/net") as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main(pid: int, interface: str, rate: float, delay: float, loss: float, queue: int) -> None:
    one = open_tap(interface)
    enter_network_of(pid)
    other = open_tap(interface)
    first, second = (Direction(rate=rate, delay=delay, loss=loss, queue=queue, seed=seed) for seed in (1, 2))
    print(json.dumps("ready"), flush=True)
    emulate((one, other), (first, second))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with its input
    pid, interface, rate, delay, loss, queue = sys.argv[1:]
    main(int(pid), interface, float(rate), float(delay), float(loss), int(queue))
