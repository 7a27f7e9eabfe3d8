"""On which line each key of a TOML document stands, which the standard library's parser does not tell.

The document has been parsed before, so it is known to be valid: it is enough to tell strings, comments, brackets and
the rest apart (TOML 1.0.0, toml.io/en/v1.0.0).
"""

from __future__ import annotations

import re
import tomllib
from typing import TypeAlias

__all__ = ["Key", "key_lines"]

Key: TypeAlias = tuple[str | int, ...]
"""The way to a value from the top: names of keys, and indices into arrays."""


def key_lines(document: str) -> dict[Key, int]:
    """The line, counted from 1, of each key, each table's header and each item of an array; of a table that is opened
    more than once (``a.b = 1``, ``a.c = 2``), of the first time.
    """
    return _Scanner(document).lines


_TOKEN = re.compile(
    r"""
    (?P<blank> [^\S\n]+ | \#[^\n]* )
    | \"{3} (?: \\. | [^\\] )*? \"{3,5}     # a multi-line string may end in one or two quotes of its own
    | '{3} .*? '{3,5}
    | " (?: \\. | [^"\\] )* "
    | ' [^']* '
    | [\[\]{}=,.\n]
    | [^\s\[\]{}=,.\#"']+                   # a bare key, or a part of a number or a date
    """,
    re.VERBOSE | re.DOTALL,
)


class _Scanner:
    def __init__(self, document: str) -> None:
        self.lines: dict[Key, int] = {}
        self._last: dict[Key, int] = {}
        """By array of tables, the index of its last one so far."""
        self._tokens: list[tuple[str, int]] = []
        line = 1
        for match in _TOKEN.finditer(document + "\n"):
            if match["blank"] is None:
                self._tokens.append((match[0], line))
            line += match[0].count("\n")
        self._tokens.reverse()  # the next one is the last of the list
        self._scan()

    def _scan(self) -> None:
        table: Key = ()
        while self._tokens:
            if self._skip("\n"):
                continue
            if self._skip("["):
                table = self._scan_table() if self._skip("[") else self._scan_key(())
            else:
                self._scan_pair(table)

    def _scan_table(self) -> Key:
        """The header of one more table of an array."""
        line = self._tokens[-1][1]
        array = self._scan_key(())
        self._skip("]")
        index = self._last[array] = self._last.get(array, -1) + 1
        self.lines[*array, index] = line
        return (*array, index)

    def _scan_pair(self, table: Key) -> None:
        self._scan_value(self._scan_key(table))

    def _scan_key(self, table: Key) -> Key:
        """Up to the ``=`` after a key, or the bracket after a table's name."""
        key = table
        while True:
            token, line = self._tokens.pop()
            if token in {"=", "]"}:
                return key
            if token != ".":
                if key in self._last:  # what is below an array of tables is below its last one
                    key = (*key, self._last[key])
                key = (*key, _unquote(token))
                self.lines.setdefault(key, line)

    def _scan_value(self, key: Key) -> None:
        if self._skip("["):
            index = 0
            while not self._skip("]"):
                if not self._skip(",\n"):
                    self.lines.setdefault((*key, index), self._tokens[-1][1])
                    self._scan_value((*key, index))
                    index += 1
        elif self._skip("{"):
            while not self._skip("}"):
                if not self._skip(",\n"):
                    self._scan_pair(key)
        else:
            while self._tokens[-1][0] not in {",", "]", "}", "\n"}:
                self._tokens.pop()

    def _skip(self, either: str) -> bool:
        """Passes over the next token if it is one of these characters."""
        found = self._tokens[-1][0] in set(either)
        if found:
            self._tokens.pop()
        return found


def _unquote(key: str) -> str:
    if key[0] in "\"'":
        (key,) = tomllib.loads(f"{key} = 0")
    return key
