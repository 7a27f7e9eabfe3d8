"""What ``--version`` prints: which build this is, and what runs it."""

from __future__ import annotations

import platform
from importlib import util

from ..version import VERSION

__all__ = ["version"]


def version() -> str:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    system = f"{platform.system()} {platform.machine()}"
    return f"stronghold-p2p {VERSION} ({_build()}, {python}, {system})"


def _build() -> str:
    spec = util.find_spec("stronghold_p2p.peer")  # one of the modules that may be compiled: all are, or none
    return "pure Python" if spec is None or str(spec.origin).endswith(".py") else "compiled"
