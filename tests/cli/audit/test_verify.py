"""What an audit proves: any change is found, or lies after the last signed head and is told as not proven."""

from __future__ import annotations

import base64
import json
import os
from collections import deque
from collections.abc import Callable, Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stronghold_p2p.cli.audit.chain import BEGINNING, Position, chained, parse, signed_head
from stronghold_p2p.cli.audit.file import AuditFile
from stronghold_p2p.cli.audit.verify import MAX_KNOWN, Finding, Verifier
from stronghold_p2p.identity import Keypair, PeerId

KEYPAIR, OTHER = Keypair.generate(), Keypair.generate()
TIME = "2026-01-01T00:00:00.000+00:00"


def lines_of(*events: str, after: Position = BEGINNING, keypair: Keypair = KEYPAIR) -> list[bytes]:
    """Lines of a chain with these events."""
    lines = []
    for event in events:
        if event == "head":
            link = signed_head(after, TIME, keypair)
        else:
            previous = {"previous": after.hash.hex()} if event == "opened" else {}
            link = chained(after, {"time": TIME, "event": event, **previous})
        lines.append(link.line)
        after = link.position
    return lines


def end_of(lines: Sequence[bytes]) -> Position:
    entry = parse(lines[-1].removesuffix(b"\n"))
    assert entry is not None
    return Position(entry.seq, entry.hash)


def rehashed(lines: Sequence[bytes]) -> list[bytes]:
    """The lines of somebody without the key, who computes all hashes anew."""
    after, anew = BEGINNING, []
    for line in lines:
        values = json.loads(line)
        del values["hash"]
        link = chained(after._replace(seq=values.pop("seq") - 1), values)
        anew.append(link.line)
        after = link.position
    return anew


def verified(*files: Sequence[bytes], expected: Sequence[PeerId] = ()) -> tuple[Verifier, list[Finding]]:
    findings: list[Finding] = []
    verifier = Verifier(findings.append, expected)
    for number, lines in enumerate(files):
        verifier.begin_file(f"file {number}")
        for line in BytesIO(b"".join(lines)):
            verifier.take(line)
    verifier.end()
    assert verifier.problems == len(problems(findings))
    return verifier, findings


def problems(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.verdict == "problem"]


WHOLE = lines_of("opened", "start", "decision", "handled", "head", "decision", "decision", "stop", "head")
"""All of it is proven."""


def test_what_was_written() -> None:
    verifier, findings = verified(WHOLE)
    assert findings == []
    assert (verifier.lines, verifier.proven) == (len(WHOLE), len(WHOLE))
    assert verifier.signers == {KEYPAIR.peer_id: 2}


def test_lines_after_the_last_head_are_not_proven() -> None:
    verifier, findings = verified(WHOLE[:-1])
    assert findings == [Finding("note", "file 0", 8, 8, "ends the chain without a head: numbers 6 to 8 are not proven")]
    assert verifier.proven == 5


def test_without_a_head_nothing_is_proven() -> None:
    verifier, findings = verified(WHOLE[:4])
    assert [finding.what for finding in findings] == ["ends the chain without a head: numbers 1 to 4 are not proven"]
    assert verifier.proven == 0


def without(*numbers: int) -> list[bytes]:
    return [line for number, line in enumerate(WHOLE, 1) if number not in numbers]


