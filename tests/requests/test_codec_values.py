"""How many values a message may have: counted before it is decoded, never by its bytes."""

from __future__ import annotations

import base64
import gc
import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronghold_p2p.config import Config
from stronghold_p2p.errors import DecodeError, EncodeError
from stronghold_p2p.requests.codec import Codec, CodecName, make_codec
from stronghold_p2p.requests.protocol import make_protocols
from stronghold_p2p.requests.values import UNCOUNTED

MIB = 1024 * 1024
LIMITS: dict[CodecName, int] = {"json": Config().max_json_values, "msgpack": Config().max_msgpack_values}
both = pytest.mark.parametrize("name", LIMITS)


class Item(msgspec.Struct):
    id: int = 0


class Other(msgspec.Struct):
    content: Any = None


def codec(name: CodecName, max_values: int | None = None, type_: Any = None) -> Codec[Any]:
    return make_codec(name, type_, max_size=MIB, max_values=LIMITS[name] if max_values is None else max_values)


def refused(codec: Codec[Any], data: bytes) -> bool:
    """Whether ``data`` has too many values; it decodes if not."""
    try:
        codec.decode(data)
    except DecodeError as error:
        assert "values, got more: Config.max_" in error.reason  # noqa: PT017 - there need not be one
        return True
    return False


def count_json(value: Any, *, empty: int = 1) -> int:
    """The values in ``value``; ``empty`` is what an empty container counts for beside itself."""
    if isinstance(value, dict):
        return 1 + (sum(1 + count_json(member, empty=empty) for member in value.values()) if value else empty)
    if isinstance(value, list):
        return 1 + (sum(count_json(member, empty=empty) for member in value) if value else empty)
    return 1


def count_msgpack(value: Any) -> int:
    """The same; a container whose length does not fit into its first byte is two."""
    if isinstance(value, dict):
        return 1 + (len(value) > 15) + sum(1 + count_msgpack(member) for member in value.values())
    if isinstance(value, list):
        return 1 + (len(value) > 15) + sum(map(count_msgpack, value))
    return 1


# -- JSON ----------------------------------------------------------------------------------------------

jsonlike = st.text(alphabet='ab",:[]{}\\/0159.eE+-\né\U0001f600') | st.text()
numbers = st.integers(-(10**15), 10**15)


def values(scalars: st.SearchStrategy[Any], keys: st.SearchStrategy[Any] = jsonlike) -> st.SearchStrategy[Any]:
    return st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=30)


@given(value=values(st.none() | st.booleans() | numbers | jsonlike), ascii=st.booleans(), indent=st.none() | st.just(2))
def test_json_is_counted_exactly_whatever_its_texts_hold(value: Any, ascii: bool, indent: int | None) -> None:
    data = json.dumps(value, ensure_ascii=ascii, indent=indent).encode()
    expected = count_json(value)
    assert codec("json", expected).decode(data) == value
    assert refused(codec("json", expected - 1), data)


@given(value=values(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | jsonlike))
def test_json_has_never_more_values_than_are_counted(value: Any) -> None:
    assert refused(codec("json", count_json(value, empty=0) - 1), json.dumps(value).encode())


@given(data=st.text(alphabet='1,[]{}:"\\ e.').map(str.encode), limit=st.integers(1, 20))
def test_malformed_json_has_never_more_values_before_its_fault_than_are_counted(data: bytes, limit: int) -> None:
    """What passes the count has no more values in any of its beginnings than the limit."""
    try:
        codec("json", limit).decode(data)
    except DecodeError as error:
        if "Config.max_json_values" in error.reason:
            return
    for end in range(len(data)):
        for closing in (b"", b"]", b'"]', b"}", b"]}", b"}]"):
            try:
                value = json.loads(data[:end] + closing)
            except ValueError:
                continue
            assert count_json(value, empty=0) <= limit


@pytest.mark.parametrize(
    ("number", "values"),
    [
        (b"1.5", 1),
        (b"-0.0000012345678901234567", 1),
        (b"12345678901234567890123", 1),
        (b"1e5", 4),
        (b"1E+05", 4),
        (b"-1.5e-05", 1),
        (b"1e23", 4),
        (b"1e308", 104),
        (b"1e-308", 101),
        (b"2.5E-310", 101),
        (b"1e+00005", 104),
        (b"123456789012345678901234", 11),
        (b"0." + b"0" * 23 + b"1", 11),
        (b"-1." + b"3" * 800 + b"e-307", 431),
    ],
)
def test_a_number_counts_for_the_time_that_it_takes(number: bytes, values: int) -> None:
    data = (b"[" + b",".join([number] * 1000) + b"]").ljust(UNCOUNTED + 1)
    assert not refused(codec("json", 1 + 1000 * values), data)
    assert refused(codec("json", 1000 * values), data)


