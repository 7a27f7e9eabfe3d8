"""Hosts that tests talk between, where the system permits them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from support.namespaces import Host, HostProcess, cable, link, missing_for_hosts, missing_for_links, require
from support.nat import Internet, internet, missing_for_nat

Link = tuple[Host, Host, HostProcess]
MakeLink = Callable[..., AbstractContextManager[Link]]
MakeInternet = Callable[..., AbstractContextManager[Internet]]


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host]]:
    """Two hosts on a cable."""
    require(missing_for_hosts())
    with cable() as joined:
        yield joined


@pytest.fixture
def make_link() -> MakeLink:
    """Makes two hosts on an emulated link."""
    require(missing_for_links())
    return link


@pytest.fixture
def make_internet() -> MakeInternet:
    """Makes hosts on a public network, and homes behind NAT."""
    require(missing_for_nat())
    return internet


def peer_of(listener: HostProcess) -> str:
    """The id of a peer that begins to listen."""
    peer: str = listener.event("listening")["address"].rpartition("/p2p/")[2]
    return peer
