"""The router between this machine and other networks: facts in, findings out. Pure."""

from __future__ import annotations

from typing import Any

from ..events import PortMapped
from .facts import Router
from .finding import Finding, shortened

__all__ = ["check_port_mapping", "forward_by_hand"]


def check_port_mapping(router: Router) -> Finding:
    """Whether the router forwards ports on request."""
    check = "port_mapping"
    address, local, mapping = router.address, router.local, router.mapping
    data: dict[str, Any] = {
        "router": None if address is None else str(address),
        "local": None if local is None else str(local),
        "protocol": mapping.protocol if isinstance(mapping, PortMapped) else None,
        "external": None,
        "reason": None,
    }
    if address is None or local is None:
        return Finding(check, "skipped", "There is no router: this machine has no default route by IPv4.", None, data)
    if local.is_global:
        return Finding(check, "skipped", f"No router is in between: our address {local} is public.", None, data)
    if not router.asked:
        what = f"The router {address} was not asked: it cannot forward a port to where we listen."
        return Finding(check, "skipped", what, None, data)
    if mapping is None:
        what = f"The router {address} has not said in time whether it forwards ports."
        return Finding(check, "unknown", what, "Give it more time, as with --seconds 30.", data)
    if isinstance(mapping, PortMapped):
        external = mapping.address.without_peer()
        data["external"] = str(external)
        what = f"The router {address} forwards ports by {mapping.protocol}: it gave us {external}, and has it back now."
        return Finding(check, "ok", what, "Start the peer with --port-mapping.", data)
    data["reason"] = shortened(mapping.reason)
    if mapping.external is not None:
        data["external"] = str(mapping.external.without_peer())
        what = (
            f"The router {address} forwards ports, but its own address {mapping.external.components[0][1]} is not public:"
            " another router is behind it, or the provider has customers share an address."
        )
        advice = "Ask the provider for a public IPv4 address, use IPv6, or listen through a relay, with --via-relay."
        return Finding(check, "note", what, advice, data)
    what = f"The router {address} forwards no port on request: {shortened(mapping.reason)}."
    advice = f"Turn on UPnP, NAT-PMP or PCP in the router. Or {forward_by_hand(router)}."
    if not router.upnp:
        advice = f"Install the extra `upnp` (in a clone: `pip install '.[upnp]'`). {advice}"
    return Finding(check, "note", what, advice, data)


def forward_by_hand(router: Router) -> str:
    """What to do at a router that does not forward on request."""
    port = router.port
    return (
        f"have the router {router.address} forward TCP port {port} to {router.local}, and start the peer with"
        f" `stronghold-p2p listen /ip4/0.0.0.0/tcp/{port} --announce /ip4/PUBLIC/tcp/{port} --ask`, where PUBLIC is the address of"
        " the router"
    )
