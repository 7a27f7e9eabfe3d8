"""Text of others, made safe to show: it must not move the cursor, hide or reorder what is around it, be there unseen, or
pass for another line. What a remote, a file's name or an argument says goes through here before a person sees it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

__all__ = ["escaped", "json_text", "printable", "without_surrogates"]

MAX_MARKS = 8
"""Combining marks on one character. No script's words need more; a heap of them covers the lines above and below."""

INVISIBLE = frozenset(
    map(
        chr,
        (
            # Default_Ignorable_Code_Point (Unicode 16, DerivedCoreProperties.txt), as far as isprintable() is true
            *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x3164, *range(0xFE00, 0xFE10), 0xFFA0),
            *range(0xE0100, 0xE01F0),
            # letters and symbols whose glyph is blank: Braille, a null notehead, Egyptian and Khitan fillers
            *(0x2800, 0x1D159, 0x13441, 0x13442, 0x16FE4),
        ),
    )
)
"""Characters that Unicode counts as printable, and of which nothing is seen."""


def escaped(text: str, *, keep: str = "", escape: Callable[[str], str] | None = None) -> str:
    """The text with an escape for every character that is not plainly seen, except those to ``keep``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(text, keep, escape or _as_python))


def printable(text: str, limit: int, *, keep: str = "") -> str:
    """The text escaped, but for the characters to ``keep``, in at most ``limit`` characters."""
    shown = escaped(text[:limit], keep=keep)
    return shown if len(shown) <= limit and len(text) <= limit else shown[: limit - 1] + "…"


def json_text(value: object, *, plain: bool = True, ascii: bool = False) -> str:
    """A line of JSON. Without ``plain`` what is not plainly seen has escapes, with ``ascii`` all that is not ASCII: JSON's
    own, so that the value stays the same."""
    try:
        text = msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        text = msgspec.json.encode(without_surrogates(value)).decode()
    if ascii and not text.isascii():
        text = "".join(character if character.isascii() else _as_json(character) for character in text)
    return text if plain else escaped(text, escape=_as_json)


def _escaped(text: str, keep: str, escape: Callable[[str], str]) -> Iterable[str]:
    marks = MAX_MARKS  # at the beginning there is nothing of this text that a mark could be on
    for character in text:
        if unicodedata.category(character).startswith("M"):
            marks += 1
            seen = marks <= MAX_MARKS and character not in INVISIBLE
        else:
            seen = character in keep or (character.isprintable() and character not in INVISIBLE)
            marks = 0 if seen and character.isalnum() else MAX_MARKS
        yield character if seen else escape(character)


def _as_python(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that was no UTF-8, as os.fsdecode has it
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def _as_json(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def without_surrogates(value: Any) -> Any:
    """The same with text that JSON has: a name of a file that is no UTF-8 is shown with escapes for its bytes."""
    match value:
        case str():
            return "".join(
                _as_python(character) if "\ud800" <= character <= "\udfff" else character for character in value
            )
        case dict():
            return {without_surrogates(key): without_surrogates(item) for key, item in value.items()}
        case list() | tuple():
            return [without_surrogates(item) for item in value]
    return value
