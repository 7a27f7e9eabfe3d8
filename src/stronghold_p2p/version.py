"""The version, which the build reads, too. Looking it up in the package's metadata would take longer than most imports."""

from __future__ import annotations

__all__ = ["VERSION"]

VERSION = "0.1.0"
