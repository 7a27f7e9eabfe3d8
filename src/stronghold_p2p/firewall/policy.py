"""Policy files: connections and requests to allow or refuse, in TOML. Strictly checked, loaded atomically.

`docs/FIREWALL.md` has the format with an example. A policy is a separate layer: it takes precedence over rules from calls
and answers, and a reload replaces only itself.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import os
import re
import stat
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, NoReturn, TypeVar

from ..errors import InvalidAddress, PolicyError
from ..frozen import FrozenDict
from ..identity import PeerId
from .admission import AdmissionRules, Network, RelayMode
from .rules import FirewallRules, Rule, unknown_type
from .toml_lines import Key, key_lines

__all__ = ["Policy", "PolicyWatch"]

MAX_SIZE: Final = 16 * 1024 * 1024
"""Bytes of a policy file; 10,000 peers take about 1.5 MB. The path may lead to an endless device."""

MAX_LIMIT: Final = 1_000_000_000
"""Above any useful limit; excludes infinity and integers too large for a float."""

RULES: Final = {"allow": Rule.ALLOW_ALL, "reject": Rule.REJECT_ALL, "ask": Rule.ASK}
OTHERWISE: Final[Mapping[str, Literal["reject", "ask"]]] = {"reject": "reject", "ask": "ask"}
RELAY_MODES: Final[Mapping[str, RelayMode]] = {"allow": "allow", "never": "never", "only": "only"}
RELAYED: Final = {"allow": True, "reject": False}

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The content of a policy file. ``Policy()`` is empty."""

    rules: FirewallRules = field(default_factory=lambda: FirewallRules(outbound=None))
    """The rules for requests. None where the file has none: rules from calls and answers apply."""
    names: Mapping[PeerId, str] = field(default_factory=dict)
    """The names of peers in the file."""
    admission: AdmissionRules = field(default_factory=AdmissionRules)
    """Restrictions of connections: bans, networks, peers and relays."""
    requests_in_flight: int | None = None
    """Concurrent inbound requests of one peer. None: as in :class:`Config`."""
    requests_per_second: float | None = None
    """Inbound requests of one peer per second. None: as in :class:`Config`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", FrozenDict(self.names))

    @classmethod
    def parse(
        cls, text: str, path: str | os.PathLike[str] = "<policy>", *, types: Collection[str] | None = None
    ) -> Policy:
        """Parses the text of a policy file. ``path`` appears in errors; ``types`` are the names of all request types
        (None: any).

        Raises:
            PolicyError: not TOML, empty, or invalid; or a rule has a type that is not in ``types``.
        """
        known = None if types is None else frozenset(types)
        root = _Table(_File(path, text, known), (), _parse_toml(path, text))
        root.check_keys("default", "peers", "groups", "networks", "peer_ids", "relay", "limits")
        if not root.values:
            # Editors may truncate a file before they write it: that must not lift every ban.
            raise PolicyError(path, 0, "", "says nothing")
        peers = _read_peers(root.table("peers"))
        lists = _PeerLists(peers, root.table("groups"))
        default = root.table("default")
        default.check_keys("inbound", "outbound", "relay")
        networks = root.table("networks")
        networks.check_keys("allow", "deny", "relayed")
        peer_ids = root.table("peer_ids")
        peer_ids.check_keys("allow", "deny")
        relay = root.table("relay")
        relay.check_keys("reserve", "connect")
        limits = root.table("limits")
        limits.check_keys("requests_in_flight", "requests_per_second")
        return cls(
            rules=FirewallRules(
                inbound=default.rule("inbound"),
                outbound=default.rule("outbound"),
                peers={peer.id: (peer.inbound, peer.outbound) for peer in peers if peer.inbound or peer.outbound},
            ),
            names={peer.id: peer.name for peer in peers},
            admission=AdmissionRules(
                allow_networks=networks.allow_list("allow", _network),
                deny_networks=networks.items("deny", _network),
                allow_peers=lists.allowed(peer_ids, "allow") or frozenset(),
                deny_peers=lists.take(peer_ids, "deny"),
                banned=frozenset(peer.id for peer in peers if peer.ban),
                relayed=networks.take("relayed", partial(_one_of, RELAYED)),
                relay_mode=default.take("relay", partial(_one_of, RELAY_MODES)),
                relay_modes={peer.id: peer.relay for peer in peers if peer.relay},
                may_reserve=lists.allowed(relay, "reserve"),
                may_connect=lists.allowed(relay, "connect"),
            ),
            requests_in_flight=limits.take("requests_in_flight", _whole_number),
            requests_per_second=limits.take("requests_per_second", _number),
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, types: Collection[str] | None = None, wait: bool = False) -> Policy:
        """Reads a policy file; ``types`` as for :meth:`parse`. A pipe needs ``wait``, which blocks until the writer closes it;
        it can be read only once.

        Raises:
            PolicyError: as for :meth:`parse`, or the file cannot be read.
        """
        data = _read(path, wait)
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise PolicyError(path, data.count(b"\n", 0, error.start) + 1, "", "not UTF-8") from error
        return cls.parse(text, path, types=types)


def _read(path: str | os.PathLike[str], wait: bool) -> bytes:
    flags = 0 if wait else os.O_NONBLOCK  # opens a pipe without waiting for a writer
    try:
        with open(path, "rb", opener=lambda name, mode: os.open(name, mode | flags)) as file:
            if not wait and stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
                raise PolicyError(path, 0, "", "a pipe, not a file that can be read again")
            data = file.read(MAX_SIZE + 1) or b""  # None: a terminal where nothing was typed
    except OSError as error:
        raise PolicyError(path, 0, "", (error.strerror or str(error)).lower()) from error
    if len(data) > MAX_SIZE:
        raise PolicyError(path, 0, "", f"over {MAX_SIZE:,} bytes: not a policy file")
    return data


_Stamp = tuple[int, int, int, int]


class PolicyWatch:
    """Applies a policy file, and again when the file changes or on :meth:`reload`.

    ``apply`` gets each policy. An invalid or missing file leaves the previous policy in force, and is reported to
    ``failed`` once. ``types`` as for :meth:`Policy.parse`. ``interval``: seconds between checks of the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        apply: Callable[[Policy], None],
        failed: Callable[[PolicyError], None],
        types: Collection[str] | None = None,
        interval: float = 1.0,
    ) -> None:
        self._path = Path(path)
        self._types = types
        self._apply = apply
        self._failed = failed
        self._interval = interval
        self._reload = asyncio.Event()
        self._loaded: _Stamp | None = None
        """The file as it was when it was last read; None if it was missing."""
        self._noticed: _Stamp | None = None
        """The file as it was at the last look."""
        self._watching: asyncio.Task[NoReturn] | None = None

    def start(self) -> None:
        """Watches, until :meth:`close`."""
        self._watching = asyncio.get_running_loop().create_task(self.run())

    async def close(self) -> None:
        """Watches no more."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])

    async def load(self) -> None:
        """Reads the file and applies it; a peer starts with this.

        Raises:
            PolicyError: nothing was applied.
        """
        # Stamped before it is read: what is written meanwhile is noticed later, and never missed.
        self._loaded = self._noticed = await asyncio.to_thread(_stamp, self._path)
        self._apply(await asyncio.to_thread(Policy.load, self._path, types=self._types))

    async def check(self) -> None:
        """Loads the file if it has changed, and then stood still since the last look: it may have been half written, or
        missing between two names.

        Raises:
            PolicyError: it has changed, and nothing was applied.
        """
        stamp = await asyncio.to_thread(_stamp, self._path)
        settled = stamp == self._noticed
        self._noticed = stamp
        if settled and stamp != self._loaded:
            await self.load()

    def reload(self) -> None:
        """Has :meth:`run` load the file now, changed or not: what SIGHUP asks for."""
        self._reload.set()

    async def run(self) -> NoReturn:
        """Watches until it is cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._interval):
                    await self._reload.wait()
            except TimeoutError:
                look = self.check
            else:
                self._reload.clear()
                look = self.load
            try:
                await look()
            except PolicyError as error:
                self._failed(error)


