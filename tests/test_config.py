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


def test_every_field_is_a_number_with_a_default() -> None:
    assert len(FLOATS) + len(INTEGERS) == len(FIELDS)
    Config()


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_field_has_a_reason(field: dataclasses.Field[object]) -> None:
    reason = field.metadata["reason"]
    assert reason.endswith(".")
    assert len(reason.split()) > 3
    assert [other.name for other in FIELDS if other.metadata["reason"] == reason] == [field.name]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_help_explains_every_field(field: dataclasses.Field[object]) -> None:
    shown = " ".join(pydoc.plain(pydoc.render_doc(Config)).replace("|", " ").split())
    assert f"{field.name} = {field.default} {' '.join(field.metadata['reason'].split())}" in shown


def test_defaults_of_the_rust_crate() -> None:
    config = Config()
    assert config.request_timeout == config.connection_timeout == config.handler_timeout == 10
    assert config.max_connections_per_peer == 5


def test_inbound_messages() -> None:
    assert Config().max_json_message == Config().max_msgpack_message == 1024 * 1024
    assert Config().max_raw_message == 16 * 1024 * 1024


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, True, "1", None])
def test_times_are_positive_and_finite(name: str, value: object) -> None:
    if value is None and name in {"max_requests_per_second_per_peer", "firewall_quiet"}:
        pytest.skip("it can be off")
    with pytest.raises(ValueError, match=name):
        Config(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "1", None])
def test_limits_are_positive_whole_numbers(name: str, value: object) -> None:
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
