"""What a browser does with the console's page, as bytes: one request a connection, cookies, updates."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Answered", "Browser", "Updates"]


@dataclass(frozen=True)
class Answered:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Updates:
    """What a page is told, merged into what it shows."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self.shown: dict[str, Any] = {}
        self.raw = b""
        """All that has come."""

    async def next(self) -> dict[str, Any]:
        """The next update. Raises EOFError: there is none, since the connection has ended."""
        while True:
            line = await self._reader.readline()
            if not line:
                raise EOFError
            self.raw += line
            if line.startswith(b"data: "):
                news: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
                self.shown |= news
                return news

    async def questions(self, count: int = 1) -> list[dict[str, Any]]:
        """The questions that are shown, once they are so many."""
        while len(self.shown.get("questions", {}).get("shown", ())) != count:
            await self.next()
        shown: list[dict[str, Any]] = self.shown["questions"]["shown"]
        return shown

    async def ends(self, number: int) -> dict[str, Any]:
        """What became of a question, once it has ended."""
        while True:
            for end in self.shown.get("questions", {}).get("ended", ()):
                if end["id"] == number:
                    return dict(end)
            await self.next()


class Browser:
    """One with cookies of its own, at a link that was printed."""

    def __init__(self, link: str) -> None:
        parts = urlsplit(link)
        assert parts.hostname is not None
        assert parts.port is not None
        self.host, self.port = parts.hostname, parts.port
        self.path = parts.path
        self.token = parts.fragment
        self.cookie = ""
        self.name = parts.netloc
        """As the browser calls the host."""

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str | None] | None = None
    ) -> Answered:
        """A request to a path below that of the link, or from the root if it begins with a slash."""
        async with self._asked(method, path, body, headers) as (status, told, reader):
            return Answered(status, told, await reader.read())

    async def post(self, path: str, content: object, headers: Mapping[str, str | None] | None = None) -> Answered:
        return await self.ask("POST", path, json.dumps(content).encode(), headers)

    async def enter(self) -> Answered:
        """Exchanges the link's token for a session, and keeps its cookie."""
        answered = await self.post("session", {"token": self.token})
        self.cookie = answered.headers.get("set-cookie", self.cookie).partition(";")[0]
        return answered

    async def answer(self, number: int, answer: str, **rest: object) -> Answered:
        return await self.post("answer", {"id": number, "answer": answer, **rest})

    @contextlib.asynccontextmanager
    async def page(self) -> AsyncIterator[Updates]:
        """An open page."""
        async with self._asked("GET", "updates", b"", None) as (status, headers, reader):
            assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
            yield Updates(reader)

    @contextlib.asynccontextmanager
    async def _asked(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str | None] | None
    ) -> AsyncIterator[tuple[int, dict[str, str], asyncio.StreamReader]]:
        sent: dict[str, str | None] = {"host": self.name, "cookie": self.cookie or None}
        if method == "POST":
            sent |= {"origin": f"http://{self.name}", "content-length": str(len(body))}
        sent |= headers or {}
        lines = [f"{method} {path if path.startswith('/') else self.path + path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in sent.items() if value is not None]
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
            told = dict(
                line.lower().split(": ", 1) if "cookie" not in line.lower() else line.split(": ", 1)
                for line in head[1:-1]
            )
            yield int(head[0].split()[1]), told, reader
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
