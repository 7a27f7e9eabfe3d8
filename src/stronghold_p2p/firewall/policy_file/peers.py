"""Who is who in a policy file: ``[peers]``, ``[groups]``, and what they say of each; and lists of peers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, NoReturn

from ...errors import InvalidName
from ...identity import PeerId
from ..admission import RelayMode
from ..names import check_name, looks
from ..quotas import Limit
from ..rules import Rule
from .rules import read_rule
from .tables import Table
from .values import exactly, number, one_of, peer_id, whole_number

__all__ = ["RELAY_MODES", "PeerLists", "Peers", "Settings", "read_limit"]

RELAY_MODES: Final[Mapping[str, RelayMode]] = {"allow": "allow", "never": "never", "only": "only"}


class Settings(NamedTuple):
    """What the file says of a peer. None: nothing."""

    inbound: Rule | None = None
    outbound: Rule | None = None
    ban: bool | None = None
    relay: RelayMode | None = None
    per_second: float | None = None
    in_flight: int | None = None
    max_bytes: int | None = None

    @property
    def limit(self) -> Limit:
        """The three last."""
        return Limit(per_second=self.per_second, in_flight=self.in_flight, max_bytes=self.max_bytes)


NOTHING: Final = Settings()


class _Entry(NamedTuple):
    """The table of a peer or of a group, and what it says."""

    table: Table
    settings: Settings

    def says(self, key: str) -> bool:
        return getattr(self.settings, key) is not None


class Peers:
    """Reads ``[peers]`` and ``[groups]``. What a peer's own table says goes before what its groups say."""

    def __init__(self, root: Table) -> None:
        self.names: dict[PeerId, str] = {}
        """The names in ``[peers]``."""
        self.groups: dict[str, frozenset[PeerId]] = {}
        """The members by the names in ``[groups]``."""
        self.lines: dict[tuple[PeerId | None, str], int] = {}
        """Where each of the settings stands, by peer and key."""
        self._taken: dict[str, str] = {}
        """The names of both, by how they look."""
        own = self._read_peers(root.table("peers"))
        groups = self._read_groups(root.table("groups"))
        self.settings: dict[PeerId, Settings] = {
            peer: self._settle(peer, own.get(peer), groups.get(peer, ())) for peer in {**own, **groups}
        }
        """Of all peers in the two."""

    def _check_name(self, table: Table, name: str) -> None:
        try:
            check_name(name)
        except InvalidName as error:
            raise table.error(error.reason, name) from None
        if (other := self._taken.setdefault(looks(name), name)) != name:
            raise table.error(f"looks like {other!r}, which is a name, too", name)

    def _read_peers(self, table: Table) -> dict[PeerId, _Entry]:
        peers: dict[PeerId, _Entry] = {}
        for name in table.values:
            entry = table.table(name)
            entry.check_keys("id", *Settings._fields)
            self._check_name(table, name)
            peer = entry.take("id", peer_id)
            if peer is None:
                raise entry.error("has no id")
            if peer in peers:
                raise entry.error(f"is also the id of {self.names[peer]}", "id")
            self.names[peer] = name
            peers[peer] = _Entry(entry, _read_settings(entry))
        return peers

    def _read_groups(self, table: Table) -> dict[PeerId, list[_Entry]]:
        """By peer, the groups that it is in and that say something."""
        lists = PeerLists(self.names)
        groups: dict[PeerId, list[_Entry]] = {}
        for name, value in table.values.items():
            self._check_name(table, name)
            if name in lists:
                raise table.error("is also the name of a peer", name)
            if not isinstance(value, dict):
                self.groups[name] = _members(lists, table, name)
                continue
            entry = table.table(name)
            entry.check_keys("peers", *Settings._fields)
            if "peers" not in entry.values:
                raise entry.error("has no peers")
            self.groups[name] = _members(lists, entry, "peers")
            settings = _read_settings(entry)
            if settings != NOTHING:
                for peer in self.groups[name]:
                    groups.setdefault(peer, []).append(_Entry(entry, settings))
        return groups

    def _settle(self, peer: PeerId, own: _Entry | None, groups: Collection[_Entry]) -> Settings:
        """Chooses among all that is said of a peer."""
        chosen: dict[str, Any] = {}
        for key in Settings._fields:
            value: Any = getattr(own.settings, key) if own is not None else None
            ends = isinstance(value, Rule) and value.until is not None  # its groups' rule comes after that
            saying = [entry for entry in groups if entry.says(key)] if value is None or ends else []
            if len(saying) > 1:
                self._refuse_both(peer, key, *saying[:2])
            others = getattr(saying[0].settings, key) if saying else None
            if ends and others is not None:
                value = value.ending(value.until, others)
            chosen[key] = others if value is None else value
            if chosen[key] is not None:
                entry = own if own is not None and own.says(key) else saying[0]
                self.lines[peer, key] = entry.table.line(key)
        return Settings(**chosen)

    def _refuse_both(self, peer: PeerId, key: str, first: _Entry, second: _Entry) -> NoReturn:
        raise second.table.error(
            f"{self.names.get(peer, peer)} is also in the group {first.table.key[-1]}, which has {key} in line"
            f" {first.table.line(key)}; give the peer its own in [peers], without an end",
            key,
        )


class PeerLists:
    """Reads lists of peers: names in ``[peers]``, peer ids, and names in ``[groups]``, if these are given."""

    def __init__(self, names: Mapping[PeerId, str], groups: Mapping[str, frozenset[PeerId]] | None = None) -> None:
        self._ids = {name: frozenset((peer,)) for peer, name in names.items()} | dict(groups or {})
        self._tables = "[peers]" if groups is None else "[peers] or [groups]"

    def __contains__(self, name: str) -> bool:
        """Whether it is a name of one or several peers."""
        return name in self._ids

    def take(self, table: Table, name: str) -> frozenset[PeerId]:
        """The peers of a list; none if it is missing."""
        return frozenset().union(*table.items(name, self.peers))

    def allowed(self, table: Table, name: str) -> frozenset[PeerId] | None:
        """As :meth:`take`, of a list that must not be empty; None if it is missing."""
        return frozenset().union(*table.allow_list(name, self.peers)) or None

    def peers(self, value: object) -> frozenset[PeerId]:
        """The peers that a name or an id stands for. Raises ValueError."""
        text = exactly(str, value)
        named = self._ids.get(text)
        return named or frozenset((peer_id(text, f"neither a name in {self._tables} nor a peer id"),))


def read_limit(table: Table) -> Limit:
    """The limit that a table has among its keys."""
    return Limit(
        per_second=table.take("per_second", number),
        in_flight=table.take("in_flight", whole_number),
        max_bytes=table.take("max_bytes", whole_number),
    )


def _read_settings(table: Table) -> Settings:
    limit = read_limit(table)
    return Settings(
        inbound=read_rule(table, "inbound"),
        outbound=read_rule(table, "outbound"),
        ban=table.take("ban", partial(exactly, bool)),
        relay=table.take("relay", partial(one_of, RELAY_MODES)),
        per_second=limit.per_second,
        in_flight=limit.in_flight,
        max_bytes=limit.max_bytes,
    )


def _members(lists: PeerLists, table: Table, name: str) -> frozenset[PeerId]:
    members = lists.take(table, name)
    if not members:
        raise table.error("a group must have a member", name)  # where it is allowed, it could mean all or none
    return members
