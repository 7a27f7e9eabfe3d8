"""What mypyc is told about a class. In the pure build it says nothing, and needs nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr  # by this name the compiler knows it
else:

    def mypyc_attr(**attributes):
        return lambda class_: class_


__all__ = ["mypyc_attr"]
