"""Checks of arguments of public calls."""

from __future__ import annotations

from typing import Final

__all__ = ["check_pair", "check_types", "seconds"]

MAX_TIMEOUT: Final = 366 * 86_400.0
"""Seconds. Event loops overflow somewhere above."""


def check_types(**arguments: tuple[object, type[object]]) -> None:
    """Checks the types of arguments; None is always valid.

    Raises:
        TypeError: an argument has the wrong type.
    """
    for name, (value, expected) in arguments.items():
        if value is not None and not isinstance(value, expected):
            # Without the value, which may be a secret.
            raise TypeError(f"expected {expected.__name__} for {name}=, got {type(value).__name__}")


def check_pair(name: str, value: object, of: str) -> None:
    """Checks that an argument is a pair, as a tuple or a list; None is valid.

    Raises:
        TypeError: it is not; ``of`` says what it should hold.
    """
    if value is not None and not (isinstance(value, tuple | list) and len(value) == 2):
        raise TypeError(f"expected a pair for {name}=, {of}, got {type(value).__name__}")


def seconds(timeout: float | None, default: float) -> float:
    """``timeout`` in seconds; if None, the default.

    Raises:
        ValueError: negative, too large or not a number.
    """
    if timeout is None:
        return default
    if not 0 <= timeout < MAX_TIMEOUT:
        raise ValueError(f"expected a timeout of 0 to {MAX_TIMEOUT:,.0f} seconds, got {timeout}")
    return timeout
