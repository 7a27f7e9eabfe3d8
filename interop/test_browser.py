"""The page of examples/browser in a real browser: js-libp2p there, the example's peer here, and a person at its terminal."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from . import build
from .chromium import Page, opened
from .driver import WAIT

pytestmark = pytest.mark.asyncio(loop_scope="session")

READY = "document.querySelector('button:enabled')"
NEWEST = "document.querySelector('#requests li')"
PARTS = f"['code', '.state', '.detail'].map(part => {NEWEST}.querySelector(part).textContent)"
"""What the newest request's entry tells: the request, its state, and a detail."""

REJECTED = "The peer closed the stream without a response."
NOT_OFFERED = "The peer does not offer this protocol to us: it rejects all that we ask."


class Terminal:
    """The example's peer, and the person at its terminal."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def line(self) -> str:
        """The next line that it prints."""
        assert self._process.stdout is not None
        async with asyncio.timeout(WAIT):
            return (await self._process.stdout.readline()).decode().rstrip("\n")

    def answer(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n".encode())

    async def close(self) -> None:
        self._process.terminate()
        await self._process.wait()


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Terminal]:
    """The example's peer, which serves the page in ``folder``."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(build.PAGE / "serve.py"), str(folder), stdin=PIPE, stdout=PIPE
    )
    terminal = Terminal(process)
    try:
        yield terminal
    finally:
        if process.returncode is None:
            await terminal.close()


async def test_page(tmp_path: Path) -> None:
    folder = await asyncio.to_thread(build.build_page)
    async with serving(folder) as terminal:
        url = (await terminal.line()).removeprefix("Open ")
        async with opened(url, tmp_path / "profile") as page:
            await page.wait_for(READY)
            us = await page.evaluate("document.getElementById('self').textContent")
            assert await page.evaluate("document.getElementById('connection').textContent") == "not connected"

            await page.click("#ping button")
            assert await ended(page) == ['"Ping"', "answered", '"pong"']
            assert await page.evaluate("document.getElementById('connection').textContent") == "connected"

            # A person is asked. The page says how long it waits.
            await page.evaluate("document.getElementById('text').select()")
            await page.type("ключ & <b>key</b>")
            await page.click("#sign button")
            assert await terminal.line() == f"Sign 'ключ & <b>key</b>' for {us}? yes, no or never"
            await page.wait_for(f"{NEWEST}.dataset.state === 'waiting' && {NEWEST}.querySelector('time').textContent")
            request = '{"Sign":{"text":"ключ & <b>key</b>"}}'
            assert await page.evaluate(PARTS) == [request, "waiting for approval", ""]
            assert re.fullmatch(r"\d+ s", await page.evaluate(f"{NEWEST}.querySelector('time').textContent"))
            (tmp_path / "waiting.png").write_bytes(await page.screenshot())
            terminal.answer("yes")
            *told, signature = await ended(page)
            assert told == [request, "answered"]
            assert re.fullmatch('"[0-9a-f]{128}"', signature)

            await page.click("#sign button")
            await terminal.line()
            terminal.answer("no")
            assert await ended(page) == [request, "rejected", REJECTED]

            await page.click("#erase button")
            assert await ended(page) == ['"Erase"', "rejected", REJECTED]

            # From now on the peer does not even offer the protocol to this page.
            await page.click("#sign button")
            await terminal.line()
            terminal.answer("never")
            assert await ended(page) == [request, "rejected", REJECTED]
            await page.click("#ping button")
            assert await ended(page) == ['"Ping"', "not offered", NOT_OFFERED]

            (tmp_path / "ended.png").write_bytes(await page.screenshot())
            assert page.complaints == []

            address = await page.evaluate("document.getElementById('address').value")
            await terminal.close()
            await page.wait_for("document.getElementById('connection').dataset.state === 'closed'")
            await page.click("#ping button")
            assert await ended(page) == ['"Ping"', "failed", f"Could not connect to {address}"]


async def test_page_while_the_peer_goes_away(tmp_path: Path) -> None:
    folder = await asyncio.to_thread(build.build_page)
    async with serving(folder) as terminal:
        url = (await terminal.line()).removeprefix("Open ")
        async with opened(url, tmp_path / "profile") as page:
            await page.wait_for(READY)
            await page.click("#sign button")
            await terminal.line()
            await terminal.close()
            *_, state, detail = await ended(page)
            assert (state, detail) == ("failed", "The connection was lost. Whether the request was handled is unknown.")


async def test_page_without_a_peer(tmp_path: Path) -> None:
    """It fits a narrow screen, its controls have names, and it asks for an address."""
    folder = await asyncio.to_thread(build.build_page)
    async with serving(folder) as terminal:
        url = (await terminal.line()).removeprefix("Open ").partition("#")[0]
        async with opened(url, tmp_path / "profile") as page:
            await page.call(
                "Emulation.setDeviceMetricsOverride", width=360, height=800, deviceScaleFactor=1, mobile=True
            )
            await page.wait_for(READY)
            nodes = (await page.call("Accessibility.getFullAXTree"))["nodes"]
            named = [(node["role"]["value"], node["name"]["value"]) for node in nodes if "name" in node]
            assert [name for role, name in named if role == "button"] == ["Ping", "Sign", "Erase"]
            assert [name for role, name in named if role == "textbox"] == ["Address of the peer", "Text to sign"]

            await page.click("#ping button")
            assert await page.evaluate("document.activeElement.id") == "address"
            await page.type("/ip4/nowhere")
            await page.click("#ping button")
            assert (await ended(page))[:2] == ['"Ping"', "failed"]
            assert await page.evaluate("document.documentElement.scrollWidth") == 360
            assert page.complaints == []


async def ended(page: Page) -> list[str]:
    """What the entry of the newest request tells when the request has ended."""
    told = await page.wait_for(f"{NEWEST} && !['sent', 'waiting'].includes({NEWEST}.dataset.state) && {PARTS}")
    assert isinstance(told, list)
    return told
