from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronghold_p2p.encoding import multibase

# "yes mani !" of multiformats/multibase, tests/basic.csv, and its two-zeros case: a zero byte keeps its place.
BASICS = [
    ("f796573206d616e692021", b"yes mani !"),
    ("bpfsxgidnmfxgsibb", b"yes mani !"),
    ("k2lcpzo5yikidynfl", b"yes mani !"),
    ("z7paNL19xttacUY", b"yes mani !"),
    ("ueWVzIG1hbmkgIQ", b"yes mani !"),
    ("f0000796573206d616e692021", b"\0\0yes mani !"),
    ("baaahszltebwwc3tjeaqq", b"\0\0yes mani !"),
    ("k002lcpzo5yikidynfl", b"\0\0yes mani !"),
    ("z117paNL19xttacUY", b"\0\0yes mani !"),
    ("uAAB5ZXMgbWFuaSAh", b"\0\0yes mani !"),
]


@pytest.mark.parametrize(("text", "data"), BASICS)
def test_decode(text: str, data: bytes) -> None:
    assert multibase.decode(text) == data


@given(st.binary(max_size=80))
def test_round_trip(data: bytes) -> None:
    assert multibase.decode_base58(multibase.encode_base58(data)) == data
    assert multibase.decode("z" + multibase.encode_base58(data)) == data
    assert multibase.decode(multibase.encode_base32(data)) == data
    assert multibase.decode(multibase.encode_base64url(data)) == data
    assert multibase.decode("f" + data.hex()) == data


@pytest.mark.parametrize("text", ["", "Q", "f0", "fgg", "b1", "k-", "z0", "u$", "u====", "z" + "2" * 257])
def test_malformed(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - base64 has messages of its own
        multibase.decode(text)


@given(st.text(max_size=50) | st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_=", max_size=20))
def test_any_text_is_bytes_or_a_value_error(text: str) -> None:
    for prefix in "", *"fbkzu":
        try:
            data = multibase.decode(prefix + text)
        except ValueError:
            continue
        assert isinstance(data, bytes)
        if prefix == "z":
            assert multibase.encode_base58(data) == text
