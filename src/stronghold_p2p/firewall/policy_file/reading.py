"""The content of a policy file, from its tables."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from functools import partial
from typing import Final

from ...identity import PeerId
from ..admission import AdmissionRules
from ..policy import Policy, PolicyMode
from ..quotas import NO_LIMIT, Limit
from ..rules import FirewallRules
from .peers import RELAY_MODES, PeerLists, Peers, read_limit
from .rules import read_rule
from .tables import File, Table
from .tests import run_tests
from .values import network, number, one_of, type_name, whole_number

__all__ = ["parse"]

MODES: Final[Mapping[str, PolicyMode]] = {"enforce": "enforce", "observe": "observe"}
TABLES: Final = ("default", "peers", "groups", "types", "networks", "peer_ids", "relay", "limits", "approval")
RELAYED: Final = {"allow": True, "reject": False}


def parse(text: str, path: str | os.PathLike[str], types: Collection[str] | None) -> Policy:
    """As :meth:`Policy.parse`."""
    root = File(path, text, types).root
    root.check_keys(*TABLES, "mode", "tests")
    peers = Peers(root)
    lists = PeerLists(peers.names, peers.groups)
    default = root.table("default")
    default.check_keys("inbound", "outbound", "relay")
    limits = root.table("limits")
    limits.check_keys("requests_in_flight", "requests_per_second")
    approvers, need = _read_approval(root.table("approval"), lists)
    tests = root.tables("tests")
    policy = Policy(
        mode=root.take("mode", partial(one_of, MODES)) or "enforce",
        rules=FirewallRules(
            inbound=read_rule(default, "inbound"),
            outbound=read_rule(default, "outbound"),
            peers={
                peer: (its.inbound, its.outbound) for peer, its in peers.settings.items() if its.inbound or its.outbound
            },
        ),
        names=peers.names,
        groups=peers.groups,
        admission=_read_admission(root, peers, lists),
        approvers=approvers,
        need=need,
        requests_in_flight=limits.take("requests_in_flight", whole_number),
        requests_per_second=limits.take("requests_per_second", number),
        peer_limits={peer: its.limit for peer, its in peers.settings.items() if its.limit != NO_LIMIT},
        type_limits=_read_types(root.table("types")),
        lines={
            **peers.lines,
            **{(None, key): table.line(key) for table in (default, limits) for key in table.values},
        },
        tests=len(tests),
    )
    run_tests(tests, lists, policy.verdict)
    return policy


def _read_admission(root: Table, peers: Peers, lists: PeerLists) -> AdmissionRules:
    networks = root.table("networks")
    networks.check_keys("allow", "deny", "relayed")
    peer_ids = root.table("peer_ids")
    peer_ids.check_keys("allow", "deny")
    relay = root.table("relay")
    relay.check_keys("reserve", "connect")
    return AdmissionRules(
        allow_networks=networks.allow_list("allow", network),
        deny_networks=networks.items("deny", network),
        allow_peers=lists.allowed(peer_ids, "allow") or frozenset(),
        deny_peers=lists.take(peer_ids, "deny"),
        banned=frozenset(peer for peer, its in peers.settings.items() if its.ban),
        relayed=networks.take("relayed", partial(one_of, RELAYED)),
        relay_mode=root.table("default").take("relay", partial(one_of, RELAY_MODES)),
        relay_modes={peer: its.relay for peer, its in peers.settings.items() if its.relay},
        may_reserve=lists.allowed(relay, "reserve"),
        may_connect=lists.allowed(relay, "connect"),
    )


def _read_approval(table: Table, lists: PeerLists) -> tuple[frozenset[PeerId], int]:
    """The approvers, and how many must agree."""
    table.check_keys("approvers", "need")
    approvers = lists.take(table, "approvers")
    need = table.take("need", whole_number) or 1
    if "need" in table.values and need > len(approvers):
        raise table.error(f"more than there are approvers: {len(approvers)}", "need")
    return approvers, need


def _read_types(table: Table) -> dict[str, Limit]:
    """The limits by type."""
    limits: dict[str, Limit] = {}
    for name in table.values:
        its = table.table(name)
        its.check_keys("per_second", "in_flight", "max_bytes")
        try:
            type_name(table.file.types, name)
        except ValueError as error:
            raise table.error(str(error), name) from error
        if name.startswith("/") and "max_bytes" in its.values:
            raise its.error("a stream has no size that is known before", "max_bytes")
        limits[name] = read_limit(its)
        if limits[name] == NO_LIMIT:
            raise its.error("limits nothing: it needs per_second, in_flight or max_bytes")
    return limits
