"""The known addresses of one peer."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, TypeAlias

from ..identity import PeerId
from ..multiaddr import Multiaddr
from .entry import AddressEntry, AddressSource, NamedAddress

__all__ = ["Named", "PeerAddresses"]

Named: TypeAlias = dict[Multiaddr, float | None]
"""Addresses, and when they expire."""


class _Outcomes(NamedTuple):
    """Results of dials to an address; fields of :class:`AddressEntry`."""

    last_success: float | None = None
    last_failure: float | None = None
    failures: int = 0


_NONE = _Outcomes()


class PeerAddresses:
    """The addresses of one peer: sources, expiry and results of dials; and its signed record."""

    __slots__ = ("_outcomes", "named", "record", "seq", "told_by")

    def __init__(self) -> None:
        self.named: dict[AddressSource, Named] = {}
        """By source; none is empty."""
        self.told_by: dict[AddressSource, tuple[str, ...]] = {}
        """The networks of who told what the same source names."""
        self.record = b""
        """The newest one that is known; empty: none."""
        self.seq = 0
        """Of the record."""
        self._outcomes: dict[Multiaddr, _Outcomes] = {}
        """Only for addresses with a source."""

    def names(self, address: Multiaddr) -> bool:
        return any(address in named for named in self.named.values())

    def put(self, source: AddressSource, named: Named, told_by: tuple[str, ...]) -> Named:
        """Makes ``named`` what ``source`` names; returns what it did before."""
        before = self.named.pop(source, {})
        if named:
            self.named[source] = named
            self.told_by[source] = told_by
        else:
            self.told_by.pop(source, None)
        for address in before:
            if address not in named and not self.names(address):
                self._outcomes.pop(address, None)
        return before

    def entries(self) -> tuple[AddressEntry, ...]:
        entries: dict[Multiaddr, AddressEntry] = {}
        for source in AddressSource:
            for address, expires in self.named.get(source, {}).items():
                known = entries.get(address)
                if known is None:
                    entries[address] = AddressEntry(address, source, expires, *self._outcomes.get(address, _NONE))
                elif known.expires is not None and (expires is None or expires > known.expires):
                    entries[address] = replace(known, expires=expires)
        return tuple(entries.values())

    def named_address(self, peer: PeerId, address: Multiaddr, source: AddressSource) -> NamedAddress:
        told_by = self.told_by[source] if source is not AddressSource.GIVEN else ()
        outcomes = self._outcomes.get(address, _NONE)
        return NamedAddress(peer, address, source, self.named[source][address], told_by, *outcomes)

    def last_success(self, address: Multiaddr) -> float:
        return self._outcomes.get(address, _NONE).last_success or 0.0

    def succeeded(self, address: Multiaddr, now: float) -> None:
        self._outcomes[address] = _Outcomes(last_success=now)

    def failed(self, address: Multiaddr, now: float) -> None:
        before = self._outcomes.get(address, _NONE)
        self._outcomes[address] = _Outcomes(before.last_success, now, before.failures + 1)

    def forget_failures(self) -> None:
        self._outcomes = {
            address: _Outcomes(outcomes.last_success)
            for address, outcomes in self._outcomes.items()
            if outcomes.last_success is not None
        }

    def restore(self, each: NamedAddress, now: float) -> None:
        """Takes the results of an earlier run, for an address without any of this one; a clock that went ahead then must
        not make it the best, or out of reach, for years."""
        outcomes = _Outcomes(_past(each.last_success, now), _past(each.last_failure, now), each.failures)
        if each.address not in self._outcomes and outcomes != _NONE:
            self._outcomes[each.address] = outcomes


def _past(moment: float | None, now: float) -> float | None:
    return None if moment is None else min(moment, now)
