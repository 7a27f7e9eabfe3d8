from __future__ import annotations

import pytest

from stronghold_p2p.cli import demo

from .conftest import Cli


def test_the_whole_story(cli: Cli) -> None:
    told = cli.json("demo")
    assert told.status == 0, told.out
    steps = {line["step"]: line for line in told.lines}
    assert list(steps) == ["identities", "request", "wire", "rejection", "impostor", "end"]
    assert steps["request"]["response"] == steps["request"]["request"]
    assert steps["wire"]["word_seen"] is False
    assert steps["wire"]["bytes"] > 500  # the handshake alone
    assert (steps["rejection"]["error"], steps["rejection"]["exit_status"]) == ("ProtocolNotSupported", 5)
    assert (steps["impostor"]["error"], steps["impostor"]["exit_status"]) == ("DialError", 3)
    assert steps["identities"]["bob"] in steps["impostor"]["message"]
    assert steps["identities"]["mallory"] in steps["impostor"]["message"]


def test_for_people(cli: Cli) -> None:
    told = cli("demo")
    assert told.status == 0
    assert told.out.count("✓") == 6
    assert told.err == ""


def test_a_secret_on_the_wire_is_noticed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SECRET", "/noise")  # multistream's line, which does cross the wire in the clear
    told = cli.json("demo")
    assert (told.status, told.lines[-1]["error"]) == (1, "DemoFailed")
