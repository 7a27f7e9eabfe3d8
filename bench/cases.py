"""What is measured, and what is to be reached: ratios to others, of medians of one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CASES", "COMPILED", "GOALS", "LIMIT", "OURS", "OVER_WEBSOCKET", "Case", "Goal"]

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
    def is_timed(self) -> bool:
        """Whether it takes as many seconds as it is told."""
        return self.mode in {"measure", "many"}


CASES = (
    Case("64 bytes, 32 in flight", ("--concurrency", "32"), "requests_per_second", "requests/s", "requests_per_second"),
    Case(
        "64 bytes, one at a time",
        ("--concurrency", "1"),
        "requests_per_second",
        "requests/s",
        "requests_per_second_one_at_a_time",
    ),
    Case(
        "1 MB raw, 4 in flight",
        ("--size", "1000000", "--concurrency", "4", "--format", "raw"),
        "mb_per_second",
        "MB/s",
        "bulk_mb_per_second",
    ),
    Case(
        "/perf, 1 GB up and down",
        ("--upload", "1000000000", "--download", "1000000000"),
        "mb_per_second",
        "MB/s",
        "bulk_mb_per_second",
        mode="perf",
    ),
    Case("1,000 peers, 1 in flight each", ("--each", "1"), "requests_per_second", "requests/s", mode="many"),
    Case("1,000 peers, 8 in flight each", ("--each", "8"), "requests_per_second", "requests/s", mode="many"),
    Case("connect", ("--count", "20"), "connect_ms_median", "ms", mode="connect", less_is_better=True),
)


@dataclass(frozen=True)
class Goal:
    """Our figure is to be ``factor`` times that of the best of ``others``; for times, no more than that."""

    case: str
    others: tuple[str, ...]
    """Empty: it is our figure over WebSocket, and the other is ours over TCP."""
    factor: float
    stretch: bool = False

    @property
    def less_is_better(self) -> bool:
        return next(case.less_is_better for case in CASES if case.name == self.case)

    def ratio(self, ours: str, medians: Mapping[str, float]) -> float | None:
        """The figure of ``ours`` by the best other's; None if either was not measured."""
        ours, others = (ours, self.others) if self.others else (OVER_WEBSOCKET[ours], (ours,))
        found = [medians[other] for other in others if other in medians]
        if ours not in medians or len(found) < len(others):
            return None
        return medians[ours] / (min(found) if self.less_is_better else max(found))

    def reached(self, ratio: float) -> bool:
        return ratio <= self.factor if self.less_is_better else ratio >= self.factor


GOALS = (
    Goal("64 bytes, 32 in flight", ("ZeroMQ CURVE",), 1.5),
    Goal("64 bytes, 32 in flight", ("go-libp2p", "rust-libp2p"), 2.5),
    Goal("64 bytes, 32 in flight", ("py-libp2p",), 60),
    Goal("64 bytes, 32 in flight", ("gRPC aio TLS",), 5, stretch=True),
    Goal("64 bytes, 32 in flight", (LIMIT,), 0.3, stretch=True),
    Goal("64 bytes, one at a time", ("ZeroMQ CURVE",), 1.0),
    Goal("64 bytes, one at a time", ("go-libp2p", "rust-libp2p"), 1.4),
    Goal("64 bytes, one at a time", (LIMIT,), 0.35, stretch=True),
    Goal("1 MB raw, 4 in flight", ("go-libp2p", "rust-libp2p"), 1.5),
    Goal("1 MB raw, 4 in flight", ("gRPC aio TLS", "ZeroMQ CURVE"), 1.1),
    Goal("1 MB raw, 4 in flight", ("gRPC aio TLS", "ZeroMQ CURVE"), 1.3, stretch=True),
    Goal("/perf, 1 GB up and down", ("go-libp2p",), 1.4),
    Goal("/perf, 1 GB up and down", (LIMIT,), 0.6, stretch=True),
    Goal("connect", ("rust-libp2p",), 1.0),
    Goal("64 bytes, 32 in flight", (), 0.7),
    Goal("1 MB raw, 4 in flight", (), 0.5),
)
