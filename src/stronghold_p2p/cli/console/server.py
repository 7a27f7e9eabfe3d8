"""The page's server: HTTP on a loopback address, in the event loop of the peer."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from importlib import resources
from typing import Any, Final, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from ...logs import SparingLog
from ...peer import StrongholdP2p
from .. import output
from .access import COOKIE, MAX_PAGES, Access, Session, is_ours
from .board import INTERVAL, Board
from .desk import AnswerError, Desk, Given, Removal
from .place import Place, listen_at, url_of

__all__ = ["Console"]

MAX_CONNECTIONS = 64
"""At once; more are closed. Browsers hold half of it with their pages, at most."""

MAX_HEADERS = 16_384
"""Bytes of a request's line and headers; browsers send about 1,000."""

MAX_BODY = 8192
"""Bytes of an answer: a reason of the greatest length, each character escaped, and the rest."""

PATIENCE = 10.0
"""Seconds for a request to arrive, and its response to be taken."""

STUCK = 10.0
"""Seconds for which a page may take no updates; one that still lives connects anew."""

ALIVE = 15.0
"""Seconds between lines to a page: one that nobody has closed properly is found out."""

EVENTS = "text/event-stream"

FILES: Final = {
    "": ("index.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
"""By path."""

HEADERS: Final = {
    "cache-control": "no-store",
    "connection": "close",  # one request each: what is bounded for a connection is bounded for a request
    "content-security-policy": "default-src 'none'; connect-src 'self'; img-src 'self'; script-src 'self'; style-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Of every response."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

T = TypeVar("T")


class Console:
    """Serves the page of ``peer`` at ``place``, and answers the firewall's questions as its user says there."""

    def __init__(
        self, peer: StrongholdP2p[Any, Any], place: Place, *, alone: bool = True, interval: float = INTERVAL
    ) -> None:
        """``alone``: nobody else is asked, so the log tells of requests that no page shows. ``interval``: seconds between
        updates."""
        self._place = place
        self._listener: socket.socket
        self._access = Access()
        self._desk = Desk(peer, alone=alone)
        self._board = Board(peer, self._desk, interval=interval)
        self._log_failure = SparingLog(logging.ERROR, "a request to the console failed")

    def open(self) -> None:
        """Prints the link; :meth:`run` must follow.

        Raises:
            ListenError: the port is taken, or the machine has no such address.
        """
        self._listener = listen_at(self._place)
        self._show_link("console")

    async def run(self) -> None:
        """Serves until it is cancelled."""
        listener = self._listener
        # No handlers of signals, no log of requests: the command has its own.
        config = Config(
            self._guarded(self._app(), listener.getsockname()[0]),
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level=logging.CRITICAL,
            access_log=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=MAX_HEADERS,
        )
        config.load()
        state = ServerState()
        server = await asyncio.get_running_loop().create_server(lambda: _Connection(config, state, {}), sock=listener)
        try:
            await self._board.run()
        finally:
            server.close()
            for connection in list(state.connections):
                connection.transport.abort()
            for task in state.tasks:
                task.cancel()
            if state.tasks:
                await asyncio.wait(state.tasks)

    def _show_link(self, title: str) -> None:
        """Whoever reads what is printed may come in, once."""
        url = url_of(self._listener) + self._access.link
        output.result({"event": "console", "url": url}, f"{title:<14}{url}")

    def _app(self) -> App:
        routes: list[BaseRoute] = [
            *(Route(f"/{path}", _file(name, kind)) for path, (name, kind) in FILES.items()),
            Route("/session", self._open_session, methods=["POST"]),
            Route("/updates", self._update),
            Route("/answer", self._take_answer, methods=["POST"]),
            Route("/removal", self._take_removal, methods=["POST"]),
        ]
        return Starlette(routes=[Mount(f"/{self._access.path}", routes=routes)])

    def _guarded(self, app: App, address: str) -> App:
        """Lets pass what our own page asks, and has every response say what a browser may do with it."""

        async def guard(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_guarded(message: MutableMapping[str, Any]) -> None:
                if message["type"] == "http.response.start":
                    MutableHeaders(scope=message).update(HEADERS)
                await send(message)

            inner: App = app if is_ours(scope["method"], Headers(scope=scope), address) else REFUSED
            try:
                await inner(scope, receive, send_guarded)
            except ClientDisconnect:
                pass
            except Exception as error:  # noqa: BLE001 - the response is 500, and the peer goes on
                self._log_failure.write(exc_info=error)

        return guard

    def _session(self, request: Request) -> Session | None:
        return self._access.find(request.cookies.get(COOKIE))

    async def _open_session(self, request: Request) -> Response:
        try:
            token = msgspec.json.decode(await _body(request), type=_Token).token
        except msgspec.DecodeError:
            return _error(400, "malformed token")
        session = self._access.open(token)
        if session is None:
            return _error(403, "This link has been used, or is not the newest. The terminal has a new one.")
        self._show_link("next link")
        response = Response(status_code=204)
        response.set_cookie(COOKIE, session.id, path=f"/{self._access.path}/", httponly=True, samesite="strict")
        return response

    async def _take_answer(self, request: Request) -> Response:
        return await self._take(request, Given, self._desk.answer)

    async def _take_removal(self, request: Request) -> Response:
        return await self._take(request, Removal, self._desk.remove)

    async def _take(self, request: Request, kind: type[T], act: Callable[[T], Awaitable[None]]) -> Response:
        """Does what a page with a session says."""
        if self._session(request) is None:
            return _error(401, NO_SESSION)
        try:
            given = msgspec.json.decode(await _body(request), type=kind)
        except msgspec.DecodeError as error:
            return _error(400, f"malformed message: {error}")
        try:
            await act(given)
        except AnswerError as error:
            return _error(409, str(error))
        return Response(status_code=204)

    async def _update(self, request: Request) -> Response:
        # As an update: a page cannot read an error of its event source.
        session = self._session(request)
        if session is None:
            return Response(_end(NO_SESSION), media_type=EVENTS)
        if session.pages == MAX_PAGES:
            return Response(_end(MANY_PAGES), media_type=EVENTS)
        return _Updates(self._board, session)


class _Updates(Response):
    """What a page shows, then what changes, for as long as the page is there: server-sent events (HTML Living Standard,
    section 9.2)."""

    def __init__(self, board: Board, session: Session) -> None:
        super().__init__(media_type=EVENTS)
        del self.headers["content-length"]
        self._board = board
        self._session = session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection: _Connection = scope["state"]["connection"]
        self._session.pages += 1
        with self._board.watch() as watch:
            connection.stay(watch.close)
            try:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                while not self._session.ended and (update := await watch.next(ALIVE)) is not None:
                    await send({"type": "http.response.body", "body": _event(update), "more_body": True})
                last = _end(NO_SESSION) if self._session.ended else b""
                await send({"type": "http.response.body", "body": last})
            finally:
                self._session.pages -= 1


class _Connection(H11Protocol):
    """Of a browser: for one request, which must be over in time, or for the updates of a page, which must take them."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {"connection": self}
        self._patience = self.loop.call_later(PATIENCE, transport.abort)
        self._lost: Callable[[], object] = lambda: None
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()

    def stay(self, lost: Callable[[], object]) -> None:
        """Has it last as long as the page; ``lost`` is called at its end."""
        self._patience.cancel()
        self._lost = lost

    def pause_writing(self) -> None:
        super().pause_writing()
        self._patience.cancel()
        self._patience = self.loop.call_later(STUCK, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._patience.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._patience.cancel()
        self._lost()
        self.app_state = {}  # a circle


class _Token(msgspec.Struct, forbid_unknown_fields=True):
    token: str


def _file(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    content = (resources.files(__package__) / "page" / name).read_bytes()

    async def respond(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return respond


async def _body(request: Request) -> bytes:
    """Raises HTTPException: it is too long."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"over {MAX_BODY:,} bytes")
    return body


def _event(data: bytes) -> bytes:
    return b"data: %b\n\n" % data


def _end(why: str) -> bytes:
    """The last event: the page is not to connect again."""
    return _event(msgspec.json.encode({"end": why}))


def _error(status: int, message: str) -> Response:
    return Response(msgspec.json.encode({"message": message}), status, media_type="application/json")


REFUSED = _error(403, "This request does not come from the console's page.")
MANY_PAGES = f"This browser has the console open in {MAX_PAGES} pages: close one, and reload this one."
NO_SESSION = "This browser is not signed in: open the link that the terminal shows."
