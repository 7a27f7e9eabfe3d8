"""The messages of PCP, as RFC 6887 draws them."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronghold_p2p import DecodeError
from stronghold_p2p.port_mapping.pcp import (
    AnnounceResponse,
    MapResponse,
    Response,
    ResultCode,
    VersionResponse,
    decode_response,
    encode_announce_request,
    encode_map_request,
)

CLIENT = IPv4Address("192.168.1.2")
EXTERNAL = IPv4Address("1.2.3.4")
NONCE = bytes(range(12))


def test_requests() -> None:
    # Section 7.1: version, R and opcode, reserved, lifetime, the client's address.
    header = "02 {} 0000 {} 00000000 00000000 0000ffff c0a80102"
    assert encode_announce_request(CLIENT) == bytes.fromhex(header.format("00", "00000000"))
    # Section 11.1: nonce, protocol, reserved, internal port, external port, external address.
    mapping = "000102030405060708090a0b 06 000000 0fa1 0050 00000000 00000000 0000ffff 01020304"
    asked = encode_map_request(CLIENT, NONCE, 4001, 80, EXTERNAL, 7200)
    assert asked == bytes.fromhex(header.format("01", "00001c20") + mapping)
    assert len(asked) == 60


# Section 7.2: version, R and opcode, reserved, result, lifetime, epoch, reserved.
HEADER = "02 {opcode} 00 {result} 00000e10 0000000a 00000000 00000000 00000000"
GRANTED = "000102030405060708090a0b 06 000000 0fa1 1f90 00000000 00000000 0000ffff 01020304"
IP6 = "000102030405060708090a0b 06 000000 0fa1 1f90 20010db8 00000000 00000000 00000001"
MAPPED = MapResponse(10, 0, NONCE, 4001, 8080, EXTERNAL, 3600)


@pytest.mark.parametrize(
    ("data", "response"),
    [
        (HEADER.format(opcode="80", result="00"), AnnounceResponse(10)),
        (HEADER.format(opcode="81", result="00") + GRANTED, MAPPED),
        (HEADER.format(opcode="81", result="00") + GRANTED + "01000000", MAPPED),  # and an option
        (HEADER.format(opcode="81", result="00") + IP6, MAPPED._replace(external_address=None)),
        (HEADER.format(opcode="81", result="08") + GRANTED, MAPPED._replace(result=ResultCode.NO_RESOURCES)),
        (HEADER.format(opcode="81", result="ff") + GRANTED, MAPPED._replace(result=255)),
        (HEADER.format(opcode="81", result="01"), VersionResponse()),
        (HEADER.format(opcode="81", result="01").replace("02", "01", 1) + GRANTED, VersionResponse()),  # section 9
    ],
)
def test_responses(data: str, response: Response) -> None:
    decoded = decode_response(bytes.fromhex(data))
    assert (decoded, type(decoded)) == (response, type(response))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("", "0 bytes"),
        ("02800000" + "00000000" * 4, "20 bytes"),
        (HEADER.format(opcode="80", result="00") + "00", "25 bytes"),
        (HEADER.format(opcode="80", result="00") + "00000000" * 270, "1104 bytes"),
        (HEADER.format(opcode="00", result="00"), "not a response"),
        (HEADER.format(opcode="80", result="00").replace("02", "03", 1), "version 3"),
        (HEADER.format(opcode="82", result="00"), "opcode 130"),
        (HEADER.format(opcode="81", result="02"), "a mapping of 0 bytes"),
        (HEADER.format(opcode="81", result="00") + GRANTED[:-9], "a mapping of 32 bytes"),
        (HEADER.format(opcode="81", result="00") + GRANTED.replace("06 ", "11 "), "a mapping of protocol 17"),
    ],
)
def test_what_is_no_response(data: str, reason: str) -> None:
    with pytest.raises(DecodeError, match=f"^PCP: {reason}$"):
        decode_response(bytes.fromhex(data))


@given(
    st.binary(max_size=1200)
    | st.builds(lambda op, data: b"\2" + op + data, st.sampled_from((b"\x80", b"\x81")), st.binary(max_size=80))
)
def test_any_bytes(data: bytes) -> None:
    with suppress(DecodeError):
        decode_response(data)
