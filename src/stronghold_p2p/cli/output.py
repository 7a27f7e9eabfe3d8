"""What is printed: results to stdout, as text or as one JSON object a line; errors and the log to stderr.

With ``--json`` an error goes to stdout, too, as ``{"error": <its class>, "message": ...}``.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Any

import msgspec

__all__ = ["configure", "error", "is_json", "note", "printable", "result"]

_json = False
_debug = False


def configure(*, json: bool, debug: bool) -> None:
    """Choose the form of the output, and show the library's log: warnings, or everything with ``debug``."""
    global _json, _debug
    _json, _debug = json, debug
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s") if debug else _BriefFormatter("%(message)s"))
    logger = logging.getLogger("stronghold_p2p")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.WARNING)


def is_json() -> bool:
    """Whether ``--json`` was given."""
    return _json


def result(record: object, text: str | None = None) -> None:
    """Print one result, at once: ``text`` for people; ``record`` as JSON with ``--json``, or if there is no text."""
    print(msgspec.json.encode(record).decode() if _json or text is None else text, flush=True)


def note(text: str) -> None:
    """Print what only people need to know."""
    if not _json:
        print(text, flush=True)


def error(exception: Exception) -> None:
    """Tell why the command failed, with the traceback if ``--debug`` was given."""
    if _json:
        result({"error": type(exception).__name__, "message": str(exception)})
    else:
        print(f"{type(exception).__name__}: {exception}", file=sys.stderr)
    if _debug:
        traceback.print_exception(exception)


def printable(text: str, limit: int) -> str:
    """A remote's text, safe to show in ``limit`` characters: what is no printable character stands as its escape, so that
    the text cannot move the cursor, hide or reorder what is around it, or pass for another line."""
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text[:limit]
    )
    return shown if len(shown) <= limit and len(text) <= limit else shown[: limit - 1] + "…"


class _BriefFormatter(logging.Formatter):
    """Names an exception in one line, without its traceback."""

    def formatException(self, ei: Any) -> str:
        return f"  {ei[0].__name__}: {ei[1]}"
