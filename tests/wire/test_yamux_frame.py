from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.yamux import Endpoint, data, read_frames

from stronghold_p2p.errors import MuxerError
from stronghold_p2p.wire.yamux import HEADER, HEADER_SIZE, INITIAL_WINDOW, Flag, FrameType, GoAwayCode

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "yamux_headers.json").read_text()
)


def test_the_numbers_of_the_specification() -> None:
    assert HEADER_SIZE == 12
    assert INITIAL_WINDOW == 262_144
    assert [(kind.name, kind.value) for kind in FrameType] == [
        ("DATA", 0),
        ("WINDOW_UPDATE", 1),
        ("PING", 2),
        ("GO_AWAY", 3),
    ]
    assert [(flag.name, flag.value) for flag in Flag] == [("SYN", 1), ("ACK", 2), ("FIN", 4), ("RST", 8)]
    assert [(code.name, code.value) for code in GoAwayCode] == [
        ("NORMAL", 0),
        ("PROTOCOL_ERROR", 1),
        ("INTERNAL_ERROR", 2),
        ("RESOURCE_LIMIT", 0x1001),
        ("RATE_LIMIT", 0x1002),
        ("GATED", 0x1007),
    ]


def test_a_go_away() -> None:
    assert GoAwayCode.GATED.frame == bytes.fromhex("000300000000000000001007")


@pytest.mark.parametrize("row", VECTORS["headers"], ids=lambda row: row["hex"])
def test_a_header(row: dict[str, Any]) -> None:
    fields = tuple(row[name] for name in ("version", "type", "flags", "stream_id", "length"))
    assert HEADER.unpack(bytes.fromhex(row["hex"])) == fields
    assert HEADER.pack(*fields).hex() == row["hex"]


@pytest.mark.parametrize("row", VECTORS["frames"], ids=lambda row: row["hex"])
def test_a_frame(row: dict[str, Any]) -> None:
    wire, body = bytes.fromhex(row["hex"]), bytes.fromhex(row["body_hex"])
    assert read_frames(wire) == [data(5, body, Flag.SYN)]
    assert Endpoint().receive(wire) == [("opened", 5), ("data", 5, body)]


@pytest.mark.parametrize("cut", [None, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("row", VECTORS["invalid"], ids=lambda row: row["error"])
def test_an_invalid_header(row: dict[str, Any], cut: int | None) -> None:
    endpoint = Endpoint(cut=cut)
    if row["error"] == "truncated":
        assert endpoint.receive(bytes.fromhex(row["hex"])) == []
        return
    with pytest.raises(MuxerError, match=f"{row['error']}.* unknown"):
        endpoint.receive(bytes.fromhex(row["hex"]))