def test_short_json_is_not_counted() -> None:
    numbers = b"[" + b",".join([b"1e308"] * (UNCOUNTED // 6)) + b"]"
    assert not refused(codec("json"), numbers.ljust(UNCOUNTED))
    assert not refused(codec("json", 5), b"[1,2]")
    assert refused(codec("json", 3), b"[1,2,3]")


def fill(unit: str) -> str:
    return f"[{','.join([unit] * (MIB // (len(unit) + 1) - 1))}]"


RANDOM = random.Random(1)
RECORDS = [
    {"id": number, "name": f"Name {number}", "price": RANDOM.random(), "tags": ["a", "b"], "at": "2024-01-01"}
    for number in range(10_000)
]
HONEST_JSON = {
    "prose": json.dumps('So, he said: [no], "yes"; it was 1984, or 1e100. ' * 19_000),
    "CSV": json.dumps("".join(f"{RANDOM.random()},{RANDOM.random()},1e-300\r\n" for _ in range(20_000))),
    "JSON in JSON": json.dumps(json.dumps([[]] * 200_000)),
    "base64": json.dumps(base64.b64encode(RANDOM.randbytes(750_000)).decode()),
    "hexadecimal": json.dumps([RANDOM.randbytes(16).hex() for _ in range(29_000)]),
    "fractions": json.dumps([RANDOM.random() for _ in range(50_000)]),
    "floats": json.dumps([RANDOM.uniform(-1, 1) * 10 ** RANDOM.randint(-3, 15) for _ in range(50_000)]),
    "floats of JavaScript": fill("-0.0000012345678901234567"),
    "floats of C": fill("0.33333333333333331483"),
    "floats with exponents": json.dumps([RANDOM.random() * 1e-9 for _ in range(42_000)]),
    "records": json.dumps(RECORDS, separators=(",", ":")),
    "identifiers": fill('{"id":1234567890123}'),
}


@pytest.mark.parametrize("text", HONEST_JSON.values(), ids=HONEST_JSON)
def test_honest_json(text: str) -> None:
    data = text.encode()
    assert MIB // 2 < len(data) <= MIB
    decoded = codec("json").decode(data)
    assert decoded == json.loads(text)
    assert codec("json").decode(codec("json").encode(decoded)) == decoded


UNITS = ["[]", "{}", "[[]]", '""', "1", "null", '{"":1}', '{"":[]}', "1e23", "1e308", "9" * 4300, "1." + "3" * 800]
types = pytest.mark.parametrize("type_", [None, list[list[float]], dict[str, Item], Item | Other], ids=str)


@pytest.mark.parametrize("unit", [*UNITS, "[" * 900 + "]" * 900], ids=lambda unit: unit[:10])
@types
def test_a_megabyte_that_is_slow_to_decode(unit: str, type_: Any) -> None:
    data = fill(unit).encode()
    assert refused(codec("json", type_=type_), data)
    assert refused(codec("json", type_=type_), data[:-1])


@types
def test_a_megabyte_that_is_no_json(type_: Any) -> None:
    for byte in (b"[", b",", b"[,"):
        assert refused(codec("json", type_=type_), byte * (MIB // len(byte)))


# -- MessagePack ---------------------------------------------------------------------------------------

msgpack_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.text(min_size=250, max_size=300)
)


@given(value=values(msgpack_scalars, st.text() | st.binary() | st.text(min_size=30, max_size=40)))
def test_msgpack_is_counted_exactly(value: Any) -> None:
    data = msgspec.msgpack.encode(value)
    expected = count_msgpack(value)
    assert codec("msgpack", expected).decode(data) == value
    if expected > 1:
        assert refused(codec("msgpack", expected - 1), data)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 300, 70_000])
def test_msgpack_of_every_size(size: int) -> None:
    for value in ("a" * size, b"a" * size, [1] * size, {str(key): 1 for key in range(size)}):
        message = [value, {"a": value, "b": value}]
        data, values = msgspec.msgpack.encode(message), count_msgpack(message)
        assert not refused(codec("msgpack", values), data)
        assert refused(codec("msgpack", values - 1), data)


def array(unit: bytes) -> bytes:
    values = MIB // len(unit) - 1
    return b"\xdd" + values.to_bytes(4) + unit * values


MSGPACK_UNITS = [
    b"\x90",
    b"\x80",
    b"\x01",
    b"\xa0",
    b"\xc4\x00",
    b"\x91\x90",
    b"\x81\xa0\x90",
    b"\xd6\xff\x00\x00\x00\x01",
]


@pytest.mark.parametrize("unit", MSGPACK_UNITS)
@types
def test_a_megabyte_of_values_in_msgpack(unit: bytes, type_: Any) -> None:
    assert refused(codec("msgpack", type_=type_), array(unit))
    for nesting in (b"\x91", b"\x81\xa0"):
        assert refused(codec("msgpack", type_=type_), array(nesting * 900 + unit))


def test_nothing_is_read_beyond_the_limit() -> None:
    """A bad key is found before the limit, and not behind it."""
    limit = 1000
    bad = b"\x81\x01\x01"
    for values, match in (limit - 5, "neither text nor bytes"), (limit - 4, "got more"), (limit, "got more"):
        data = b"\xdc" + (values + 1).to_bytes(2) + b"\xc0" * values + bad
        with pytest.raises(DecodeError, match=match):
            codec("msgpack", limit).decode(data)
    for head in (b"\xdd", b"\xdf"):
        with pytest.raises(DecodeError, match="got more"):
            codec("msgpack", limit).decode(head + b"\xff\xff\xff\xff")
    nested = b"\x91" * (limit - 1)
    with pytest.raises(DecodeError, match="got more"):
        codec("msgpack", limit).decode(nested + b"\x91" + bad)


def test_honest_msgpack() -> None:
    floats = [RANDOM.random() for _ in range(90_000)]
    for value in (floats, RECORDS[:7500], "a" * 1_000_000, b"a" * 1_000_000, {"a": [b"a" * 300_000] * 3}):
        data = codec("msgpack").encode(value)
        assert len(data) <= MIB
        assert codec("msgpack").decode(data) == value


# -- both ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["msgpack"])
def test_what_a_peer_would_refuse_is_not_sent(name: CodecName) -> None:
    with pytest.raises(
        EncodeError, match=f"cannot be sent as {name}: expected at most {LIMITS[name]} values, got more"
    ):
        codec(name).encode([[]] * LIMITS[name])


@both
def test_the_limit_is_of_the_configuration(name: CodecName) -> None:
    (protocol,) = make_protocols(name, None, None, Config(max_json_values=4, max_msgpack_values=4))
    for either in (protocol.requests, protocol.responses):
        assert either.decode(either.encode([1, 2, 3])) == [1, 2, 3]
        with pytest.raises(DecodeError, match=f"at most 4 values, got more: Config.max_{name}_values"):
            either.decode(codec(name).encode([1, 2, 3, 4]))


def test_raw_messages_have_no_values() -> None:
    (protocol,) = make_protocols("raw", None, None, Config(max_json_values=4, max_msgpack_values=4))
    assert protocol.requests.decode(protocol.requests.encode(b"," * MIB)) == b"," * MIB


@both
def test_nothing_is_collected_while_a_large_message_is_decoded(name: CodecName) -> None:
    """On Python 3.11 the collector would run with the first lists, and go through all objects of the program."""
    decoding = False
    collections = 0

    def collected(phase: str, info: object) -> None:
        nonlocal collections
        collections += decoding

    data = codec(name).encode([[] for _ in range(20_000)])
    decode = codec(name).decode
    gc.callbacks.append(collected)
    try:
        decoding = True
        decode(data)
        decoding = False
    finally:
        gc.callbacks.remove(collected)
    assert not collections
    assert gc.isenabled()


@both
def test_the_collector_is_left_as_it_was(name: CodecName) -> None:
    large = codec(name).encode(["a" * 100] * 1000)
    for data in (large, large[:-1]):
        for enabled in (False, True):
            (gc.enable if enabled else gc.disable)()
            try:
                codec(name).decode(data)
            except DecodeError:
                pass
            assert gc.isenabled() is enabled
