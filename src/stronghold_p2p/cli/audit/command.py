"""``audit verify``: whether an audit is as it was written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from ...identity import PeerId
from .. import output
from ..ask.shown import count
from ..command import UsageError, group
from .chain import MAX_LINE, Entry, parse
from .verify import Finding, Verifier

__all__ = ["audit"]

MAX_TOLD: Final = 100
"""Problems that are shown; where a file was rewritten, every line may be one."""

FOUND_PROBLEMS: Final = 1
"""The exit status."""


def verify(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="The files of an audit, in any order.")],
    *,
    peer: Annotated[
        list[str] | None,
        typer.Option(metavar="PEER", help="The peer id that must have signed it. Repeatable, if its key was changed."),
    ] = None,
) -> None:
    """Check that no line of an audit was changed, removed, inserted or moved.

    Each line carries a hash over all before it, and each of the signed heads proves all before it. Needs nothing but the
    files; those of a rotation are checked as one. Says where something is wrong, and what is not proven. The exit status is
    1 if there is a problem.
    """
    expected = frozenset(map(PeerId.parse, peer or ()))
    told = _Told()
    verifier = Verifier(told.tell, expected)
    for file in _in_order(files):
        verifier.begin_file(str(file))
        for line in _lines(file):
            verifier.take(line)
    verifier.end()
    _summarize(verifier, len(files), told, expected=bool(expected))
    if verifier.problems:
        raise typer.Exit(FOUND_PROBLEMS)


audit = group("audit", "Check the files of --audit.", verify)


class _Told:
    """Shows what is found, as far as anybody would read it."""

    def __init__(self) -> None:
        self.left_out = 0
        self._shown = 0

    def tell(self, finding: Finding) -> None:
        if self._shown == MAX_TOLD:
            self.left_out += 1
            return
        self._shown += 1
        number = "" if finding.seq is None else f" (number {finding.seq})"
        text = f"{finding.verdict:<12}{finding.file}, line {finding.line}{number}: {finding.what}"
        output.result({"event": "finding", **finding._asdict()}, text)


def _summarize(verifier: Verifier, files: int, told: _Told, *, expected: bool) -> None:
    signers = {str(signer): heads for signer, heads in verifier.signers.items()}
    not_proven = [
        "that the last line here is the last one: what was cut off at a signed head is not missed",
        "anything against whoever holds the key: they can write all of it anew",
    ]
    if not expected and signers:
        not_proven.insert(0, f"that {' and '.join(signers)} is the peer that you expect: give it by --peer")
    record = {
        "event": "summary",
        "verified": not verifier.problems,
        "problems": verifier.problems,
        "left_out": told.left_out,
        "files": files,
        "lines": verifier.lines,
        "proven": 0 if verifier.problems else verifier.proven,
        "signers": signers,
        "last_head": None if verifier.head is None else verifier.head.time,
        "not_proven": not_proven,
    }
    by = "".join(f"\nsigned by   {signer}, {count(heads, 'head')}" for signer, heads in signers.items())
    if told.left_out:
        by = f"\nand         {told.left_out:,} more" + by
    verdict = (
        f"broken      {count(verifier.problems, 'problem')}"
        if verifier.problems
        else f"verified    {verifier.proven:,} of {verifier.lines:,} lines"
    )
    output.result(record, f"{verdict}{by}\n" + "\n".join(f"not proven  {what}" for what in not_proven))


def _in_order(files: Sequence[Path]) -> list[Path]:
    """As they were written: by the number of their first lines, or, if several begin a chain, by their time."""
    firsts = {file: _first(file) for file in files}
    numbers = [first.seq for first in firsts.values() if first is not None]
    by_number = len(set(numbers)) == len(numbers)

    def place(file: Path) -> tuple[int, int, str]:
        first = firsts[file]
        if first is None:  # not a line of a chain: nothing comes after it
            return 1, 0, ""
        return 0, first.seq if by_number else 0, first.time

    return sorted(firsts, key=place)


def _first(file: Path) -> Entry | None:
    return next(filter(None, (parse(line.removesuffix(b"\n")) for line in _lines(file))), None)


def _lines(file: Path) -> Iterator[bytes]:
    """Raises UsageError."""
    try:
        with file.open("rb") as opened:
            yield from iter(partial(opened.readline, MAX_LINE), b"")
    except OSError as error:
        raise UsageError(f"audit file {file}: {error.strerror}") from error
