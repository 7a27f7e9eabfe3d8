"""Whom a call means: a peer, or an address that leads to one."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from ..errors import InvalidAddress
from ..identity import PeerId
from ..multiaddr import Multiaddr, is_path

__all__ = ["announced_addresses", "own_address", "parse_target", "split_target"]


@lru_cache(maxsize=1024)
def parse_target(text: str) -> tuple[PeerId, Multiaddr | None]:
    """The peer and address that ``text`` names; cached, since every request names its target again."""
    if text.startswith("/"):
        return split_target(Multiaddr.parse(text))
    try:
        return PeerId.parse(text), None
    except InvalidAddress as error:
        example = "/ip4/127.0.0.1/tcp/4001/p2p/12D3Koo..."
        raise InvalidAddress(text, f"{error.reason}; nor an address, such as {example}") from None


def split_target(to: object) -> tuple[PeerId, Multiaddr | None]:
    """The peer, and the address that leads to it, if there is one. Raises InvalidAddress; TypeError for what is neither."""
    if isinstance(to, PeerId):
        return to, None
    if not isinstance(to, Multiaddr):
        raise TypeError(f"expected a PeerId, a Multiaddr or the text of one, got {to!r}")
    if to.peer_id is None:
        raise InvalidAddress(to, "the peer id is missing: append /p2p/<peer id>")
    return to.peer_id, to.without_peer() if len(to.components) > 1 else None


def own_address(address: Multiaddr | str, own: PeerId) -> Multiaddr:
    """An address of ours, without our peer id, which it may end in. Raises InvalidAddress if it ends in another, and as
    :meth:`Multiaddr.of`."""
    address = Multiaddr.of(address)
    if address.peer_id not in {None, own}:
        raise InvalidAddress(address, "it ends in the id of another peer")
    return address.without_peer()


def announced_addresses(addresses: Multiaddr | str | Iterable[Multiaddr | str], own: PeerId) -> tuple[Multiaddr, ...]:
    """Addresses to announce, without our peer id.

    Raises:
        InvalidAddress: as :func:`own_address`, and for a wildcard, port 0 or a path.
    """
    if isinstance(addresses, Multiaddr | str):
        addresses = (addresses,)
    announced = tuple(own_address(address, own) for address in addresses)
    for address in announced:
        if address.components[0][1] in {"0.0.0.0", "::"} or ("tcp", "0") in address.components or is_path(address):
            raise InvalidAddress(
                address, "cannot be announced: expected what others dial, such as /dns4/example.com/tcp/443/wss"
            )
    return announced
