"""Limits are safe by default, and cannot be set to what makes no sense."""

from __future__ import annotations

import dataclasses
import math
import pydoc

import pytest

from stronghold_p2p import Config

FIELDS = dataclasses.fields(Config)
FLOATS = [field.name for field in FIELDS if str(field.type).startswith("float")]
INTEGERS = [field.name for field in FIELDS if field.type == "int"]
MAY_BE_OFF = {"max_requests_per_second_per_peer", "firewall_quiet"}


def test_every_field_is_a_number_with_a_default() -> None:
    assert len(FLOATS) + len(INTEGERS) == len(FIELDS)
    Config()


def test_every_field_has_a_reason_of_its_own() -> None:
    reasons = {field.metadata["reason"]: field.name for field in FIELDS}
    assert list(reasons.values()) == [field.name for field in FIELDS]
    assert [name for reason, name in reasons.items() if not reason.endswith(".") or len(reason.split()) < 4] == []


def test_help_explains_every_field() -> None:
    shown = " ".join(pydoc.plain(pydoc.render_doc(Config)).replace("|", " ").split())
    for field in FIELDS:
        assert f"{field.name} = {field.default} {' '.join(field.metadata['reason'].split())}" in shown


def test_defaults_of_the_rust_crate() -> None:
    config = Config()
    assert config.request_timeout == config.connection_timeout == config.handler_timeout == 10
    assert config.max_connections_per_peer == 5


def test_inbound_messages() -> None:
    assert Config().max_json_message == Config().max_msgpack_message == 1024 * 1024
    assert Config().max_raw_message == 16 * 1024 * 1024


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, True, "1", None])
def test_times_are_positive_and_finite(value: object) -> None:
    for name in FLOATS:
        if value is not None or name not in MAY_BE_OFF:
            with pytest.raises(ValueError, match=name):
                Config(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "1", None])
def test_limits_are_positive_whole_numbers(value: object) -> None:
    for name in INTEGERS:
        with pytest.raises(ValueError, match=name):
            Config(**{name: value})  # type: ignore[arg-type]


def test_a_window_holds_the_first_one() -> None:
    with pytest.raises(ValueError, match="262,144"):
        Config(max_receive_window=262_143)
    assert Config(max_receive_window=262_144).max_receive_window == 262_144


def test_a_changed_copy() -> None:
    config = dataclasses.replace(Config(), request_timeout=30)
    assert config.request_timeout == 30
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.request_timeout = 1  # type: ignore[misc]


@pytest.mark.parametrize("interval", [15, 20])
def test_a_ping_has_time_to_be_answered(interval: float) -> None:
    with pytest.raises(ValueError, match="liveness_timeout must exceed"):
        Config(liveness_interval=interval)
