"""Codes on the reset of a stream."""

from __future__ import annotations

import pytest

from stronghold_p2p import NoResponse, PeerId, StreamReset
from stronghold_p2p.reset_codes import MAX_SECONDS, Reason, Told, encode, read

PEER = PeerId.from_bytes(b"\x12\x20" + bytes(32))


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize(
    ("seconds", "told"), [(None, None), (0.2, 1.0), (1.0, 1.0), (1.5, 2.0), (4095.0, 4095.0), (1e9, float(MAX_SECONDS))]
)
def test_what_is_encoded_is_read(reason: Reason, seconds: float | None, told: float | None) -> None:
    read_back = read(encode(reason, seconds))
    assert read_back is not None
    assert read_back.retry_after == told


def test_they_are_beyond_those_of_libp2p_and_differ() -> None:
    codes = {encode(reason) for reason in Reason}
    assert len(codes) == len(Reason)
    assert all(0xFFFF < code < 1 << 32 for code in codes)
    assert encode(Reason.BUSY, 10) == 0x5350_400A


@pytest.mark.parametrize(
    "code", [0, 1, 0x1002, 0x1003, 0x1008, 0x1000, 0x5350_0000, 0x5350_5000, 0x5350_F00A, 0x5351_1000, 0xFFFF_FFFF]
)
def test_others_are_none_of_ours(code: int) -> None:
    assert read(code) is None
    error = StreamReset(code)
    assert (error.code, error.reason, error.retry_after) == (code, None, None)
    assert (f"{code:#x}" in str(error)) is (code != 0)


def test_what_errors_say() -> None:
    reset = StreamReset(encode(Reason.RATE, 3))
    assert (reset.reason, reset.retry_after) == ("rate", 3.0)
    assert str(reset).endswith("too many in too little time; try again after 3 s")
    rejected = NoResponse(PEER, Told("asked, no answer", None))
    assert (rejected.reason, rejected.retry_after) == ("asked, no answer", None)
    assert "nobody has given one" in str(rejected)
    silent = NoResponse(PEER)
    assert (silent.reason, silent.retry_after) == (None, None)
    assert str(silent).endswith("rejected or declined")
