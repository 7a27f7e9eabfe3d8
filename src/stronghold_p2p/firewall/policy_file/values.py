"""The values of a policy file, from those of TOML. Each function raises ValueError with the reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Final, TypeVar

from ...errors import InvalidAddress
from ...identity import PeerId
from ..admission import Network
from ..rules import unknown_type

__all__ = ["date", "exactly", "network", "number", "one_of", "peer_id", "shown", "type_name", "whole_number"]

MAX_LIMIT: Final = 1_000_000_000
"""Above any useful limit; excludes infinity and integers too large for a float."""

T = TypeVar("T")


def exactly(kind: type[T], value: object) -> T:
    if type(value) is not kind:  # for isinstance, true would be a whole number
        raise ValueError(f"must be {_KINDS[kind]}, not {_kind(value)}")
    return value


def whole_number(value: object) -> int:
    number = exactly(int, value)
    _check_limit(number)
    return number


def number(value: object) -> float:
    number = value if type(value) is int else exactly(float, value)
    _check_limit(number)
    return float(number)


def date(value: object) -> datetime:
    """In UTC."""
    if not isinstance(value, datetime) or value.utcoffset() is None:
        what = "one without" if isinstance(value, datetime) else shown(value)
        raise ValueError(f"must be a date and time with an offset, such as 2027-01-01T00:00:00Z, not {what}")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be a date in the years 1 to 9999, in UTC") from None


def one_of(choices: Mapping[str, T], value: object) -> T:
    if not isinstance(value, str) or value not in choices:
        *others, last = (f'"{choice}"' for choice in choices)
        raise ValueError(f"must be {', '.join(others)} or {last}, not {shown(value)}")
    return choices[value]


def type_name(types: frozenset[str] | None, value: object) -> str:
    """The name of a request type, one of ``types`` (None: any)."""
    name = exactly(str, value)
    if not name:
        raise ValueError("a type must have a name")
    if (reason := unknown_type(name, types)) is not None:
        raise ValueError(reason)
    return name


def peer_id(value: object, otherwise: str = "not a peer id") -> PeerId:
    try:
        return PeerId.parse(exactly(str, value))
    except InvalidAddress as error:
        raise ValueError(f"{value!r} is {otherwise}") from error


def network(value: object) -> Network:
    text = exactly(str, value)
    cidr = re.fullmatch(r"([0-9A-Fa-f.:]+)(/[0-9]+)?", text)  # ipaddress takes masks and interfaces, too
    try:
        network = ip_network(text, strict=False) if cidr else None
    except ValueError:
        network = None
    if cidr is None or network is None:
        raise ValueError(f"{text!r} is not a network, such as 10.0.0.0/8 or 2001:db8::/32")
    if ip_address(cidr[1]) != network.network_address:
        raise ValueError(f"{text!r} has bits set beyond its prefix; the network is {network}")
    return network


def shown(value: object) -> str:
    """A value that was not expected, in a message."""
    return repr(value) if isinstance(value, str) else _kind(value)


def _check_limit(value: float) -> None:
    if not 0 < value <= MAX_LIMIT:  # neither of which NaN is
        raise ValueError(f"must be above 0 and at most {MAX_LIMIT:,}")


_KINDS: Final[Mapping[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "a table",
}


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a date or time")
