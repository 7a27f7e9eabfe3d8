from __future__ import annotations

import dataclasses
import enum
import math
import sys
import tracemalloc
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronghold_p2p.config import Config
from stronghold_p2p.errors import DecodeError, EncodeError
from stronghold_p2p.requests.codec import PROTOCOLS, Codec, CodecName, make_codec

MIB = 1024 * 1024
T = TypeVar("T")


class Ping(msgspec.Struct, frozen=True):
    pass


class Pong(msgspec.Struct, array_like=True):
    pass


class Read(msgspec.Struct):
    key: str
    offset: int = 0


class Message(msgspec.Struct, array_like=True, kw_only=True):
    text: str | None


class Move(msgspec.Struct, array_like=True):
    x: int
    y: int


class Boxed(msgspec.Struct, Generic[T]):
    content: T


class Cat(msgspec.Struct, tag=True):
    name: str


class Dog(msgspec.Struct, tag="hound", tag_field="type"):
    name: str


class Wolf(msgspec.Struct, tag="wolf", tag_field="type"):
    name: str


class Picky(msgspec.Struct):
    name: str

    def __post_init__(self) -> None:
        raise LookupError(self.name)


class Node(msgspec.Struct):
    next: Node | None = None


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Options(TypedDict):
    depth: int


class Pair(NamedTuple):
    x: int
    y: int


class Color(enum.Enum):
    RED = "red"


NewReads = typing.cast("Any", NewType)("NewReads", Read)  # mypy itself fails at a NewType of a struct

UNION: Any = Ping | Pong | Read | Message | Move | Boxed[int]


def codec(name: CodecName, type_: Any = None, *, max_size: int = MIB) -> Codec[Any]:
    return make_codec(name, type_, max_size=max_size)


TEXTUAL: list[CodecName] = ["json", "msgpack"]
both = pytest.mark.parametrize("name", TEXTUAL)


def to_wire(name: CodecName, value: object) -> bytes:
    return msgspec.json.encode(value) if name == "json" else msgspec.msgpack.encode(value)


def from_wire(name: CodecName, data: bytes) -> Any:
    return msgspec.json.decode(data) if name == "json" else msgspec.msgpack.decode(data)


def test_protocol_ids() -> None:
    assert PROTOCOLS == {
        "json": "/stronghold-p2p/1.0.0",
        "msgpack": "/stronghold-p2p/msgpack/1.0.0",
        "raw": "/stronghold-p2p/raw/1.0.0",
    }


# -- untyped -------------------------------------------------------------------------------------------

json_numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | json_numbers | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=50,
)
msgpack_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.binary(), inner),
    max_leaves=50,
)


@given(value=json_values)
def test_json_round_trip(value: object) -> None:
    data = codec("json").encode(value)
    data.decode("utf-8")
    assert codec("json").decode(data) == value


@given(value=msgpack_values)
def test_msgpack_round_trip(value: object) -> None:
    assert codec("msgpack").decode(codec("msgpack").encode(value)) == value


@given(value=st.binary())
def test_raw_round_trip(value: bytes) -> None:
    assert codec("raw").decode(codec("raw").encode(value)) == value


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_has_no_such_number(number: float) -> None:
    assert codec("json").encode([number]) == b"[null]"


@both
def test_untyped_name(name: CodecName) -> None:
    type_name = codec(name).type_name
    assert type_name({"type": "Read", "key": "a"}) == "Read"
    assert type_name({"type": ["Read"]}) is None
    assert type_name({"kind": "Read"}) is None
    assert type_name(["type", "Read"]) is None
    assert type_name("Read") is None


def test_the_last_of_two_types_is_both_what_the_firewall_sees_and_what_the_handler_gets() -> None:
    value = codec("json").decode(b'{"type":"Read","type":"Write"}')
    assert codec("json").type_name(value) == value["type"] == "Write"


# -- raw -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"body", bytearray(b"body"), memoryview(b"body"), memoryview(b"b.o.d.y")[::2]])
def test_raw_takes_what_is_like_bytes(value: Any) -> None:
    data = codec("raw").encode(value)
    assert type(data) is bytes
    assert data == b"body"


@pytest.mark.parametrize("value", ["body", 4, None, [98]])
def test_raw_takes_nothing_else(value: object) -> None:
    with pytest.raises(EncodeError, match="cannot be sent as raw"):
        codec("raw").encode(value)