CHANGED = "was changed or inserted: its hash does not follow from it and the line before"
STRANGE = "is changed, inserted or torn: no part of the chain"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param(without(6), [(6, 7, "is not the next one: number 6 is missing before it")], id="a missing line"),
        pytest.param(without(2, 3), [(2, 4, "is not the next one: numbers 2 to 3 are missing before it")], id="two"),
        pytest.param(
            without(1), [(1, 2, "is not the first line of a file: those before it are missing")], id="the first"
        ),
        pytest.param(
            [*WHOLE[:2], WHOLE[2].replace(b"decision", b"decisiom"), *WHOLE[3:]], [(3, 3, CHANGED)], id="a changed line"
        ),
        pytest.param([*WHOLE[:2], b"{}\n", *WHOLE[3:]], [(3, None, STRANGE)], id="an overwritten line"),
        pytest.param([*WHOLE[:2], b"{}\n", *WHOLE[2:]], [(3, None, STRANGE)], id="an inserted line"),
        pytest.param(
            [*WHOLE[:2], *lines_of("decision", after=end_of(WHOLE[:5])), *WHOLE[2:]],
            [
                (3, 6, "is not the next one: numbers 3 to 5 are missing before it"),
                (4, 3, "is out of order, after number 6"),
            ],
            id="an inserted line of a chain",
        ),
        pytest.param(
            [*WHOLE[:3], *lines_of("forged", after=end_of(WHOLE[:3])), *WHOLE[3:]],
            [(5, 4, "comes twice")],
            id="an inserted line with its hash",
        ),
        pytest.param([*WHOLE[:3], WHOLE[2], *WHOLE[3:]], [(4, 3, "comes twice")], id="a line twice"),
        pytest.param(
            [*WHOLE[:5], WHOLE[6], WHOLE[5], *WHOLE[7:]],
            [(6, 7, "is not the next one: number 6 is missing before it"), (7, 6, "is out of order, after number 7")],
            id="two lines in another order",
        ),
        pytest.param([*WHOLE[:-1], WHOLE[-1][:-1]], [(9, None, "is cut, or torn: it has no end")], id="a cut line"),
        pytest.param([], [(0, None, "is the end, and there was no line of a chain")], id="nothing"),
        pytest.param(
            [b"\xff\n", b"[]\n"],
            [
                (1, None, "and 1 more after it are changed, inserted or torn: no part of the chain"),
                (2, None, "is the end, and there was no line of a chain"),
            ],
            id="another file",
        ),
    ],
)
def test_what_was_done_to_it_is_named(lines: list[bytes], expected: list[tuple[int, int | None, str]]) -> None:
    _, findings = verified(lines)
    assert [(found.line, found.seq, found.what) for found in problems(findings)] == expected


def test_hashes_computed_anew_are_no_signature() -> None:
    forged = rehashed([*WHOLE[:2], WHOLE[2].replace(b"decision", b"decisiom"), *WHOLE[3:]])
    verifier, findings = verified(forged)
    assert [(found.line, found.what.partition(",")[0]) for found in problems(findings)] == [
        (5, "is a head that does not verify: it"),
        (9, "is a head that does not verify: it"),
    ]
    assert verifier.proven == 0


def test_a_head_of_another_peer() -> None:
    other = [*WHOLE[:5], *lines_of("decision", "head", after=end_of(WHOLE[:5]), keypair=OTHER)]
    verifier, findings = verified(other)
    assert verifier.signers == {KEYPAIR.peer_id: 1, OTHER.peer_id: 1}
    assert findings == []
    _, findings = verified(other, expected=[KEYPAIR.peer_id])
    assert [found.what for found in problems(findings)] == [f"is a head of another peer: {OTHER.peer_id} has signed it"]
    assert problems(verified(other, expected=[KEYPAIR.peer_id, OTHER.peer_id])[1]) == []


def test_nobody_has_signed_it() -> None:
    unsigned = WHOLE[:4]
    assert problems(verified(unsigned)[1]) == []
    _, findings = verified(unsigned, expected=[KEYPAIR.peer_id])
    assert [found.what for found in problems(findings)] == [f"is the end, and no head is signed by {KEYPAIR.peer_id}"]


@pytest.mark.parametrize("signed", ["", "%%%%", "QUJD", None])
def test_a_head_that_is_none(signed: str | None) -> None:
    fields = {} if signed is None else {"signed": signed}
    head = chained(end_of(WHOLE[:4]), {"time": TIME, "event": "head", **fields}).line
    _, findings = verified([*WHOLE[:4], head])
    assert len(problems(findings)) == 1


def test_a_start_without_a_stop() -> None:
    _, findings = verified(lines_of("opened", "start", "decision", "head", "start", "stop", "head"))
    assert findings == [
        Finding("note", "file 0", 5, 5, "starts without a stop before it: a crash, or lines between were cut")
    ]


