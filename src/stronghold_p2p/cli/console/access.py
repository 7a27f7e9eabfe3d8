"""Who may see the page, and answer there: who has opened the link that was printed.

A link has a token that is good once. It is in the link's fragment, which browsers do not send, so that no log, no proxy
and no program that looks at links in advance uses it up. The page's script exchanges it for a session, whose id is in a
cookie that scripts cannot read. Cookies are told to every port of a host, but by path: the page's path is secret, so that
what else listens on this machine never gets it.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from typing import Final

__all__ = ["COOKIE", "MAX_PAGES", "MAX_SESSIONS", "Access", "Session", "is_ours"]

COOKIE: Final = "stronghold_console"

MAX_SESSIONS = 8
"""Browsers that may be in at once; one more ends the one that came first."""

MAX_PAGES = 4
"""That one browser keeps up to date. It has room for six connections to a host, of which each page holds one."""

HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""Names by which a browser reaches this machine. Whoever has a name of his own lead here (DNS rebinding) is refused. Any port
may stand there: ``ssh -L`` has its own."""


class Session:
    """A browser that has opened a link."""

    def __init__(self) -> None:
        self.id: Final = secrets.token_urlsafe()
        self.pages = 0
        """That are kept up to date."""
        self.ended = False


class Access:
    """The links and sessions of one console."""

    def __init__(self) -> None:
        self.path: Final = secrets.token_hex(8)
        """Under which everything is served."""
        self._token = secrets.token_urlsafe()
        self._sessions: list[Session] = []

    @property
    def link(self) -> str:
        """What a browser opens next, without the host. Good once; then there is another one."""
        return f"/{self.path}/#{self._token}"

    def open(self, token: str) -> Session | None:
        """A new session; None if this is not the token of :attr:`link`."""
        if not _equal(token, self._token):
            return None
        self._token = secrets.token_urlsafe()
        if len(self._sessions) == MAX_SESSIONS:
            self._sessions.pop(0).ended = True
        self._sessions.append(Session())
        return self._sessions[-1]

    def find(self, id: str | None) -> Session | None:
        """The session with this id."""
        return next((session for session in self._sessions if id is not None and _equal(id, session.id)), None)


def is_ours(method: str, headers: Mapping[str, str], address: str) -> bool:
    """Whether a request can come from our own page, and not from another site in the same browser. ``address`` is the one
    that we listen on."""
    host = headers.get("host", "")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if name not in HOSTS and name.removeprefix("[").removesuffix("]") != address:
        return False
    origin = headers.get("origin")
    if origin is None:
        return method in {"GET", "HEAD"}
    return origin == f"http://{host}"


def _equal(given: str, known: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), known.encode())
