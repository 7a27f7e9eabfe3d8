"""How many examples hypothesis tries: all of them by ``--hypothesis-profile full``, as CI does, and else a fifth."""

from __future__ import annotations

from typing import Final

from hypothesis import settings

__all__ = ["examples", "register_profiles"]

FULL: Final = 100
"""Hypothesis's own number."""


def register_profiles() -> None:
    """Those of tests that name no number of their own."""
    settings.register_profile("full", max_examples=FULL)
    settings.register_profile("plain", max_examples=FULL // 5)
    settings.load_profile("plain")


def examples(number: int) -> int:
    """The part of ``number`` that is tried."""
    return max(number * settings().max_examples // FULL, 1)
