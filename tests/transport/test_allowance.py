from __future__ import annotations

import pytest

from stronghold_p2p import Keypair, Path, PathLimits
from stronghold_p2p.transport.allowance import Allowance

MIB = 1024 * 1024
RELAY = Keypair.generate().peer_id
BEGAN = 1000.0


def allowance(seconds: float | None = None, size: int | None = None) -> Allowance:
    made = Allowance.of(Path("tcp", None, RELAY, PathLimits(seconds, size)), BEGAN)
    assert made is not None
    return made


def test_a_path_without_limits_has_none() -> None:
    assert Allowance.of(Path("tcp", None, RELAY), BEGAN) is None


def test_a_message_has_room_within_what_is_left_with_its_framing() -> None:
    it = allowance(size=MIB)
    assert it.refusal_of(MIB - 16 * 1024, 0) is None
    assert it.refusal_of(MIB - 1024, 0) is not None
    it.sent = MIB // 2
    assert it.refusal_of(MIB // 2, 0) is not None
    assert it.refusal_of(MIB // 4, 0) is None
    assert it.refusal_of(MIB // 4, MIB // 4) is not None


def test_the_refusal_says_how_much_is_left() -> None:
    it = allowance(size=16 * MIB)
    it.sent = 6 * MIB
    assert it.refusal_of(11 * MIB, 0) == (
        "the message of 11,534,336 bytes, with what encryption and framing add, is over the limit of the relay"
        f" {RELAY}: of 16,777,216 bytes in each direction of a circuit 10,484,736 are left"
    )
    it.sent = 17 * MIB
    refusal = it.refusal_of(1, 0)
    assert refusal is not None
    assert refusal.endswith(" 0 are left")


def test_without_a_limit_of_bytes_everything_has_room() -> None:
    it = allowance(seconds=1.0)
    it.sent = 2**40
    assert it.refusal_of(2**40, 2**40) is None
    assert it.reached(BEGAN, 0) == ""


@pytest.mark.parametrize("way", ["sent", "received"])
def test_a_limit_of_bytes_is_reached_just_before_it(way: str) -> None:
    it = allowance(size=16 * MIB)
    setattr(it, way, 16 * MIB - 200 * 1024)
    assert it.reached(BEGAN, 0) == ""
    setattr(it, way, 16 * MIB - 100 * 1024)
    assert it.reached(BEGAN, 0) == "16,777,216 bytes each way"


def test_what_has_not_left_reaches_no_limit() -> None:
    it = allowance(size=MIB)
    it.sent = MIB
    assert it.reached(BEGAN, MIB // 2) == ""
    assert it.reached(BEGAN, 0) != ""


@pytest.mark.parametrize(("seconds", "last"), [(600.0, 1.0), (0.8, 0.1)])
def test_a_limit_of_time_is_reached_just_before_it(seconds: float, last: float) -> None:
    it = allowance(seconds=seconds)
    assert it.reached(BEGAN + seconds - 1.1 * last, 0) == ""
    assert it.reached(BEGAN + seconds - 0.9 * last, 0) == f"{seconds:g} s"


def test_js_libp2p_s_milliseconds_are_never_reached() -> None:
    """It announces 120,000 and ends the circuit after 120 s: then no limit is named."""
    assert allowance(seconds=120_000.0).reached(BEGAN + 120, 0) == ""


def test_the_limits_in_words() -> None:
    assert allowance(600.0, 16 * MIB).bounds == "600 s, 16,777,216 bytes each way"
    assert allowance(600.0).bounds == "600 s"
    assert allowance().bounds == ""