def test_raw_has_an_empty_message_and_no_types() -> None:
    assert codec("raw").decode(b"") == b""
    assert codec("raw", bytes).type_name(b"Read") is None
    with pytest.raises(TypeError, match="raw"):
        codec("raw", str)


# -- tagged unions -------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("value", "form", "type_name"),
    [
        (Ping(), "Ping", "Ping"),
        (Pong(), "Pong", "Pong"),
        (Read("a", 1), {"Read": {"key": "a", "offset": 1}}, "Read"),
        (Message(text="hi"), {"Message": "hi"}, "Message"),
        (Message(text=None), {"Message": None}, "Message"),
        (Move(1, 2), {"Move": [1, 2]}, "Move"),
        (Boxed(7), {"Boxed": {"content": 7}}, "Boxed"),
    ],
)
def test_externally_tagged(name: CodecName, value: object, form: object, type_name: str) -> None:
    union = codec(name, UNION)
    assert from_wire(name, union.encode(value)) == form
    assert union.decode(to_wire(name, form)) == value
    assert union.type_name(value) == type_name


def test_json_may_hold_white_space() -> None:
    assert codec("json", UNION).decode(b' { "Read" :\n{ "key" : "a" } } ') == Read("a")


@both
@pytest.mark.parametrize(
    "form",
    [
        {},
        "Read",
        {"Ping": {}},
        {"Ping": None},
        "Stop",
        {"Stop": 1},
        {"Read": {}},
        {"Read": {"key": 1}},
        {"Read": None},
        {"Message": 1},
        {"Message": ["hi"]},
        {"Move": [1]},
        {"Boxed": {"content": "7"}},
        {"Read": {"key": "a"}, "Message": "hi"},
        {"Read": {"key": "a"}, "Stop": 1},
        ["Read", {"key": "a"}],
        {"variant0": {"key": "a"}},
        1,
        None,
    ],
)
def test_no_variant(name: CodecName, form: object) -> None:
    with pytest.raises(DecodeError) as caught:
        codec(name, UNION).decode(to_wire(name, form))
    assert caught.value.protocol == name


def test_a_union_of_units_alone() -> None:
    units = codec("json", Ping | Pong)
    assert units.decode(units.encode(Pong())) == Pong()
    with pytest.raises(DecodeError):
        units.decode(b"{}")


def test_a_union_without_units() -> None:
    union = codec("json", Read | Move)
    assert union.decode(b'{"Move":[1,2]}') == Move(1, 2)
    with pytest.raises(DecodeError):
        union.decode(b'"Read"')


type_statement = pytest.mark.skipif(sys.version_info < (3, 12), reason="type statements are of Python 3.12")


def alias(value: Any, *parameters: Any) -> Any:
    return typing.TypeAliasType("alias", value, type_params=parameters)  # type: ignore[attr-defined, unused-ignore]


@type_statement
def test_types_by_a_type_statement() -> None:
    union = codec("json", alias(alias(Read | Ping) | alias(Move)))
    assert union.decode(b'{"Move":[1,2]}') == Move(1, 2)
    assert union.type_name(Move(1, 2)) == "Move"
    for single in (alias(Read), alias(Read) | None, alias(T | None, T)[Read]):
        assert codec("json", single).decode(b'{"key":"a"}') == Read("a")
        assert codec("json", single).type_name(Read("a")) == "Read"
        with pytest.raises(EncodeError, match="expected Read"):
            codec("json", single).encode({"key": "a"})


@both
@pytest.mark.parametrize(
    "union",
    [
        Ping | Read | None,
        Annotated[Ping | Read, "a"] | None,
        Annotated[Ping, "a"] | NewReads | None,
        typing.Optional[typing.Union[Ping, Read]],  # noqa: UP007, UP045 - the old spelling, too
    ],
)
def test_a_union_or_none(name: CodecName, union: Any) -> None:
    either = codec(name, union)
    for value, form in (Ping(), "Ping"), (Read("a"), {"Read": {"key": "a", "offset": 0}}), (None, None):
        assert from_wire(name, either.encode(value)) == form
        assert either.decode(to_wire(name, form)) == value
    assert list(map(either.type_name, (Ping(), Read("a"), None))) == ["Ping", "Read", None]
    assert either.type_names == frozenset({"Ping", "Read"})
    with pytest.raises(EncodeError, match="expected Ping, Read or None, got str"):
        either.encode("Ping")