def _stamp(path: Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    # The time of the inode's change, too: a file that became readable has no other mark of it.
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


# -- reading: from a file's tables to values ------------------------------------------------------------


class _File(NamedTuple):
    path: str | os.PathLike[str]
    text: str
    types: frozenset[str] | None

    def error(self, key: Key, reason: str) -> PolicyError:
        dotted = ".".join(_quote(name) for name in key if isinstance(name, str))
        return PolicyError(self.path, key_lines(self.text)[key], dotted, reason)


class _Table:
    """A table of the file, empty if it is not there. All errors tell the line and the key."""

    def __init__(self, file: _File, key: Key, values: dict[str, Any]) -> None:
        self.file = file
        self.key = key
        self.values = values

    def error(self, reason: str, *below: str | int) -> PolicyError:
        """An error at the table, or at a key ``below`` it."""
        return self.file.error((*self.key, *below), reason)

    def check_keys(self, *known: str) -> None:
        """Checks for unknown keys.

        Raises:
            PolicyError: for the first key that is not in ``known``.
        """
        for name in self.values:
            if name not in known:
                similar = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {similar[0]}?" if similar else f"known keys are {_enumerate(known)}"
                raise self.error(f"unknown key; {hint}", name)

    def table(self, name: str) -> _Table:
        return _Table(self.file, (*self.key, name), self.take(name, partial(_exactly, dict)) or {})

    def take(self, name: str, read: Callable[[object], T]) -> T | None:
        """The value, converted by ``read``, which may raise ValueError; None if missing."""
        return self._read(self.values[name], read, name) if name in self.values else None

    def items(self, name: str, read: Callable[[object], T]) -> tuple[T, ...]:
        """The items of a list, each converted by ``read``; empty if missing."""
        taken: dict[T, None] = {}
        for index, item in enumerate(self.take(name, partial(_exactly, list)) or ()):
            value = self._read(item, read, name, index)
            if value in taken:
                raise self.error(f"{item!r} is in the list twice", name, index)
            taken[value] = None
        return tuple(taken)

    def allow_list(self, name: str, read: Callable[[object], T]) -> tuple[T, ...]:
        """As :meth:`items`, but an empty list is an error: it could mean allow all or allow none."""
        if self.values.get(name) == []:
            raise self.error("an empty list is ambiguous; to allow all, leave the key out", name)
        return self.items(name, read)

    def rule(self, name: str) -> Rule | None:
        value = self.values.get(name)
        if isinstance(value, dict):
            return self.table(name).rule_by_type()
        if not isinstance(value, list):
            return self.take(name, _rule)
        if not value:
            raise self.error('an empty list lets nothing pass; write "reject"', name)
        return Rule.restricted(allow=self.types(name))

    def rule_by_type(self) -> Rule:
        """The rule that this table is."""
        self.check_keys("allow", "ask", "reject", "otherwise")
        if not any(self.values.get(name) for name in ("allow", "ask", "otherwise")):
            raise self.error('it lets nothing pass; write "reject"')
        named: dict[str, str] = {}
        for word in ("allow", "ask", "reject"):
            for index, name in enumerate(self.types(word)):
                if named.setdefault(name, word) != word:
                    raise self.error(f"{name!r} is also in {named[name]}", word, index)
        return Rule.restricted(
            allow=self.types("allow"),
            ask=self.types("ask"),
            reject=self.types("reject"),
            otherwise=self.take("otherwise", partial(_one_of, OTHERWISE)) or "reject",
        )

    def types(self, name: str) -> tuple[str, ...]:
        """A list of request types; empty if missing."""
        return self.items(name, partial(_type_name, self.file.types))

    def _read(self, value: object, read: Callable[[object], T], *below: str | int) -> T:
        try:
            return read(value)
        except ValueError as error:
            raise self.error(str(error), *below) from error


class _Peer(NamedTuple):
    name: str
    id: PeerId
    inbound: Rule | None
    outbound: Rule | None
    ban: bool
    relay: RelayMode | None


def _read_peers(table: _Table) -> list[_Peer]:
    peers: dict[PeerId, _Peer] = {}
    for name in table.values:
        entry = table.table(name)
        entry.check_keys("id", "inbound", "outbound", "ban", "relay")
        _check_name(table, name)
        peer_id = entry.take("id", _peer_id)
        if peer_id is None:
            raise entry.error("has no id")
        if peer_id in peers:
            raise entry.error(f"is also the id of {peers[peer_id].name}", "id")
        ban = entry.take("ban", partial(_exactly, bool)) or False
        mode = entry.take("relay", partial(_one_of, RELAY_MODES))
        peers[peer_id] = _Peer(name, peer_id, entry.rule("inbound"), entry.rule("outbound"), ban, mode)
    return list(peers.values())


def _check_name(table: _Table, name: str) -> None:
    if not name or not name.isprintable():
        raise table.error("a name must be printable text", name)  # it is shown on terminals
    if _is_peer_id(name):
        raise table.error("a peer id cannot be a name", name)


class _PeerLists:
    """Reads lists of peers: names in ``[peers]``, peer ids, and names in ``[groups]``, which are such lists themselves."""

    def __init__(self, peers: Iterable[_Peer], groups: _Table) -> None:
        self._ids: dict[str, frozenset[PeerId]] = {peer.name: frozenset((peer.id,)) for peer in peers}
        self._names = "[peers]"
        members: dict[str, frozenset[PeerId]] = {}
        for name in groups.values:
            _check_name(groups, name)
            if name in self._ids:
                raise groups.error("is also the name of a peer", name)
            members[name] = self.take(groups, name)
            if not members[name]:
                raise groups.error("a group must have a member", name)  # where it is allowed, it could mean all or none
        self._ids |= members
        self._names = "[peers] or [groups]"

    def take(self, table: _Table, name: str) -> frozenset[PeerId]:
        """The peers of a list; none if it is missing."""
        return frozenset().union(*table.items(name, self._peers))

    def allowed(self, table: _Table, name: str) -> frozenset[PeerId] | None:
        """As :meth:`take`, of a list that must not be empty; None if it is missing."""
        return frozenset().union(*table.allow_list(name, self._peers)) or None

    def _peers(self, value: object) -> frozenset[PeerId]:
        text = _exactly(str, value)
        named = self._ids.get(text)
        return named or frozenset((_peer_id(text, f"neither a name in {self._names} nor a peer id"),))


def _parse_toml(path: str | os.PathLike[str], text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise PolicyError(path, 0, "", "nested too deeply") from None
    except ValueError as error:  # also a number of thousands of digits, which tomllib does not make an error of its own
        reason, _, where = str(error).partition(" (at ")
        position = re.fullmatch(r"line (\d+), column (\d+)\)", where)
        line = int(position[1]) if position else text.rstrip().count("\n") + 1 if where else 0
        column = f", at column {position[2]}" if position else ""
        raise PolicyError(path, line, "", f"not TOML: {reason[0].lower()}{reason[1:]}{column}") from error


# -- reading: from TOML's values to ours; each raises ValueError -----------------------------------------


def _exactly(kind: type[T], value: object) -> T:
    if type(value) is not kind:  # for isinstance, true would be a whole number
        raise ValueError(f"must be {_KINDS[kind]}, not {_kind(value)}")
    return value


def _whole_number(value: object) -> int:
    number = _exactly(int, value)
    _check_limit(number)
    return number


def _number(value: object) -> float:
    number = value if type(value) is int else _exactly(float, value)
    _check_limit(number)
    return float(number)


def _check_limit(value: float) -> None:
    if not 0 < value <= MAX_LIMIT:  # neither of which NaN is
        raise ValueError(f"must be above 0 and at most {MAX_LIMIT:,}")


def _rule(value: object) -> Rule:
    rule = RULES.get(value) if isinstance(value, str) else None
    if rule is None:
        raise ValueError(
            f'must be "allow", "reject", "ask", a list of types, or a table of such lists, not {_shown(value)}'
        )
    return rule


def _one_of(choices: Mapping[str, T], value: object) -> T:
    if not isinstance(value, str) or value not in choices:
        *others, last = (f'"{choice}"' for choice in choices)
        raise ValueError(f"must be {', '.join(others)} or {last}, not {_shown(value)}")
    return choices[value]


def _type_name(types: frozenset[str] | None, value: object) -> str:
    name = _exactly(str, value)
    if not name:
        raise ValueError("a type must have a name")
    if (reason := unknown_type(name, types)) is not None:
        raise ValueError(reason)
    return name


def _peer_id(value: object, otherwise: str = "not a peer id") -> PeerId:
    try:
        return PeerId.parse(_exactly(str, value))
    except InvalidAddress as error:
        raise ValueError(f"{value!r} is {otherwise}") from error


def _is_peer_id(text: str) -> bool:
    try:
        PeerId.parse(text)
    except InvalidAddress:
        return False
    return True


def _network(value: object) -> Network:
    text = _exactly(str, value)
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


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) else _kind(value)


def _enumerate(words: Collection[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}"


def _quote(name: str) -> str:
    bare = re.fullmatch(r"[A-Za-z0-9_-]+", name)
    return name if bare else json.dumps(name, ensure_ascii=not name.isprintable())
