"""Requests as they are shown to people: their beginning."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from .output import printable

__all__ = ["MAX_VIEW", "view_text"]

MAX_VIEW: Final = 500
"""Characters that are shown of a request: enough to see what is asked for, and no more than a terminal holds."""


def view_text(view: Any) -> str:
    """The view of a request as JSON, or bytes as text, escaped and cut to what may be shown."""
    if isinstance(view, bytes):
        text = view[:MAX_VIEW].decode("ascii", "backslashreplace") + "…" * (len(view) > MAX_VIEW)
    else:
        text = msgspec.json.encode(view, enc_hook=lambda value: type(value).__name__).decode()
    return printable(text, MAX_VIEW)
