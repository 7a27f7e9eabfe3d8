"""How many examples hypothesis tries: all of them by ``--hypothesis-profile full``, as CI does, and else a fifth."""

from __future__ import annotations

from typing import Final

from hypothesis import HealthCheck, settings

__all__ = ["examples", "register_profiles"]

FULL: Final = 100
"""Hypothesis's own number."""


def register_profiles() -> None:
    """Those of tests that name no number of their own. Time is no failure: others may use the machine."""
    for name, number in ("full", FULL), ("plain", FULL // 5):
        settings.register_profile(
            name, max_examples=number, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        )
    settings.load_profile("plain")


def examples(number: int) -> int:
    """The part of ``number`` that is tried."""
    return max(number * settings().max_examples // FULL, 1)
