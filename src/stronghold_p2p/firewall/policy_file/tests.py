"""``[[tests]]``: what a policy file is to do by its own words. It is refused when it no longer does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from ...errors import PolicyError
from ...events.direction import DIRECTIONS, Direction
from ...identity import PeerId
from ..rules import Verdict
from .peers import PeerLists
from .tables import Table
from .values import one_of, type_name

__all__ = ["Decide", "run_tests"]

VERDICTS: Final[Mapping[str, Verdict]] = {verdict.value: verdict for verdict in Verdict}
WORDS: Final = {
    Verdict.ALLOW: "allows it",
    Verdict.REJECT: "rejects it",
    Verdict.ASK: "asks",
    None: "does not decide it",
}

MAX_DECISIONS: Final = 1_000_000
"""A group in a test counts as all its peers. These take about a second; a file could name one a hundred thousand times."""

Decide: TypeAlias = Callable[[PeerId | None, Direction, str | None], Verdict | None]
"""What a policy makes of a request, by peer (None: one of which it says nothing), direction and type. None: nothing."""


class _Test(NamedTuple):
    table: Table
    peers: Sequence[PeerId | None]
    direction: Direction
    type: str | None
    expected: Verdict

    def run(self, decide: Decide) -> PolicyError | None:
        """The error if it fails."""
        for peer in self.peers:
            verdict = decide(peer, self.direction, self.type)
            if verdict is not self.expected:
                of = f" of {peer}" if len(self.peers) > 1 else ""
                return self.table.error(f"the test fails: the policy {WORDS[verdict]}{of}", "expect")
        return None


def run_tests(tables: Sequence[Table], lists: PeerLists, decide: Decide) -> None:
    """Runs the tests of a policy.

    Raises:
        PolicyError: for the first one that is invalid, or else that fails.
    """
    tests = [_read_test(table, lists) for table in tables]
    if sum(len(test.peers) for test in tests) > MAX_DECISIONS:
        raise tests[-1].table.error(f"the tests are about over {MAX_DECISIONS:,} peers in all: name fewer")
    for test in tests:
        if (error := test.run(decide)) is not None:
            raise error


def _read_test(table: Table, lists: PeerLists) -> _Test:
    table.check_keys("peer", "type", "direction", "expect")
    peers = table.take("peer", lists.peers)
    expected = table.take("expect", partial(one_of, VERDICTS))
    if expected is None:
        raise table.error("has no expect")
    return _Test(
        table,
        (None,) if peers is None else sorted(peers, key=str),
        table.take("direction", partial(one_of, DIRECTIONS)) or Direction.INBOUND,
        table.take("type", partial(type_name, table.file.types)),
        expected,
    )
