"""``/dnsaddr``: a name whose TXT records are addresses (multiformats/multiaddr, protocols/DNSADDR.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from ..errors import InvalidAddress
from ..identity import PeerId
from ..multiaddr import Component, Multiaddr

if TYPE_CHECKING:
    import dns.exception

__all__ = ["TxtRecords", "addresses_in"]

PREFIX: Final = "_dnsaddr"
"""Where the records of a name are."""

KEY: Final = b"dnsaddr"
"""Of those that are addresses, ``dnsaddr=/ip4/...``."""

MAX_RECORDS: Final = 32
"""Addresses taken of one name. Those of go and js have four to six for each peer; rust takes 16."""

TIME: Final = 5.0
"""Seconds for one name, as for dnspython and glibc's resolver."""

TRIES: Final = 4
"""Questions in that time, if none is answered: two to each of two name servers."""

UDP_PAYLOAD: Final = 1232
"""Bytes of an answer by UDP, which no network splits (dnsflagday.net/2020); a longer one comes by TCP."""


class TxtRecords:
    """Asks name servers for TXT records. It blocks.

    ``name_servers``, addresses and ports: None for those of the system. ``time`` is in seconds, for one name.
    """

    def __init__(self, name_servers: Sequence[tuple[str, int]] | None = None, time: float = TIME) -> None:
        self._name_servers = name_servers
        self._time = time

    def look_up(self, host: str) -> tuple[list[bytes], float]:
        """The records at ``_dnsaddr.<host>``, and the seconds that they are valid for. ``host`` is in ASCII.

        Raises:
            OSError: there are none, or no name server has told of any in time.
        """
        import dns.exception  # takes a third of a second
        import dns.name
        import dns.nameserver
        import dns.resolver

        name = f"{PREFIX}.{host.removesuffix('.')}"
        try:
            # Read anew each time: the system's name servers are others in another network.
            resolver = dns.resolver.Resolver(configure=self._name_servers is None)
            if self._name_servers is not None:
                resolver.nameservers = [dns.nameserver.Do53Nameserver(*each) for each in self._name_servers]
            resolver.use_edns(0, payload=UDP_PAYLOAD)
            resolver.timeout = self._time / TRIES
            # By labels, since a text may have escapes.
            asked = dns.name.Name([*name.encode().split(b"."), b""])
            answer = resolver.resolve(asked, "TXT", search=False, lifetime=self._time)
        except dns.exception.DNSException as error:
            raise OSError(_reason(name, error, self._time)) from error
        return [b"".join(record.strings) for record in answer], answer.chaining_result.minimum_ttl


def addresses_in(records: Iterable[bytes], suffix: Sequence[Component], peer: PeerId) -> list[Multiaddr]:
    """The addresses of ``peer`` in TXT records, without its id: those that end in ``suffix``, what follows the name in
    the address that is looked up. A record without a peer id is of any peer.

    Raises:
        OSError: there is none.
    """
    found: dict[Multiaddr, None] = {}
    skipped: Counter[str] = Counter()
    for record in records:
        address = _address_in(record)
        if isinstance(address, str):
            skipped[address] += 1
        elif address.peer_id not in {None, peer}:
            skipped["of other peers"] += 1
        else:
            if address.peer_id is not None:
                address = address.without_peer()
            if tuple(suffix) != address.components[len(address.components) - len(suffix) :]:
                skipped["with another end than the address"] += 1
            elif len(found) < MAX_RECORDS:
                found[address] = None
    if not found:
        counted = ", ".join(f"{count} {what}" for what, count in skipped.items())
        raise OSError(f"no TXT record of its name is an address of the peer: {counted}")
    return list(found)


def _address_in(record: bytes) -> Multiaddr | str:
    """The address, or what kind of a record it is instead."""
    key, _, value = record.partition(b"=")
    if key != KEY:
        return "for something else"
    try:
        address = Multiaddr.parse(value.decode())
    except (InvalidAddress, UnicodeDecodeError):
        return "that are not addresses"
    return address if len(address.components) > 1 or address.peer_id is None else "that are not addresses"


def _reason(name: str, error: dns.exception.DNSException, time: float) -> str:
    import dns.resolver

    match error:
        case dns.resolver.NXDOMAIN():
            return f"there is no name {name}"
        case dns.resolver.NoAnswer():
            return f"{name} has no TXT record"
        case dns.resolver.LifetimeTimeout():
            return f"no name server has answered for {name} within {time:g} s{_failures(error)}"
        case dns.resolver.NoNameservers():
            return f"no name server has answered for {name}{_failures(error)}"
        case dns.resolver.NoResolverConfiguration():
            return "this machine is configured with no name server"
        case _:
            return f"{name} cannot be looked up: {error}"


def _failures(error: dns.exception.DNSException) -> str:
    """What was wrong with each server: a code of its answer, or an error."""
    failures = {f"{server}: {failure or type(failure).__name__}" for server, _, _, failure, _ in error.kwargs["errors"]}
    return "".join(f"; {failure}" for failure in sorted(failures))
