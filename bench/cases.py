"""What is measured, and what is to be reached: ratios to others, in the worst round of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "ALL",
    "CASES",
    "COMPILED",
    "FAULTS_OF_A_GIGABYTE",
    "GIGABYTE",
    "GOALS",
    "LIMIT",
    "NATIVE",
    "OURS",
    "OVER_WEBSOCKET",
    "RIVALS",
    "Case",
    "Goal",
    "Rounds",
]

OURS = "stronghold-p2p"
COMPILED = "stronghold-p2p, compiled"
"""The same with its hot path compiled."""
OVER_WEBSOCKET = {OURS: f"{OURS}, /ws", COMPILED: f"{COMPILED}, /ws"}
"""The same builds over WebSocket, without TLS."""
LIMIT = "the limit"
"""What bare encrypted frames reach here: see limit.py."""


@dataclass(frozen=True)
class Case:
    """One kind of work. ``figure`` is the key of the figure that counts."""

    name: str
    options: tuple[str, ...]
    figure: str
    unit: str
    limit: str | None = None
    """The figure of limit.py that it is held against."""
    mode: str = "measure"
    """The command of a peer's program: "measure", "many", "perf" or "connect"."""
    less_is_better: bool = False

    @property
    def serve(self) -> str:
        """The command of the listener's program."""
        return f"{self.mode}-serve" if self.mode in {"many", "perf"} else "serve"

    @property
    def is_bulk(self) -> bool:
        return self.unit == "MB/s"

    @property
    def is_timed(self) -> bool:
        """Whether it takes as many seconds as it is told."""
        return self.mode in {"measure", "many"}


GIGABYTE = 1_000_000_000

BULK = ("--size", "1000000", "--concurrency", "4", "--format", "raw")

CASES = (
    Case("64 bytes, 32 in flight", ("--concurrency", "32"), "requests_per_second", "requests/s", "requests_per_second"),
    Case(
        "64 bytes, one at a time",
        ("--concurrency", "1"),
        "requests_per_second",
        "requests/s",
        "requests_per_second_one_at_a_time",
    ),
    Case("1 MB raw, 4 in flight", BULK, "mb_per_second", "MB/s", "bulk_mb_per_second"),
    Case("/perf, 1 GB up", ("--upload", str(GIGABYTE)), "mb_per_second", "MB/s", "bulk_mb_per_second", mode="perf"),
    Case("/perf, 1 GB down", ("--download", str(GIGABYTE)), "mb_per_second", "MB/s", "bulk_mb_per_second", mode="perf"),
    Case("1,000 peers, 1 in flight each", ("--each", "1"), "requests_per_second", "requests/s", mode="many"),
    Case("1,000 peers, 8 in flight each", ("--each", "8"), "requests_per_second", "requests/s", mode="many"),
    Case("connect", ("--count", "20"), "connect_ms_median", "ms", mode="connect", less_is_better=True),
)

FAULTS_OF_A_GIGABYTE = 5_000
"""Fewer minor page faults are to be taken, by both processes together, for 10^9 bytes of bodies."""

Rounds = Mapping[str, Sequence[float]]
"""By system: the figure of each round; those whose figures decide no goal are in the first one alone."""


@dataclass(frozen=True)
class Goal:
    """Our figure is to be so many times that of the best of ``others`` in each round; for times, no more than that."""

    case: str
    others: tuple[str, ...]
    """Empty: it is our figure over WebSocket, and the other is ours over TCP."""
    compiled: float
    pure: float | None = None
    """None: it is no goal of the pure build."""
    stretch: float | None = None

    @property
    def less_is_better(self) -> bool:
        return next(case.less_is_better for case in CASES if case.name == self.case)

    def measured(self, rounds: Rounds) -> list[str]:
        """Those of ``others`` that were."""
        return [other for other in self.others if other in rounds]

    def ratios(self, ours: str, rounds: Rounds) -> list[float]:
        """The figure of ``ours`` by the best other's of the same round, the worst ratio first; empty if either was not
        measured."""
        ours, others = (ours, self.measured(rounds)) if self.others else (OVER_WEBSOCKET[ours], [ours])
        if ours not in rounds or not others or not rounds.keys() >= set(others):
            return []
        best = min if self.less_is_better else max
        found = []
        for number, own in enumerate(rounds[ours]):
            figures = [rounds[other][number] for other in others if number < len(rounds[other])]
            if figures:
                found.append(own / best(figures))
        return sorted(found, reverse=self.less_is_better)

    def reached(self, ratio: float, factor: float) -> bool:
        return ratio <= factor if self.less_is_better else ratio >= factor


NATIVE = ("go-libp2p", "rust-libp2p")
ALL = ("ZeroMQ CURVE", "gRPC aio TLS", *NATIVE, "js-libp2p", "py-libp2p", "iroh")
RIVALS = (OURS, COMPILED, *ALL[:4])
"""Ours, and those among which the best other is found."""

GOALS = (
    Goal("64 bytes, 32 in flight", ("ZeroMQ CURVE",), 5, pure=2.2, stretch=8),
    Goal("64 bytes, 32 in flight", NATIVE, 4, pure=2, stretch=6),
    Goal("64 bytes, 32 in flight", ("py-libp2p",), 60, pure=60),
    Goal("64 bytes, 32 in flight", (LIMIT,), 0.3, pure=0.3),
    Goal("64 bytes, one at a time", ("ZeroMQ CURVE", *NATIVE), 1.5, pure=1.1, stretch=1.8),
    Goal("64 bytes, one at a time", (LIMIT,), 0.35, pure=0.35),
    Goal("1 MB raw, 4 in flight", ALL, 1.5, stretch=2),
    Goal("/perf, 1 GB up", ("go-libp2p",), 1.5, pure=1.5, stretch=2),
    Goal("/perf, 1 GB up", (LIMIT,), 0.6, pure=0.6),
    Goal("/perf, 1 GB down", ("go-libp2p",), 1.5, pure=1.5, stretch=2),
    Goal("/perf, 1 GB down", (LIMIT,), 0.6, pure=0.6),
    Goal("1,000 peers, 1 in flight each", NATIVE, 2, pure=1, stretch=4),
    Goal("1,000 peers, 8 in flight each", NATIVE, 2, pure=1, stretch=4),
    Goal("connect", ("rust-libp2p",), 1.0),
    Goal("64 bytes, 32 in flight", (), 0.7, pure=0.7),
    Goal("1 MB raw, 4 in flight", (), 0.5, pure=0.5),
)
