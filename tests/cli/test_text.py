from __future__ import annotations

import functools
import json
import sys
import unicodedata
from collections import defaultdict
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronghold_p2p.cli.text import MAX_MARKS, escaped, json_text, printable

IGNORABLE = {
    *(0x00AD, 0x034F, 0x061C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFEFF, 0xFFA0),
    *(*range(0x180B, 0x1810), *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070)),
    *(*range(0xFE00, 0xFE10), *range(0xFFF0, 0xFFF9), *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B)),
    *range(0xE0000, 0xE1000),
}
"""Default_Ignorable_Code_Point of Unicode 16 (DerivedCoreProperties.txt)."""

BLANK = {0x2800, 0x1D159, 0x13441, 0x13442, 0x16FE4}
"""Symbols and letters without a glyph."""

HIDDEN = ["Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"]
"""Controls, formats, unassigned, private, surrogates, separators."""


@functools.cache
def categories() -> dict[str, list[str]]:
    """All characters by their categories, such as "Lu"."""
    found = defaultdict(list)
    for character in map(chr, range(sys.maxunicode + 1)):
        found[unicodedata.category(character)].append(character)
    return found


def of_category(name: str) -> list[str]:
    """Those of all whose names begin so."""
    return [character for category, those in categories().items() if category.startswith(name) for character in those]


@pytest.mark.parametrize("category", HIDDEN)
def test_what_is_not_seen_is_escaped(category: str) -> None:
    shown = escaped("".join(of_category(category)).replace(" ", ""))
    assert shown
    assert shown.isascii()
    assert shown.isprintable()


@pytest.mark.parametrize("category", ["L", "M", "N", "P", "S"])
def test_what_is_seen_stays_as_it_is(category: str) -> None:
    """Marks do on a letter."""
    hidden = {chr(code) for code in IGNORABLE | BLANK}
    for character in of_category(category):
        text = f"a{character}" if category == "M" else character
        assert (escaped(text) == text) is (character not in hidden)


def test_a_mark_stands_on_a_letter_of_the_same_text() -> None:
    assert escaped("e\u0301e\u0301") == "e\u0301e\u0301"
    assert escaped("\u0301e") == "\\u0301e"
    assert escaped(' "\u0338') == ' "\\u0338'
    assert escaped("a\u202e\u0338") == "a\\u202e\\u0338"
    assert escaped("a" + "\u0336" * 100) == "a" + "\u0336" * MAX_MARKS + "\\u0336" * (100 - MAX_MARKS)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("naïve ☃ שלום 你好", "naïve ☃ שלום 你好"),
        ("\x1b[2J\x7f\x9b\r\n", "\\x1b[2J\\x7f\\x9b\\r\\n"),
        ("\u034f\u115f\u2800\u3164", "\\u034f\\u115f\\u2800\\u3164"),
        ("\U000e0100\U000e0041", "\\U000e0100\\U000e0041"),
        ("caf\udce9.pem", "caf\\xe9.pem"),
        ("\ud800", "\\ud800"),
    ],
)
def test_escapes(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_what_is_kept() -> None:
    assert escaped("a\nb\tc\r", keep="\n\t") == "a\nb\tc\\r"


@pytest.mark.parametrize(
    ("text", "shown"),
    [("", ""), ("naïve ☃", "naïve ☃"), ("a" * 10, "a" * 10), ("a" * 11, "a" * 9 + "…"), ("\x1b" * 3, "\\x1b\\x1b\\…")],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text, 10) == shown


@given(st.text(), st.integers(1, 20))
def test_printable_keeps_its_limit(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()
    assert escaped(shown) == shown or shown.endswith("…")


# -- JSON ----------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES, st.booleans(), st.booleans())
def test_json_has_the_same_value_however_it_is_shown(value: Any, plain: bool, ascii: bool) -> None:
    text = json_text(value, plain=plain, ascii=ascii)
    assert json.loads(text) == value == msgspec.json.decode(text)
    assert text.isascii() or not ascii
    assert text.isprintable() or plain


def test_json_as_it_comes_and_as_a_terminal_gets_it() -> None:
    value = {"\u009b": "2J\u202e\u007f\U000e0100\u3164é"}
    assert json_text(value) == '{"\u009b":"2J\u202e\u007f\U000e0100\u3164é"}'
    assert json_text(value, plain=False) == '{"\\u009b":"2J\\u202e\\u007f\\udb40\\udd00\\u3164é"}'
    assert json_text("é😀\x7f", ascii=True) == '"\\u00e9\\ud83d\\ude00\x7f"'


def test_json_of_names_that_are_no_unicode() -> None:
    value = {"file": "\udce9", "\udcff": ["\ud800", ("x", 1)]}
    assert json.loads(json_text(value)) == {"file": "\\xe9", "\\xff": ["\\ud800", ["x", 1]]}
