"""What others may see of a command's memory, which holds the private key."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Final

__all__ = ["keep_private"]

PR_SET_DUMPABLE: Final = 4
"""prctl(2)."""


def keep_private() -> None:
    """No core dump is made of this process, and no other of the same user can read its memory or trace it, on Linux: as for
    ssh-agent. Programs that it runs are as they were. A library may not change that for its user."""
    if sys.platform == "linux":
        with suppress(ImportError):  # Python can be built without it
            import ctypes

            ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