@pytest.mark.parametrize("union", [Ping | Pong | None, Read | Move | None])
def test_a_union_of_units_or_of_none_or_none(union: Any) -> None:
    assert codec("json", union).decode(b"null") is None
    with pytest.raises(DecodeError):
        codec("json", union).decode(b"1")


def test_names_that_no_field_could_have() -> None:
    classes = [msgspec.defstruct(name, [("key", str)]) for name in ("class", "__init__")]
    union = codec("json", classes[0] | classes[1])
    for class_ in classes:
        value = class_(key="a")
        assert union.decode(union.encode(value)) == value


@pytest.mark.parametrize("value", [Cat("Tom"), {"Read": {"key": "a"}}, "Ping", Ping, None])
def test_a_value_of_no_variant_is_not_sent(value: object) -> None:
    with pytest.raises(EncodeError, match="expected Ping, Pong, Read, Message, Move or Boxed, got "):
        codec("json", UNION).encode(value)
    assert codec("json", UNION).type_name(value) is None


def test_a_subclass_is_no_variant() -> None:
    class Reread(Read):
        pass

    with pytest.raises(EncodeError):
        codec("json", UNION).encode(Reread("a"))
    assert codec("json", UNION).type_name(Reread("a")) is None


def test_two_variants_of_one_name() -> None:
    class Other:
        class Ping(msgspec.Struct):
            pass

    class Tagged(msgspec.Struct, tag="hound"):
        name: str

    Tagged.__name__ = "Cat"
    for union in (Ping | Other.Ping, Boxed[int] | Boxed[str], Cat | Tagged, Cat | Tagged | str):
        with pytest.raises(TypeError, match="two variants"):
            codec("json", union)


@both
def test_tags_of_msgspec_are_kept(name: CodecName) -> None:
    union = codec(name, Dog | Wolf)
    assert from_wire(name, union.encode(Dog("Rex"))) == {"type": "hound", "name": "Rex"}
    assert union.decode(to_wire(name, {"type": "wolf", "name": "Rex"})) == Wolf("Rex")
    assert union.type_name(Dog("Rex")) == "Dog"
    with pytest.raises(EncodeError, match="expected Dog or Wolf, got Cat"):
        union.encode(Cat("Tom"))
    with pytest.raises(DecodeError):
        union.decode(to_wire(name, {"Dog": {"name": "Rex"}}))


# -- single types --------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("type_", "value", "form", "type_name"),
    [
        (Read, Read("a"), {"key": "a", "offset": 0}, "Read"),
        (Ping, Ping(), {}, "Ping"),
        (Boxed[int], Boxed(1), {"content": 1}, "Boxed"),
        (Cat, Cat("Tom"), {"type": "Cat", "name": "Tom"}, "Cat"),
        (Point, Point(1, 2), {"x": 1, "y": 2}, "Point"),
        (Options, {"depth": 1}, {"depth": 1}, "Options"),
        (Pair, Pair(1, 2), [1, 2], "Pair"),
        (Color, Color.RED, "red", None),
        (list[int], [1, 2], [1, 2], None),
        (dict[str, Any], {"type": "Read"}, {"type": "Read"}, "Read"),
        (Mapping[str, str | int], {"type": "Read"}, {"type": "Read"}, "Read"),
        (dict[str, int], {"type": 1}, {"type": 1}, None),
        (Any, {"type": "Read"}, {"type": "Read"}, "Read"),
        (Read | None, None, None, None),
        (Read | None, Read("a"), {"key": "a", "offset": 0}, "Read"),
        (Annotated[Read, msgspec.Meta(title="a")], Read("a"), {"key": "a", "offset": 0}, "Read"),
        (Annotated[Read | None, "a"], Read("a"), {"key": "a", "offset": 0}, "Read"),
        (NewReads, Read("a"), {"key": "a", "offset": 0}, "Read"),
        (NewReads | None, Read("a"), {"key": "a", "offset": 0}, "Read"),
        (Boxed[int] | None, Boxed(1), {"content": 1}, "Boxed"),
        (Point | None, Point(1, 2), {"x": 1, "y": 2}, "Point"),
        (Options | None, {"depth": 1}, {"depth": 1}, "Options"),
        (Options | str, "deep", "deep", None),
        (Pair | Options, Pair(1, 2), [1, 2], "Pair"),
        (Pair | Options, {"depth": 1}, {"depth": 1}, "Options"),
        (Read | list[int], Read("a"), {"key": "a", "offset": 0}, "Read"),
        (Read | list[int], [1], [1], None),
        (Move | dict[str, Any], Move(1, 2), [1, 2], "Move"),
        (Move | dict[str, Any], {"type": "Read"}, {"type": "Read"}, "Read"),
        (dict[str, Any] | None, {"type": "Read"}, {"type": "Read"}, "Read"),
        (Dog | Wolf | str, Dog("Rex"), {"type": "hound", "name": "Rex"}, "Dog"),
        (Dog | Wolf | str, "Rex", "Rex", None),
        (Dog | Wolf | None, Wolf("Rex"), {"type": "wolf", "name": "Rex"}, "Wolf"),
        (Dog | Wolf | None, None, None, None),
        (int | str, "a", "a", None),
        (Literal["on", "off"], "on", "on", None),
    ],
)
def test_single_type(name: CodecName, type_: Any, value: object, form: object, type_name: str | None) -> None:
    single = codec(name, type_)
    assert from_wire(name, single.encode(value)) == form
    assert single.decode(to_wire(name, form)) == value
    assert single.type_name(value) == type_name
    if type_name is not None:
        assert single.type_names is None or type_name in single.type_names


