from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stronghold_p2p.firewall.toml_lines import Key, key_lines

DOCUMENT = r'''# a = 1
top = "[not.a.table] # nor a comment"   # = 1
"quoted = key" = 'literal \'

[ table . "dotted.name" ]   # [comment]
number = +1_000.5e-3
date = 1979-05-27 07:32:00.5
dotted . 'literal "key"' . deep = true
"caf\u00e9" = 1
text = """
[not.a.table]
key = "value" \""" and "" two
escaped \\"""
quotes = """two at the end"""""
literal = ~~~
no \ escape, no [table]
key = 'value' ''~~~
array = [ "]", # ]
  1,

  # not an item
  [2,
   3], { x = 1, "y.z" = [4,
   5] }
]
empty = []
inline = { a.b = "}", c = { } }
after = 1

[[list]]
a = 1
[[list]]
a = 2
[table]
last = 1'''.replace("~~~", "'" * 3)


def line_of(beginning: str) -> int:
    """The line that begins so."""
    (line,) = (n for n, line in enumerate(DOCUMENT.split("\n"), 1) if line.strip().startswith(beginning))
    return line


TABLE = ("table", "dotted.name")


@pytest.mark.parametrize(
    ("key", "beginning"),
    [
        (("top",), "top"),
        (("quoted = key",), '"quoted'),
        (("table",), "[ table"),
        (TABLE, "[ table"),
        ((*TABLE, "number"), "number"),
        ((*TABLE, "date"), "date"),
        ((*TABLE, "dotted", 'literal "key"', "deep"), "dotted"),
        ((*TABLE, "dotted"), "dotted"),
        ((*TABLE, "café"), '"caf'),
        ((*TABLE, "text"), "text"),
        ((*TABLE, "quotes"), "quotes"),
        ((*TABLE, "literal"), "literal"),
        ((*TABLE, "array"), "array"),
        ((*TABLE, "array", 0), "array"),
        ((*TABLE, "array", 1), "1,"),
        ((*TABLE, "array", 2), "[2"),
        ((*TABLE, "array", 2, 1), "3]"),
        ((*TABLE, "array", 3), "3]"),
        ((*TABLE, "array", 3, "y.z"), "3]"),
        ((*TABLE, "array", 3, "y.z", 1), "5]"),
        ((*TABLE, "inline", "a", "b"), "inline"),
        ((*TABLE, "inline", "c"), "inline"),
        ((*TABLE, "after"), "after"),
        (("table", "last"), "last"),
    ],
)
def test_where_keys_stand(key: Key, beginning: str) -> None:
    assert key_lines(DOCUMENT)[key] == line_of(beginning)


def test_the_tables_of_an_array_are_told_apart() -> None:
    document = """[[list]]
a = 1
[[list]]
[list.sub]
b = 1
[[list.inner]]
[[ list . inner ]]
c = 2
[[list]]
[[list.inner]]
"""
    assert key_lines(document) == {
        ("list",): 1,
        ("list", 0): 1,
        ("list", 0, "a"): 2,
        ("list", 1): 3,
        ("list", 1, "sub"): 4,
        ("list", 1, "sub", "b"): 5,
        ("list", 1, "inner"): 6,
        ("list", 1, "inner", 0): 6,
        ("list", 1, "inner", 1): 7,
        ("list", 1, "inner", 1, "c"): 8,
        ("list", 2): 9,
        ("list", 2, "inner"): 10,
        ("list", 2, "inner", 0): 10,
    }


def test_nothing_is_taken_for_a_key_that_is_none() -> None:
    assert set(key_lines(DOCUMENT)) == set(keys_of(tomllib.loads(DOCUMENT), ()))


def test_lines_that_end_as_on_windows() -> None:
    assert key_lines("a = 1\r\n[b]\r\nc = '''\r\n'''\r\nd = 2\r\n") == {
        ("a",): 1,
        ("b",): 2,
        ("b", "c"): 3,
        ("b", "d"): 5,
    }


def test_other_separators_end_no_line() -> None:
    assert key_lines('a = "\u2028"  # \u0085\nb = 1') == {("a",): 1, ("b",): 2}


def test_nothing() -> None:
    assert key_lines("") == {}
    assert key_lines("# nothing") == {}


names = st.sampled_from(["a", "b", "c-1", "'='", '"]"', '"#"', r'"\""', '"."', "'['"])
scalars = st.sampled_from(
    ["1", "-1.5", "true", "07:32:00", '"\\"]"', "'\"}'", '"""\n[x]\n"""', "'''\na = 1''''", '""', "''", '""""""', "1e3"]
)
gaps = st.sampled_from([" ", "\n", " # ] comment\n"])


def arrays(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(st.tuples(gaps, items, gaps), max_size=3).map(
        lambda items: "[" + ",".join(map("".join, items)) + "]"
    )


def pairs(values: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    return st.dictionaries(names, values, max_size=3).map(lambda pairs: [f"{k} = {v}" for k, v in pairs.items()])


def inline_tables(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return pairs(values).map(lambda pairs: "{" + ", ".join(pairs) + "}")


bodies = pairs(st.recursive(scalars, lambda values: arrays(values) | inline_tables(values), max_leaves=8))
headers = st.sampled_from(["[ %s . %s ] # [x]", "[[ %s . %s ]] # [[x]]"])
tables = st.tuples(headers, names, names, bodies).map(lambda table: "\n".join((table[0] % table[1:3], *table[3])))


@given(bodies, st.lists(tables, max_size=3))
def test_as_the_parser_sees_it(top: list[str], below: list[str]) -> None:
    """The keys found are the parser's, and each begins in its line: what comes before is without it."""
    document = "\n".join((*top, *below))
    data = parse(document)
    assume(data is not None)  # the same key twice
    lines = key_lines(document)
    assert set(lines) == set(keys_of(data, ()))
    numbered = document.split("\n")
    for key, line in lines.items():
        before, until = parse("\n".join(numbered[: line - 1])), parse("\n".join(numbered[:line]))
        assert before is None or key not in set(keys_of(before, ()))
        assert until is None or key in set(keys_of(until, ()))


def parse(document: str) -> dict[str, Any] | None:
    """None for what is no TOML: it ends in the middle of a value."""
    try:
        return tomllib.loads(document)
    except tomllib.TOMLDecodeError:
        return None


def keys_of(value: Any, key: Key) -> Iterator[Key]:
    if key:
        yield key
    children: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from keys_of(child, (*key, name))
