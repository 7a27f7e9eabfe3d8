"""Limits as fields of a dataclass, each with its reason."""

from __future__ import annotations

import inspect
import math
import textwrap
from dataclasses import field, fields
from typing import Any, TypeVar

__all__ = ["check_limits", "explain", "limit"]

T = TypeVar("T")


def limit(default: T, reason: str) -> T:
    """A field with its reason as metadata, for :func:`help`: a docstring under the field would be lost."""
    made: Any = field(default=default, metadata={"reason": reason})
    return made  # type: ignore[no-any-return]


def check_limits(limits: Any) -> None:
    """Checks all fields of a dataclass that :func:`limit` has made.

    Raises:
        ValueError: one is not a positive finite number of its type.
    """
    for each in fields(limits):
        value = getattr(limits, each.name)
        if "reason" not in each.metadata or (value is None and "None" in str(each.type)):
            continue
        number = isinstance(value, int) or (isinstance(value, float) and "float" in str(each.type))
        if not number or isinstance(value, bool) or not math.isfinite(value) or value <= 0:
            raise ValueError(f"{type(limits).__name__}.{each.name} must be a positive {each.type}, not {value!r}")


def explain(kind: Any) -> str:
    """A docstring for the dataclass ``kind``: its own, and its limits with their reasons."""
    lines = [
        f"{each.name} = {each.default}\n{textwrap.indent(inspect.cleandoc(each.metadata['reason']), '    ')}"
        for each in fields(kind)
        if "reason" in each.metadata
    ]
    heading = "Fields, with their defaults (times in seconds, sizes in bytes):"
    return "\n\n".join((inspect.cleandoc(kind.__doc__ or ""), heading, *lines))
