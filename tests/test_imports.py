"""What is imported when: the library with the first name that is used, and of commands only the one that runs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import stronghold_p2p
from stronghold_p2p import public

WAIT = 30
"""Seconds after which a process has failed; none waits for them."""


def loaded(code: str) -> set[str]:
    """The modules of a process that has run ``code``; what it prints before is not looked at."""
    report = "import json, sys; print(); print(json.dumps(list(sys.modules)))"
    command = [sys.executable, "-c", f"{code}\n{report}"]
    ran = subprocess.run(command, capture_output=True, check=True, text=True, timeout=WAIT)
    return set(json.loads(ran.stdout.splitlines()[-1]))


def test_the_public_names_are_there_before_the_first_is_used() -> None:
    listed = loaded("import stronghold_p2p; assert set(dir(stronghold_p2p)) >= set(stronghold_p2p.__all__)")
    assert "stronghold_p2p.peer" in listed
    names: dict[str, object] = {}
    exec("from stronghold_p2p import *", names)
    assert names.keys() - {"__builtins__"} == set(public.__all__)


def test_a_name_that_is_not_there() -> None:
    for name in ("Nothing", "nothing"):
        with pytest.raises(AttributeError, match=f"module 'stronghold_p2p' has no attribute '{name}'"):
            getattr(stronghold_p2p, name)
