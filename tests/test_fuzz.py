"""What is fuzzed takes its seeds, and what is kept of former runs, without the fuzzer."""

from __future__ import annotations

import pytest
from support.compiled import replaces_parts

from fuzz import corpus
from fuzz.table import TARGETS
from fuzz.target import Target

DOUBLES = {"message-reader"}
"""Targets that put a double in the place of a part."""

targets = pytest.mark.parametrize(
    "target",
    [pytest.param(one, marks=replaces_parts if name in DOUBLES else ()) for name, one in TARGETS.items()],
    ids=TARGETS,
)


@targets
def test_seeds_and_kept_inputs_hold(target: Target) -> None:
    for data in (b"", *target.seeds(), *corpus.read(target.name)):
        target.check(data)


@targets
def test_seeds_lead_to_both_ends(target: Target) -> None:
    """One that is refused at the first byte would hide the rest from the fuzzer."""
    taken = 0
    for data in target.seeds():
        assert len(data) <= target.max_size
        try:
            target.run(data)
        except target.refuses:
            continue
        taken += 1
    assert taken


def test_no_kept_input_is_without_its_target() -> None:
    assert {path.stem for path in corpus.FOLDER.glob("*.hex")} <= set(TARGETS)
