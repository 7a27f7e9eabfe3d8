"""Verification of an audit: that no line of a chain was changed, removed, inserted or moved, as far as heads are signed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final, Literal, NamedTuple, TypeAlias

from ...errors import DecodeError
from ...identity import PeerId
from .answers import answers_of
from .chain import BEGINNING, Entry, parse

__all__ = ["Finding", "Verifier"]

MAX_KNOWN: Final = 4096
"""Lines whose hashes are kept: one that was moved or repeated is recognized within that many."""


Verdict: TypeAlias = Literal["problem", "note"]
"""A note is what the audit says itself, or what it cannot prove."""


class Finding(NamedTuple):
    """What was found at a line."""

    verdict: Verdict
    file: str
    line: int
    """From 1."""
    seq: int | None
    """Its number in the chain; None: it is none of a chain."""
    what: str


class Verifier:
    """Takes the lines of an audit's files, in the order in which they were written.

    After a problem it goes on with what the file says, to find the next one, too. ``tell`` gets what is found. ``expected``:
    whose heads count; empty: anybody's.
    """

    def __init__(self, tell: Callable[[Finding], None], expected: Collection[PeerId] = ()) -> None:
        self.problems = 0
        self.signers: Counter[PeerId] = Counter()
        """Who has signed how many heads."""
        self.lines = 0
        """Lines of chains."""
        self.proven = 0
        """Those of them that a head proves, unless there is a problem."""
        self.head: Entry | None = None
        """The last head that verifies."""
        self._tell = tell
        self._expected = expected
        self._file = ""
        self._line = 0
        self._known: dict[int, bytes] = {}
        """The hashes of the lines of this chain, by number."""
        self._last: Entry | None = None
        self._last_place = ("", 0)
        self._unsigned = 0
        """Lines of this chain since a head."""
        self._running = False
        """There was the start of a peer, and no stop yet."""
        self._strange: _Strange | None = None
        self._askers: dict[PeerId, int] = {}
        """Whose questions approvers have answered since a head, each with the first line of that."""
        self._answered: dict[bytes, int] = {}
        """The questions about one request that were answered, by what they are signed with, and in which line."""

    def begin_file(self, name: str) -> None:
        """The next lines are from this file."""
        self._file, self._line = name, 0

    def take(self, line: bytes) -> None:
        """The next line, with its end."""
        self._line += 1
        entry = parse(line[:-1]) if line.endswith(b"\n") else None
        if entry is None:
            self._strange = self._strange or _Strange(self._file, self._line)
            self._strange.add(line)
        else:
            self._take(entry)

    def end(self) -> None:
        """There are no more lines."""
        self._tell_strange()
        if self.lines == 0:
            self._found("problem", (self._file, self._line), None, "is the end, and there was no line of a chain")
        elif self._expected and not self.signers:
            who = " or ".join(sorted(map(str, self._expected)))
            self._found("problem", (self._file, self._line), None, f"is the end, and no head is signed by {who}")
        self._end_chain()

    # -- lines of a chain --------------------------------------------------------------------------

    def _take(self, entry: Entry) -> None:
        if entry.event == "opened" and entry.seq == 1 and entry.follows(BEGINNING.hash):
            self._begin_chain()
        previous = self._previous(entry)
        follows = previous is not None and entry.follows(previous)
        strange = self._settle_strange(entry) if follows else self._tell_strange()
        self.lines += 1
        if previous is not None and not follows:
            self._problem(entry, "was changed or inserted: its hash does not follow from it and the line before")
            self._known.setdefault(entry.seq, entry.hash)
            return
        if (disorder := self._disorder(entry, previous, strange)) is not None:
            self._problem(entry, disorder)
        self._accept(entry, previous)

    def _previous(self, entry: Entry) -> bytes | None:
        """The hash of the line before; None if that is not there."""
        if entry.seq == 1:
            return BEGINNING.hash
        if self._last is None and entry.event == "opened":
            self._note(
                entry, f"is the first one here: nothing is known of those before, from number 1 to {entry.seq - 1}"
            )
            return _from_hex(entry.values.get("previous"))
        return self._known.get(entry.seq - 1)

    def _disorder(self, entry: Entry, previous: bytes | None, strange: int) -> str | None:
        """What is wrong with the number of a line; ``strange`` lines before it are told of, and may be those that are missing."""
        last = self._last
        if last is None:
            return "is not the first line of a file: those before it are missing" if previous is None else None
        if entry.seq == last.seq:
            return "comes twice"
        if entry.seq < last.seq:
            return f"is out of order, after number {last.seq}"
        missing = range(last.seq + 1, entry.seq)
        if len(missing) <= strange or all(seq in self._known for seq in missing):
            return None
        return f"is not the next one: {_numbers(missing[0], missing[-1])} missing before it"

    def _accept(self, entry: Entry, previous: bytes | None) -> None:
        self._known[entry.seq] = entry.hash
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._last, self._last_place = entry, (self._file, self._line)
        self._unsigned += 1
        match entry.event:
            case "head" if previous is not None:
                self._check_head(entry, previous)
            case "decision":
                self._check_answers(entry)
            case "start":
                if self._running:
                    self._note(entry, "starts without a stop before it: a crash, or lines between were cut")
                self._running = True
            case "stop":
                self._running = False

    def _check_head(self, entry: Entry, previous: bytes) -> None:
        try:
            signer = entry.signer(previous)
        except DecodeError as error:
            self._problem(
                entry, f"is a head that does not verify: it, or a line before it, was changed: {error.reason}"
            )
            return
        if self._expected and signer not in self._expected:
            self._problem(entry, f"is a head of another peer: {signer} has signed it")
            return
        for asker, seq in self._askers.items():
            if asker != signer:
                self._problem(entry, f"is not signed by who asked the approvers in number {seq}: {asker}")
        self._askers.clear()
        self.signers[signer] += 1
        self.head = entry
        self.proven += self._unsigned
        self._unsigned = 0

    def _check_answers(self, entry: Entry) -> None:
        try:
            answers = answers_of(entry.values)
        except DecodeError as error:
            self._problem(entry, f"has an answer of an approver that does not verify: {error.reason}")
            return
        for answer in answers:
            self._askers.setdefault(answer.asker, entry.seq)
            # A question about a peer is answered for all requests that wait; one about a request, for that alone.
            if answer.kind == "request" and (first := self._answered.setdefault(answer.nonce, entry.seq)) != entry.seq:
                self._problem(
                    entry, f"has the answer of an approver that was given in number {first}, to another request"
                )

    def _begin_chain(self) -> None:
        if self._last is None and self._strange is not None:
            self._found_strange(self._strange, "note", "written before there was a chain: not proven")
            self._strange = None
        if self._last is not None:
            self._end_chain()
            place = (self._file, self._line)
            self._found("note", place, 1, "begins another chain: it is not proven that nothing was between")
        self._known.clear()
        self._askers.clear()
        self._last = None

    def _end_chain(self) -> None:
        """Tells of lines that no head proves."""
        if self._unsigned and self._last is not None:
            last = self._last.seq
            unproven = _numbers(last - self._unsigned + 1, last)
            self._found("note", self._last_place, last, f"ends the chain without a head: {unproven} not proven")
        self._unsigned = 0

    # -- other lines -------------------------------------------------------------------------------

    def _settle_strange(self, entry: Entry) -> int:
        """As :meth:`_tell_strange`, unless ``entry`` says the same of the lines before it."""
        strange = self._strange
        if strange is not None and entry.event == "opened" and entry.values.get("strange") == strange.digest:
            self._found_strange(
                strange, "note", "no part of the chain, as the next line says: torn by a crash or on a full disk"
            )
            self._strange = None
        return self._tell_strange()

    def _tell_strange(self) -> int:
        """Tells of lines that are none of a chain; returns how many there were."""
        strange, self._strange = self._strange, None
        if strange is None:
            return 0
        if strange.is_cut and self._last is not None and strange.count == 1:
            self._found_strange(strange, "problem", "cut, or torn: it has no end")
        else:
            self._found_strange(strange, "problem", "changed, inserted or torn: no part of the chain")
        return strange.count

    def _found_strange(self, strange: _Strange, verdict: Verdict, what: str) -> None:
        lines = "is" if strange.count == 1 else f"and {strange.count - 1:,} more after it are"
        self._found(verdict, strange.place, None, f"{lines} {what}")

    def _problem(self, entry: Entry, what: str) -> None:
        self._found("problem", (self._file, self._line), entry.seq, what)

    def _note(self, entry: Entry, what: str) -> None:
        self._found("note", (self._file, self._line), entry.seq, what)

    def _found(self, verdict: Verdict, place: tuple[str, int], seq: int | None, what: str) -> None:
        self.problems += verdict == "problem"
        self._tell(Finding(verdict, *place, seq, what))


class _Strange:
    """Lines that are none of a chain, one after the other."""

    def __init__(self, file: str, line: int) -> None:
        self.place = (file, line)
        """Where they begin."""
        self.count = 0
        self.is_cut = False
        self._hash = hashlib.sha256()

    def add(self, line: bytes) -> None:
        self.count += 1
        self.is_cut = not line.endswith(b"\n")
        self._hash.update(line)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


def _numbers(first: int, last: int) -> str:
    return f"number {first} is" if first == last else f"numbers {first} to {last} are"


def _from_hex(text: object) -> bytes | None:
    try:
        return bytes.fromhex(text) if isinstance(text, str) else None
    except ValueError:
        return None
