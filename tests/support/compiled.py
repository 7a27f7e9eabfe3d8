"""Whether the hot path that is tested is compiled."""

from __future__ import annotations

from typing import Final

import pytest

from stronghold_p2p.transport import connection

__all__ = ["COMPILED", "replaces_parts"]

COMPILED: Final = not str(connection.__file__).endswith(".py")

replaces_parts = pytest.mark.skipif(
    COMPILED, reason="puts a double in the place of a part, which compiled code refuses"
)
