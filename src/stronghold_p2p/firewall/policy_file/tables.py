"""The tables of a policy file, strictly read: every error tells the line and the key."""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from functools import cached_property, partial
from typing import Any, Final, TypeVar

from ...errors import PolicyError
from ..toml_lines import Key, key_lines
from .values import exactly

__all__ = ["File", "Table"]

T = TypeVar("T")

MAX_PARTS: Final = 32
"""Of a dotted key; those of policies have three. The time that TOML's parser takes for one grows with their square."""

LONG_KEY: Final = re.compile(
    rf"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){{{MAX_PARTS}}}""", re.ASCII
)


class File:
    """A policy file: its text, and where each key stands in it. ``types`` are the names of all request types; None: any."""

    def __init__(self, path: str | os.PathLike[str], text: str, types: Collection[str] | None) -> None:
        self.path = path
        self.text = text
        self.types = None if types is None else frozenset(types)

    @property
    def root(self) -> Table:
        """The table of all tables.

        Raises:
            PolicyError: not TOML, or empty.
        """
        values = self._parse()
        if not values:
            # Editors may truncate a file before they write it: that must not lift every ban.
            raise PolicyError(self.path, 0, "", "says nothing")
        return Table(self, (), values)

    @cached_property
    def lines(self) -> Mapping[Key, int]:
        """The line of each key; the text must be TOML."""
        return key_lines(self.text)

    def error(self, key: Key, reason: str) -> PolicyError:
        dotted = ".".join(_quote(name) for name in key if isinstance(name, str))
        return PolicyError(self.path, self.lines[key], dotted, reason)

    def _parse(self) -> dict[str, Any]:
        if found := LONG_KEY.search(self.text):
            line = self.text.count("\n", 0, found.start()) + 1
            raise PolicyError(self.path, line, "", f"a key of more than {MAX_PARTS} parts")
        try:
            return tomllib.loads(self.text)
        except RecursionError:
            raise PolicyError(self.path, 0, "", "nested too deeply") from None
        except (
            ValueError
        ) as error:  # also a number of thousands of digits, which tomllib does not make an error of its own
            reason, _, where = str(error).partition(" (at ")
            position = re.fullmatch(r"line (\d+), column (\d+)\)", where)
            line = int(position[1]) if position else self.text.rstrip().count("\n") + 1 if where else 0
            column = f", at column {position[2]}" if position else ""
            raise PolicyError(self.path, line, "", f"not TOML: {reason[0].lower()}{reason[1:]}{column}") from error


class Table:
    """A table of the file, empty if it is not there."""

    def __init__(self, file: File, key: Key, values: dict[str, Any]) -> None:
        self.file = file
        self.key = key
        self.values = values

    def line(self, *below: str | int) -> int:
        """The line of a key ``below`` the table."""
        return self.file.lines[*self.key, *below]

    def error(self, reason: str, *below: str | int) -> PolicyError:
        """An error at the table, or at a key ``below`` it."""
        return self.file.error((*self.key, *below), reason)

    def check_keys(self, *known: str) -> None:
        """Checks for unknown keys.

        Raises:
            PolicyError: for the first key that is not in ``known``.
        """
        for name in self.values:
            if name not in known:
                similar = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {similar[0]}?" if similar else f"known keys are {_enumerate(known)}"
                raise self.error(f"unknown key; {hint}", name)

    def table(self, name: str) -> Table:
        return Table(self.file, (*self.key, name), self.take(name, partial(exactly, dict)) or {})

    def tables(self, name: str) -> list[Table]:
        """An array of tables, empty if it is not there."""
        return [
            Table(self.file, (*self.key, name, index), self._read(item, partial(exactly, dict), name, index))
            for index, item in enumerate(self.take(name, partial(exactly, list)) or ())
        ]

    def take(self, name: str, read: Callable[[object], T]) -> T | None:
        """The value, converted by ``read``, which may raise ValueError; None if missing."""
        return self._read(self.values[name], read, name) if name in self.values else None

    def items(self, name: str, read: Callable[[object], T]) -> tuple[T, ...]:
        """The items of a list, each converted by ``read``; empty if missing."""
        taken: dict[T, None] = {}
        for index, item in enumerate(self.take(name, partial(exactly, list)) or ()):
            value = self._read(item, read, name, index)
            if value in taken:
                raise self.error(f"{item!r} is in the list twice", name, index)
            taken[value] = None
        return tuple(taken)

    def allow_list(self, name: str, read: Callable[[object], T]) -> tuple[T, ...]:
        """As :meth:`items`, but an empty list is an error: it could mean allow all or allow none."""
        if self.values.get(name) == []:
            raise self.error("an empty list is ambiguous; to allow all, leave the key out", name)
        return self.items(name, read)

    def _read(self, value: object, read: Callable[[object], T], *below: str | int) -> T:
        try:
            return read(value)
        except ValueError as error:
            raise self.error(str(error), *below) from error


def _enumerate(words: Collection[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}"


def _quote(name: str) -> str:
    bare = re.fullmatch(r"[A-Za-z0-9_-]+", name)
    return name if bare else json.dumps(name, ensure_ascii=not name.isprintable())
