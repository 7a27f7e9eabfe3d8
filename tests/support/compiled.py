"""Whether the hot path that is tested is compiled, and what that changes."""

from __future__ import annotations

from typing import Final

import pytest

from stronghold_p2p.transport import connection

__all__ = ["COMPILED", "IGNORED_WARNINGS", "STRICTLY", "replaces_parts"]

COMPILED: Final = not str(connection.__file__).endswith(".py")

IGNORED_WARNINGS: Final = ["ignore:the (type, exc, tb) signature of throw:DeprecationWarning"] if COMPILED else []
"""As ``-W`` takes them. From Python 3.12 on, compiled code throws in the old way into what it awaits (mypyc/mypyc#1214). Made
an error, the warning takes the place of what was thrown."""

STRICTLY: Final = ["-X", "dev", *(option for each in ["error", *IGNORED_WARNINGS] for option in ("-W", each))]
"""Options of a Python that makes every other warning an error."""

replaces_parts = pytest.mark.skipif(
    COMPILED, reason="puts a double in the place of a part, which compiled code refuses"
)