def test_the_names_that_messages_can_have() -> None:
    assert codec("json").type_names is codec("json", Any).type_names is codec("json", dict).type_names is None
    assert codec("json", Move | dict[str, Any]).type_names is None
    assert (
        codec("raw").type_names
        == codec("json", int).type_names
        == codec("json", dict[str, int]).type_names
        == frozenset()
    )
    assert codec("json", UNION).type_names == frozenset({"Ping", "Pong", "Read", "Message", "Move", "Boxed"})
    assert codec("json", Read | None).type_names == frozenset({"Read"})
    assert codec("json", Options | Pair).type_names == frozenset({"Options", "Pair"})
    assert codec("json", typing.Union[Read, Any]).type_names is None  # noqa: UP007 - a struct has no `|` for Any
    assert codec("json", Dog | Wolf | str).type_names == frozenset({"Dog", "Wolf"})


def test_a_subclass_is_of_its_base_where_no_tag_names_it() -> None:
    class Reread(Read):
        pass

    for type_ in (Read, Read | None, Read | list[int]):
        assert codec("json", type_).type_name(Reread("a")) == "Read"
        assert codec("json", type_).encode(Reread("a")) == b'{"key":"a","offset":0}'


@pytest.mark.parametrize(("type_", "value"), [(Read, {"key": "a"}), (Read, Ping()), (Point, {"x": 1, "y": 2})])
def test_a_value_of_another_class_is_not_sent(type_: Any, value: object) -> None:
    with pytest.raises(EncodeError, match=f"expected {type_.__name__}, got {type(value).__name__}"):
        codec("json", type_).encode(value)


@pytest.mark.parametrize("type_", [Ping | dict, Cat | Ping, complex | Ping, Ping | Read | Pair, Options | Ping])
def test_a_type_that_msgspec_does_not_support(type_: Any) -> None:
    with pytest.raises(TypeError):
        codec("json", type_)


# -- limits and bad values of our own ------------------------------------------------------------------


@pytest.mark.parametrize("name", PROTOCOLS)
def test_max_size(name: CodecName) -> None:
    value: Any = b"12345678" if name == "raw" else "12345678"
    size = len(codec(name).encode(value))
    assert codec(name, max_size=size).max_size == size
    assert len(codec(name, max_size=size).encode(value)) == size
    with pytest.raises(EncodeError, match=f"{size} bytes is over the limit of {size - 1}"):
        codec(name, max_size=size - 1).encode(value)


def nested(depth: int) -> object:
    value: object = None
    for _ in range(depth):
        value = [value]
    return value


@both
@pytest.mark.parametrize("value", [object(), {1: {(2, 3): 4}, "a": 5j}, "\ud800", nested(100_000)], ids=type)
def test_what_cannot_be_encoded(name: CodecName, value: object) -> None:
    with pytest.raises(EncodeError, match=f"cannot be sent as {name}"):
        codec(name).encode(value)