def test_files_of_a_rotation() -> None:
    second = lines_of("opened", "decision", "head", after=end_of(WHOLE))
    third = lines_of("opened", "decision", "head", after=end_of(second))
    assert verified(WHOLE, second, third)[1] == []
    _, findings = verified(WHOLE, third)
    assert [(found.file, found.line, found.what) for found in findings] == [
        ("file 1", 1, "is not the next one: numbers 10 to 12 are missing before it")
    ]
    _, findings = verified(second, third)
    assert findings == [
        Finding("note", "file 0", 1, 10, "is the first one here: nothing is known of those before, from number 1 to 9")
    ]
    forged = second[0].replace(end_of(WHOLE).hash.hex().encode(), b"00" * 32)
    assert [found.what for found in problems(verified([forged, *second[1:]])[1])] == [CHANGED]
    assert [found.what for found in problems(verified(WHOLE, [forged, *second[1:]])[1])] == [CHANGED]


def test_another_chain_in_the_same_file() -> None:
    verifier, findings = verified([*WHOLE[:-1], *WHOLE])
    assert [(found.verdict, found.line, found.what) for found in findings] == [
        ("note", 8, "ends the chain without a head: numbers 6 to 8 are not proven"),
        ("note", 9, "begins another chain: it is not proven that nothing was between"),
    ]
    assert (verifier.lines, verifier.proven) == (17, 14)


def test_lines_from_before_there_was_a_chain() -> None:
    _, findings = verified([b'{"peer":"old"}\n', b'{"peer":"older"}\n', *WHOLE])
    assert findings == [
        Finding("note", "file 0", 1, None, "and 1 more after it are written before there was a chain: not proven")
    ]


def test_what_is_moved_far_is_missed_where_it_was() -> None:
    long = lines_of("opened", *["decision"] * (MAX_KNOWN + 10), "head")
    moved = [long[0], *long[2:], long[1]]
    assert len(problems(verified(moved)[1])) == 2
    assert verified(long)[1] == []


@given(st.data())
def test_any_change_of_any_byte_is_found(data: st.DataObject) -> None:
    written = bytearray(b"".join(WHOLE))
    at = data.draw(st.integers(0, len(written) - 1))
    written[at] ^= data.draw(st.integers(1, 255))
    assert problems(verified([bytes(written)])[1])


@given(st.data())
def test_any_cut_and_insertion_is_found(data: st.DataObject) -> None:
    written = b"".join(WHOLE)
    start, end = sorted((data.draw(st.integers(0, len(written))), data.draw(st.integers(0, len(written)))))
    new = written[:start] + data.draw(st.binary(max_size=20)) + written[end:]
    ends = {sum(map(len, WHOLE[:5])), len(written)}
    if new != written and not (len(new) in ends and written.startswith(new)):  # a cut at a head cannot be seen
        verifier, findings = verified([new])
        assert problems(findings) or verifier.proven < verifier.lines


@given(st.data())
def test_whatever_is_done_to_the_lines_with_hashes_anew_is_found_or_not_proven(data: st.DataObject) -> None:
    """Somebody without the key deletes, repeats, moves and changes lines, and computes the numbers and hashes anew."""
    lines = [*WHOLE, *lines_of("decision", "decision", after=end_of(WHOLE))]
    records = [json.loads(line) for line in lines]
    chosen = data.draw(st.lists(st.sampled_from(range(len(records))), min_size=1, max_size=len(records) + 2))
    changed = [dict(records[index]) for index in chosen]
    data.draw(st.sampled_from(changed))["by"] = data.draw(st.sampled_from(["somebody", "nobody"]))
    forged, after = [], BEGINNING
    for record in changed:
        link = chained(after, {name: value for name, value in record.items() if name not in {"seq", "hash"}})
        forged.append(link.line)
        after = link.position
    verifier, findings = verified(forged)
    first = next(at for at, (line, was) in enumerate(zip([*forged, b""], [*lines, b""], strict=False)) if line != was)
    assert problems(findings) or verifier.proven <= first
    assert problems(findings) or verifier.lines == verifier.proven or findings


