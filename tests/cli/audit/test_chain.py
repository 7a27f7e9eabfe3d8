"""The format, as docs/AUDIT.md has it: what is written today must verify with what is written later."""

from __future__ import annotations

import base64
import hashlib
import json

from hypothesis import given
from hypothesis import strategies as st

from stronghold_p2p.cli.audit.chain import BEGINNING, chained, parse, signed_head
from stronghold_p2p.cli.text import escaped
from stronghold_p2p.identity import Keypair
from stronghold_p2p.wire.envelope import open_envelope

# Of the private key whose bytes are 0 to 31.
KEYPAIR = Keypair.from_protobuf(
    bytes.fromhex(
        "08011240000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
        "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    )
)
TIME = "2026-01-01T00:00:00.000+00:00"


def test_the_lines_of_a_chain() -> None:
    first = chained(BEGINNING, {"time": TIME, "event": "opened", "previous": "00" * 32})
    second = signed_head(first.position, TIME, KEYPAIR)
    assert first.line == (
        b'{"seq":1,"time":"2026-01-01T00:00:00.000+00:00","event":"opened",'
        b'"previous":"0000000000000000000000000000000000000000000000000000000000000000",'
        b'"hash":"ad76aff3092b9933fddbe6ac7911f7fa5ab10ac2a73127069359e3bdac8b34ad"}\n'
    )
    assert hashlib.sha256(second.line).hexdigest() == "81f565e9fcf9315489392a13fa63125cecc7bcedf71d547bcaa557a25af5f5c3"


def test_whoever_knows_the_format_can_check_it() -> None:
    first = chained(BEGINNING, {"time": TIME, "event": "opened", "previous": "00" * 32})
    second = signed_head(first.position, TIME, KEYPAIR)
    previous = bytes(32)
    for line in (first.line, second.line):
        content, _, end = line.rpartition(b',"hash":"')
        digest = hashlib.sha256(b"stronghold-p2p audit line 1\n" + previous + content).digest()
        assert end == digest.hex().encode() + b'"}\n'
        if b'"event":"head"' in content:
            before, _, _ = content.partition(b',"signed":')
            would_be = hashlib.sha256(b"stronghold-p2p audit line 1\n" + previous + before).digest()
            envelope = base64.b64decode(json.loads(line)["signed"])
            signed = open_envelope(envelope, "stronghold-p2p audit head 1", b"/stronghold-p2p/audit-head")
            assert signed == (KEYPAIR.public_key, would_be)
        previous = digest


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text()))
def test_what_is_written_is_read(values: dict[str, object]) -> None:
    record: dict[str, object] = {"time": TIME, "event": "decision", "text": values}
    link = chained(BEGINNING, record)
    text = link.line[:-1].decode()
    assert escaped(text) == text
    entry = parse(link.line[:-1])
    assert entry is not None
    assert (entry.seq, entry.time, entry.event, entry.hash) == (1, TIME, "decision", link.position.hash)
    assert entry.follows(BEGINNING.hash)
    assert not entry.follows(entry.hash)


@given(st.binary() | st.text().map(str.encode))
def test_anything_else_is_none(line: bytes) -> None:
    assert parse(line) is None
    assert parse(b"{" + line + b',"hash":"' + b"0" * 64 + b'"}') is None