def test_msgpack_has_integers_of_64_bits_only() -> None:
    with pytest.raises(EncodeError):
        codec("msgpack").encode(2**64)


# -- hostile input -------------------------------------------------------------------------------------


@both
@given(data=st.binary(max_size=200))
def test_any_bytes_decode_or_are_a_decode_error(name: CodecName, data: bytes) -> None:
    for type_ in (None, UNION, Dog | Wolf, Read, set[Any], dict[str, float]):
        try:
            codec(name, type_).decode(data)
        except DecodeError as error:
            assert error.protocol == name  # noqa: PT017 - there need not be one


@both
@given(value=json_values)
def test_any_value_decodes_to_a_union_or_is_a_decode_error(name: CodecName, value: object) -> None:
    try:
        data = to_wire(name, value)
    except OverflowError:
        return
    with pytest.raises(DecodeError):
        codec(name, UNION).decode(data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("json", b""),
        ("json", b'{"a":1'),
        ("json", b"{} {}"),
        ("json", b"\xef\xbb\xbf{}"),
        ("json", b'"\xff"'),
        ("json", b'"\xed\xa0\x80"'),
        ("json", b'"\\ud800"'),
        ("json", b"NaN"),
        ("json", b"1e400"),
        ("json", b"9" * 5000),
        ("msgpack", b""),
        ("msgpack", b"\xc1"),
        ("msgpack", b"\x01\x02"),
        ("msgpack", b"\xa1\xff"),
        ("msgpack", b"\xdd\xff\xff\xff\xff"),
        ("msgpack", b"\xdf\xff\xff\xff\xff"),
        ("msgpack", b"\xdb\xff\xff\xff\xff"),
        ("msgpack", b"\xc9\xff\xff\xff\xff\x01"),
        ("msgpack", b"\xc7\x0c\xff" + b"\xff" * 12),
    ],
)
def test_malformed(name: CodecName, data: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        codec(name).decode(data)
    assert caught.value.protocol == name
    assert caught.value.reason


@pytest.mark.parametrize(
    ("name", "opening"),
    [("json", b"["), ("json", b'{"next":'), ("msgpack", b"\x91"), ("msgpack", b"\x81\xa4next")],
)
@pytest.mark.parametrize("type_", [None, Node, UNION], ids=["untyped", "recursive", "union"])
def test_a_megabyte_of_nesting(name: CodecName, opening: bytes, type_: Any) -> None:
    with pytest.raises(DecodeError):
        codec(name, type_).decode(opening * (MIB // len(opening)))


@pytest.mark.parametrize(
    ("type_", "data"),
    [
        (set[Any], b"[[]]"),
        (frozenset[Any], b"[{}]"),
        (Picky, b'{"name":"a"}'),
        (Read | Picky, b'{"Picky":{"name":"a"}}'),
    ],
)
def test_what_classes_raise_in_decoding(type_: Any, data: bytes) -> None:
    with pytest.raises(DecodeError):
        codec("json", type_).decode(data)


def test_the_remote_does_not_write_our_reason() -> None:
    field = "\nINFO all is well\x1b[2J" + "x" * MIB
    with pytest.raises(DecodeError) as caught:
        codec("json", UNION).decode(msgspec.json.encode({field: 1}))
    assert len(caught.value.reason) < 300
    assert caught.value.reason.isprintable()


# -- keys of MessagePack maps --------------------------------------------------------------------------

EMBEDDINGS: list[Callable[[bytes], bytes]] = [
    lambda value: value,
    lambda value: b"\x91" + value,
    lambda value: b"\x92\x01" + value,
    lambda value: b"\x81\xa1a" + value,
    lambda value: b"\x82\xa1a\x01\xa1b" + value,
    lambda value: b"\xdc\x00\x01" + value,
    lambda value: b"\xdd\x00\x00\x00\x01" + value,
    lambda value: b"\xde\x00\x01\xa1a" + value,
    lambda value: b"\xdf\x00\x00\x00\x01\xa1a" + value,
    *(
        lambda value, scalar=scalar: b"\x92" + scalar + value
        for scalar in (
            b"\xff", b"\xc0", b"\xc2", b"\xc3", b"\xa2ab", b"\xd9\x02ab", b"\xda\x00\x02ab", b"\xdb\x00\x00\x00\x02ab",
            b"\xc4\x02ab", b"\xc5\x00\x02ab", b"\xc6\x00\x00\x00\x02ab", b"\xca1234", b"\xcb12345678", b"\xcc1",
            b"\xcd12", b"\xce1234", b"\xcf12345678", b"\xd01", b"\xd112", b"\xd21234", b"\xd312345678", b"\xd4\x051",
            b"\xd5\x0512", b"\xd6\x051234", b"\xd7\x0512345678", b"\xd8\x051234567812345678", b"\xc7\x02\x05ab",
            b"\xc8\x00\x02\x05ab", b"\xc9\x00\x00\x00\x02\x05ab", b"\x90", b"\x80",
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("embed", EMBEDDINGS)
def test_keys_of_maps_are_text_or_bytes(embed: Callable[[bytes], bytes]) -> None:
    for key in (b"\xa1a", b"\xd9\x01a", b"\xda\x00\x01a", b"\xdb\x00\x00\x00\x01a", b"\xc4\x01a"):
        data = embed(b"\x81" + key + b"\x01")
        assert codec("msgpack").decode(data) == msgspec.msgpack.decode(data)
    for key in (b"\x01", b"\xff", b"\xcc\x01", b"\xc0", b"\xc2", b"\x90", b"\x91\x01", b"\xcb12345678", b"\xd4\x051"):
        with pytest.raises(DecodeError, match="neither text nor bytes"):
            codec("msgpack").decode(embed(b"\x81" + key + b"\x01"))


@pytest.mark.parametrize("type_", [None, Read, dict[int, str]])
def test_keys_that_collide_are_refused_before_they_cost_time(type_: Any) -> None:
    keys = b"".join(b"\x92\x01\xce" + number.to_bytes(4) + b"\x01" for number in range(50_000))
    with pytest.raises(DecodeError, match="neither text nor bytes"):
        codec("msgpack", type_).decode(b"\xdf" + (50_000).to_bytes(4) + keys)


def test_no_other_keys_are_sent() -> None:
    with pytest.raises(EncodeError, match="neither text nor bytes"):
        codec("msgpack").encode([{"a": {1: 2}}])


# -- how much memory values take -----------------------------------------------------------------------

HEAVY: list[Any] = [
    [[] for _ in range(10_000)],
    [[[]] for _ in range(10_000)],
    [{} for _ in range(10_000)],
    [{"a": 1} for _ in range(10_000)],
    [{"a": {"b": {}}} for _ in range(5_000)],
    ["ab" for _ in range(10_000)],
    ["" for _ in range(10_000)],
    {f"key {number}": None for number in range(10_000)},
    [1.5 for _ in range(10_000)],
    list(range(10_000, 20_000)),
    [1 for _ in range(10_000)],
    "x" * 100_000,
    "x" * 100_000 + "\U0001f600",
    [256 for _ in range(10_000)],
]


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize("value", HEAVY)
def test_no_value_takes_more_memory_than_its_weight(codec: CodecName, value: Any) -> None:
    codec_ = make_codec(codec, None, max_size=1_000_000)
    check_weight(codec_, codec_.encode(value))


@pytest.mark.parametrize("item", ["d90261 61", "c402 0000", "d40100", "c70001", "cd0100", "d1ff00", "82a161c0a162c0"])
def test_no_form_of_messagepack_takes_more_memory_than_its_weight(item: str) -> None:
    codec = make_codec("msgpack", None, max_size=1_000_000)
    check_weight(codec, b"\xdd" + (10_000).to_bytes(4) + bytes.fromhex(item) * 10_000)


def check_weight(codec: Codec[Any], data: bytes) -> None:
    tracemalloc.start()
    decoded = codec.decode(data)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert decoded
    assert taken <= codec.weight(data) + 5_000


def test_a_message_of_full_size_may_wait() -> None:
    config = Config()
    size = config.max_json_message
    codec = make_codec("json", None, max_size=size)
    for repeated in (b"[],", b"{},", b'"",', b"1,", b'{"":1},', b'{"":{}},', b"[[]],", b'"a",'):
        assert codec.weight(repeated * (size // len(repeated))) < config.max_firewall_waiting_bytes_per_peer