@given(
    st.lists(
        st.fixed_dictionaries(
            {"event": st.sampled_from(["opened", "head", "start", "stop", "decision"]), "seq": st.integers(0, 2**70)},
            optional={
                "previous": st.text() | st.just("00" * 32) | st.integers(),
                "signed": st.text() | st.binary().map(lambda data: base64.b64encode(data).decode()),
                "strange": st.text(),
            },
        )
        | st.binary()
    )
)
def test_whatever_is_in_a_file_has_a_verdict(forged: list[dict[str, Any] | bytes]) -> None:
    lines = []
    for line in forged:
        if isinstance(line, bytes):
            lines.append(line)
        else:
            lines.append(chained(BEGINNING._replace(seq=line.pop("seq")), {"time": TIME, **line}).line)
    assert verified(lines)[1]


def append(file: AuditFile, *records: dict[str, object]) -> None:
    file.append(deque({"time": TIME, "event": "decision", **record} for record in records))


def test_what_the_file_writes_verifies(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    for _ in range(3):
        file = AuditFile(path, KEYPAIR)
        append(file, {}, {"type": "Ping"})
        file.close()
    verifier, findings = verified([path.read_bytes()])
    assert findings == []
    assert (verifier.proven, verifier.signers) == (10, {KEYPAIR.peer_id: 3})


TORN: list[tuple[str, Callable[[bytes], bytes], int]] = [
    ("a torn line", lambda data: data + b'{"seq":5,"ti', 1),
    ("a line without its end", lambda data: data[:-1], 1),
    ("lines of others", lambda data: data + b"hello\n{}\n\n", 1),
    ("lines of others, torn", lambda data: data + b"hello\nthere", 1),
]


@pytest.mark.parametrize(("change", "notes"), [case[1:] for case in TORN], ids=[case[0] for case in TORN])
def test_a_restart_after_a_crash(tmp_path: Path, change: Callable[[bytes], bytes], notes: int) -> None:
    path = tmp_path / "audit"
    file = AuditFile(path, KEYPAIR)
    append(file, {})
    file.close()
    path.write_bytes(change(path.read_bytes()))
    file = AuditFile(path, KEYPAIR)
    append(file, {})
    file.close()
    verifier, findings = verified([path.read_bytes()])
    assert problems(findings) == []
    assert len(findings) == notes
    assert verifier.proven == verifier.lines
    for line in range(path.read_bytes().count(b"\n")):  # what is torn cannot be changed any more, either
        lines = path.read_bytes().splitlines(keepends=True)
        lines[line] = b"x" + lines[line]
        assert problems(verified(lines)[1])


def test_a_file_from_before_there_was_a_chain_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    path.write_bytes(b'{"peer":"old"}\n{"peer":"torn"')
    file = AuditFile(path, KEYPAIR)
    append(file, {})
    file.close()
    _, findings = verified([path.read_bytes()])
    assert [(found.verdict, found.line) for found in findings] == [("note", 1)]


@given(st.lists(st.integers(0, 4000), max_size=4), st.integers(1, 40))
def test_a_disk_that_is_full_at_any_byte(rooms: list[int], count: int) -> None:
    """Each number is how many bytes are taken until the disk is full once more."""
    written = bytearray()
    left = deque(rooms)

    def write(_: int, data: bytes) -> int:
        if not left:
            written.extend(data)
            return len(data)
        if left[0] == 0:
            left.popleft()
            raise OSError(28, "No space left on device")
        taken = min(left[0], len(data))
        left[0] -= taken
        written.extend(data[:taken])
        return taken

    with pytest.MonkeyPatch.context() as patch:
        file = AuditFile(Path(os.devnull), KEYPAIR)
        patch.setattr("stronghold_p2p.cli.audit.file.os.write", write)
        records: deque[Any] = deque({"time": TIME, "event": "decision", "id": number} for number in range(count))
        while True:
            try:
                file.append(records)
                file.sign()
            except OSError:
                continue
            break
        file.close()
    verifier, findings = verified([bytes(written)])
    assert problems(findings) == []
    assert verifier.proven == verifier.lines
    ids = [record["id"] for line in bytes(written).splitlines() if parse(line) and "id" in (record := json.loads(line))]
    assert ids == list(range(count))
    numbers = [entry.seq for line in bytes(written).splitlines() if (entry := parse(line)) is not None]
    assert all(second == first + 1 for first, second in pairwise(numbers))
