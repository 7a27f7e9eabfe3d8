"""The messages of NAT-PMP, as RFC 6886 draws them."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronghold_p2p import DecodeError
from stronghold_p2p.port_mapping.nat_pmp import (
    ADDRESS,
    MAP_TCP,
    AddressResponse,
    ErrorResponse,
    MapResponse,
    Response,
    ResultCode,
    decode_response,
    encode_address_request,
    encode_map_request,
)


def test_requests() -> None:
    assert encode_address_request() == bytes.fromhex("0000")  # section 3.2
    # Section 3.3: version, opcode, reserved, internal port, external port, lifetime.
    assert encode_map_request(4001, 80, 7200) == bytes.fromhex("00 02 0000 0fa1 0050 00001c20")
    assert encode_map_request(4001, 0, 0) == bytes.fromhex("00 02 0000 0fa1 0000 00000000")


@pytest.mark.parametrize(
    ("data", "response"),
    [
        ("00 80 0000 0000000a 01020304", AddressResponse(10, IPv4Address("1.2.3.4"))),
        ("00 82 0000 0000000a 0fa1 0050 00000e10", MapResponse(10, 4001, 80, 3600)),
        ("00 82 0000 ffffffff 0fa1 0000 00000000", MapResponse(2**32 - 1, 4001, 0, 0)),
        ("00 82 0002 0000000a 0fa1 0050 00000e10", ErrorResponse(10, MAP_TCP, ResultCode.NOT_AUTHORIZED)),
        ("00 82 0004 0000000a", ErrorResponse(10, MAP_TCP, ResultCode.OUT_OF_RESOURCES)),
        ("00 80 0003 0000000a 00000000", ErrorResponse(10, ADDRESS, ResultCode.NETWORK_FAILURE)),
        ("00 82 ffff 0000000a", ErrorResponse(10, MAP_TCP, 0xFFFF)),
        ("00 00 0001 0000000a", ErrorResponse(10, 0, ResultCode.UNSUPPORTED_VERSION)),  # section 3.5
        ("00 81 0001 0000000a", ErrorResponse(10, 0, ResultCode.UNSUPPORTED_VERSION)),
    ],
)
def test_responses(data: str, response: Response) -> None:
    decoded = decode_response(bytes.fromhex(data))
    assert (decoded, type(decoded)) == (response, type(response))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("", "0 bytes"),
        ("00 80 0000 000000", "7 bytes"),
        ("02 80 0000 0000000a 01020304", "version 2"),
        ("00 00 0000 0000000a 01020304", "opcode 0"),
        ("00 81 0000 0000000a 0fa1 0050 00000e10", "opcode 129"),
        ("00 80 0000 0000000a 010203", "an address of 3 bytes"),
        ("00 80 0000 0000000a 0102030405", "an address of 5 bytes"),
        ("00 82 0000 0000000a 0fa1 0050 00000e", "a mapping of 7 bytes"),
        ("00 82 0000 0000000a 0fa1 0050 00000e1000", "a mapping of 9 bytes"),
    ],
)
def test_what_is_no_response(data: str, reason: str) -> None:
    with pytest.raises(DecodeError, match=f"^NAT-PMP: {reason}$"):
        decode_response(bytes.fromhex(data))


@given(st.binary(max_size=20) | st.builds(lambda data: b"\0" + data, st.binary(max_size=20)))
def test_any_bytes(data: bytes) -> None:
    with suppress(DecodeError):
        decode_response(data)
