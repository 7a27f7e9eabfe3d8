from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronghold_p2p.encoding import varint
from stronghold_p2p.errors import DecodeError

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "uvarint.json").read_text())


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda vector: vector["hex"])
def test_valid_vectors(vector: dict[str, Any]) -> None:
    encoded = bytes.fromhex(vector["hex"])
    assert varint.decode(encoded) == (int(vector["value"]), len(encoded))
    assert varint.encode(int(vector["value"])) == encoded


@pytest.mark.parametrize("vector", VECTORS["invalid"], ids=lambda vector: vector["hex"] or "empty")
def test_invalid_vectors(vector: dict[str, Any]) -> None:
    encoded = bytes.fromhex(vector["hex"])
    if vector["error"] == "truncated":
        assert varint.decode(encoded) is None
    else:
        with pytest.raises(
            DecodeError, match={"not-minimal": "not minimal", "too-long": "longer than 9"}[vector["error"]]
        ):
            varint.decode(encoded)


def test_a_ninth_continuation_bit_is_refused_at_once() -> None:
    (vector,) = VECTORS["either_error"]
    with pytest.raises(DecodeError, match="longer than 9"):
        varint.decode(bytes.fromhex(vector["hex"]))


@pytest.mark.parametrize("vector", VECTORS["sequences"], ids=lambda vector: vector["hex"])
def test_sequences(vector: dict[str, Any]) -> None:
    encoded = memoryview(bytes.fromhex(vector["hex"]))
    offset = 0
    for value in vector["values"]:
        decoded = varint.decode(encoded, offset)
        assert decoded is not None
        assert decoded[0] == int(value)
        offset = decoded[1]
    assert encoded[offset:].hex() == vector.get("rest_hex", "")
    assert varint.decode(encoded, offset) is None


@given(st.integers(0, varint.MAX_VALUE), st.binary(max_size=4))
def test_round_trip(value: int, before: bytes) -> None:
    encoded = varint.encode(value)
    assert varint.decode(before + encoded + b"\xff", len(before)) == (value, len(before) + len(encoded))
    for cut in range(len(encoded)):
        assert varint.decode(encoded[:cut]) is None


@given(st.binary(max_size=12))
def test_any_bytes_are_a_varint_or_one_error(data: bytes) -> None:
    try:
        decoded = varint.decode(data)
    except DecodeError:
        return
    if decoded is not None:
        value, offset = decoded
        assert varint.encode(value) == data[:offset]


@pytest.mark.parametrize("value", [-1, varint.MAX_VALUE + 1])
def test_encode_refuses_what_does_not_fit(value: int) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        varint.encode(value)
