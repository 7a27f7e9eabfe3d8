"""What is shown of a question: safe, whatever a remote has put into it, and no more than a terminal holds."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ...events.direction import Direction
from .. import output
from ..text import printable
from .asked import Asked

__all__ = [
    "MAX_TYPE",
    "MAX_VIEW",
    "count",
    "toward",
    "type_is_whole",
    "type_of",
    "view_of",
    "view_text",
]

MAX_TYPE: Final = 100
"""Characters that are shown of a type: in untyped JSON it is the remote's own text."""

MAX_VIEW: Final = 500
"""Characters that are shown of a request: enough to see what is asked for, and no more than a terminal holds."""


def count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def toward(question: Asked) -> str:
    return "from" if question.direction is Direction.INBOUND else "to"


def type_of(question: Asked) -> str | None:
    return None if question.type is None else output.printable(question.type, MAX_TYPE)


def type_is_whole(question: Asked) -> bool:
    """Whether there is a type, and all of it is shown."""
    return question.type is not None and type_of(question) == output.printable(question.type, 2 * MAX_TYPE)


def view_of(question: Asked) -> str:
    return view_text(question.view)


def view_text(view: Any, limit: int = MAX_VIEW, *, in_lines: bool = False) -> str:
    """The view of a request as JSON, or bytes as text, cut to what may be shown; of what has no JSON, the class.
    ``in_lines``: JSON that need not be cut in lines."""
    if isinstance(view, bytes):
        text = view[:limit].decode("ascii", "backslashreplace") + "…" * (len(view) > limit)
        return output.printable(text, limit)
    try:
        data = msgspec.json.encode(view, enc_hook=_class_name)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return output.printable(_class_name(view), limit)
    if in_lines and len(data) <= limit:
        return printable(msgspec.json.format(data).decode(), limit, keep="\n")  # ours: JSON has none within a text
    return output.printable(data.decode(), limit)


def _class_name(value: Any) -> str:
    return type(value).__name__
