"""What processes take, in processor time and page faults, and what else takes the processors meanwhile. Linux only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

__all__ = ["Machine", "Usage", "usage_of", "waiting_of"]

TICK = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds."""


@dataclass(frozen=True)
class Usage:
    """Of one process with all its threads; or the difference between two moments."""

    processor_seconds: float
    minor_faults: int

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.processor_seconds + other.processor_seconds,
            self.minor_faults + other.minor_faults,
        )

    def __sub__(self, before: Usage) -> Usage:
        return Usage(
            self.processor_seconds - before.processor_seconds,
            self.minor_faults - before.minor_faults,
        )


def usage_of(process: int) -> Usage:
    """Since it started, one that has ended but was not waited for, too.

    Raises:
        FileNotFoundError: there is no such process.
    """
    # proc_pid_stat(5): the name, the second field, may have spaces and parentheses; the state is the third.
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    faults, user, system = (int(fields[number - 3]) for number in (10, 14, 15))
    return Usage((user + system) * TICK, faults)


def waiting_of(process: int) -> float:
    """Seconds since it started in which its main thread could have run, and others ran on its processor; without those that
    the hypervisor took.

    Raises:
        FileNotFoundError: there is no such process.
    """
    # The kernel's scheduler/sched-stats.rst: time on the processor, time that it has waited for one, both in nanoseconds.
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9


@dataclass(frozen=True)
class Machine:
    """Seconds of all processors since it started; or the difference between two moments."""

    busy: float
    stolen: float
    """In which a processor had work, and the hypervisor ran others on it."""
    total: float

    @classmethod
    def now(cls) -> Self:
        return cls.parse(Path("/proc/stat").read_text())

    @classmethod
    def parse(cls, stat: str) -> Self:
        """The first line of /proc/stat: proc_stat(5)."""
        fields = stat.splitlines()[0].split()[1:9]
        user, nice, system, idle, waiting, interrupts, soft, stolen = (int(field) * TICK for field in fields)
        busy = user + nice + system + interrupts + soft
        return cls(busy, stolen, busy + stolen + idle + waiting)

    def __sub__(self, before: Machine) -> Machine:
        return Machine(self.busy - before.busy, self.stolen - before.stolen, self.total - before.total)
