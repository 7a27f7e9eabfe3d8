"""Both sides of AutoNAT v2 in a peer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...ending import end_all
from ...events import AddressOrigin, AddressReachability, Reachability, ReachabilityChanged
from ...multiaddr import Multiaddr
from ..service import Service
from .client import AutonatClient
from .message import DIAL_REQUEST
from .reachability import ReachabilityService
from .server import AutonatServer

__all__ = ["Autonat"]


class Autonat:
    """Makes the parts. ``is_public`` says which addresses can be dialed from everywhere, ``emit`` takes events; ``always``:
    dial for others though no address of ours can be dialed.
    """

    def __init__(
        self, *, is_public: Callable[[Multiaddr], bool], emit: Callable[[ReachabilityChanged], None], always: bool
    ) -> None:
        self._always = always
        self._client = AutonatClient(is_public=is_public)
        self._server = AutonatServer(is_public=is_public)
        self._reachability = ReachabilityService(self._client, is_public=is_public, emit=emit)
        self.services: tuple[Service, ...] = self._client, self._server, self._reachability

    @property
    def reachability(self) -> Mapping[Multiaddr, AddressReachability]:
        """What is known of each of our public addresses, with our peer id."""
        return self._reachability.reachability

    def offers(self, protocol: str) -> bool:
        """Whether remotes may open ``protocol``. We dial for others as soon as we have a public address that is not known to
        be out of reach: who has none may be behind the very router of those who ask, and who merely asks is no server."""
        if protocol != DIAL_REQUEST or self._always:
            return True
        return any(
            one.state is Reachability.REACHABLE
            or (one.state is Reachability.UNKNOWN and one.origin is not AddressOrigin.OBSERVED)
            for one in self.reachability.values()
        )

    async def close(self) -> None:
        """Ends what is under way."""
        await end_all(self._reachability.close, self._client.close, self._server.close)
