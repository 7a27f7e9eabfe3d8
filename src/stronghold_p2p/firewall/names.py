"""The names that people give peers: those of the policy, and petnames of one's own.

A name is for people: rules, bans and connections go by peer ids. The policy goes first: a petname that is, or looks like, the
policy's name of another peer or of a group is as if it were not there.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Final

from ..errors import InvalidAddress, InvalidName
from ..identity import PeerId

__all__ = ["ID_HEAD", "Names", "check_name", "labelled", "looks"]

MAX_NAME: Final = 64
"""Characters of a name. It stands in columns of lists, and in sentences beside a peer id; host names are as long, at most."""

ID_HEAD: Final = "12D3Koo"
"""How the id of every Ed25519 key begins: nearly all ids do. What begins so and is none is cut short, or mistyped."""

SHOWN_START: Final = 7
SHOWN_END: Final = 6
"""Characters of a peer id that stand beside a name. All Ed25519 ids begin alike, so that the end tells them apart."""


class Names:
    """Which peer has which name. A peer has at most one of each kind, and no two names look alike."""

    def __init__(self) -> None:
        self._policy = _Register()
        self._groups: frozenset[str] = frozenset()
        """How the names of the policy's groups look."""
        self._petnames = _Register()

    @property
    def petnames(self) -> Mapping[PeerId, str]:
        """All petnames, also those that the policy gives to others."""
        return self._petnames.names

    def name_of(self, peer: PeerId) -> str | None:
        """The policy's name of a peer; else its petname, unless the policy calls others so; else None."""
        if (name := self._policy.names.get(peer)) is not None:
            return name
        name = self._petnames.names.get(peer)
        return None if name is None or self._is_in_policy(name) else name

    def find(self, text: str) -> PeerId:
        """The peer with this name, or with this id.

        Raises:
            InvalidAddress: there is none.
        """
        try:
            return PeerId.parse(text)
        except InvalidAddress:
            if text.startswith(ID_HEAD):
                raise  # an id that is cut short, or mistyped
        peer = (self._policy if self._is_in_policy(text) else self._petnames).holder(text)
        if peer is not None:
            names = {self._policy.names.get(peer), self._petnames.names.get(peer)}
            if text in names:
                return peer
            hint = f"; did you mean {self.name_of(peer)}?"
        else:
            hint = ""
        raise InvalidAddress(text, f"neither a peer id nor the name of a peer{hint}")

    def check(self, peer: PeerId, name: str) -> None:
        """Whether a peer may get this petname.

        Raises:
            InvalidName: it is no name (see :func:`check_name`), or another peer's.
        """
        check_name(name)
        for register, what in ((self._policy, "in the policy"), (self._petnames, "already")):
            holder = register.holder(name)
            if holder is not None and holder != peer:
                taken = register.names[holder]
                alike = "" if taken == name else f"looks like {taken!r}, which "
                raise InvalidName(name, f"{alike}is the name of {holder} {what}")
        if looks(name) in self._groups:
            raise InvalidName(name, "is, or looks like, the name of a group in the policy")

    def set_petname(self, peer: PeerId, name: str | None) -> None:
        """Gives a peer a petname, or takes it away. Whoever has one that looks like it loses that: so two processes that
        share a file, where the last one to write has it, agree."""
        self._petnames.set(peer, name)

    def set_policy(self, names: Mapping[PeerId, str], groups: Iterable[str] = ()) -> None:
        """The names that the policy has for peers and for groups, in place of those before."""
        self._policy = _Register(names)
        self._groups = frozenset(map(looks, groups))

    def _is_in_policy(self, name: str) -> bool:
        """Whether it is the policy's, or looks so."""
        return self._policy.holder(name) is not None or looks(name) in self._groups


class _Register:
    """Names of one kind, found by either side."""

    def __init__(self, names: Mapping[PeerId, str] | None = None) -> None:
        self.names = dict(names or {})
        self._holders = {looks(name): peer for peer, name in self.names.items()}

    def holder(self, name: str) -> PeerId | None:
        """Who has this name, or one that looks like it."""
        return self._holders.get(looks(name))

    def set(self, peer: PeerId, name: str | None) -> None:
        before = self.names.pop(peer, None)
        if before is not None:
            del self._holders[looks(before)]
        if name is None:
            return
        if (holder := self.holder(name)) is not None:
            del self.names[holder]
        self.names[peer] = name
        self._holders[looks(name)] = peer


def check_name(name: str) -> None:
    """Checks what is to be a name.

    Raises:
        InvalidName: empty, not printable, too long, with blanks around it, or what commands would take for something else: a
            peer id, or an address.
    """
    if not name or not name.isprintable():
        raise InvalidName(name, "a name must be printable text")  # it is shown on terminals
    if _is_peer_id(name):
        raise InvalidName(name, "a peer id cannot be a name")
    if name != name.strip():
        raise InvalidName(name, "a name must not begin or end with a blank")
    if len(name) > MAX_NAME:
        raise InvalidName(name, f"a name has at most {MAX_NAME} characters, not {len(name)}")
    if name.startswith("/"):
        raise InvalidName(name, "a name must not begin with a slash, as an address does")
    if name.startswith(ID_HEAD):
        raise InvalidName(name, f"a name must not begin with {ID_HEAD}, as peer ids do")


def looks(name: str) -> str:
    """What is the same for names that people take for one another: upper and lower case, wide and narrow letters, blanks."""
    if not name.isascii():  # a policy may have 10,000 names, which are read at once
        name = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return " ".join(name.lower().split())


def labelled(peer: PeerId, name: str | None) -> str:
    """A peer as people are shown it: its name with the start and the end of its id, or the id if it has no name."""
    text = str(peer)
    return text if name is None else f"{name} ({text[:SHOWN_START]}…{text[-SHOWN_END:]})"


def _is_peer_id(text: str) -> bool:
    try:
        PeerId.parse(text)
    except InvalidAddress:
        return False
    return True
