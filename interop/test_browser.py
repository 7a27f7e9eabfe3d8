"""The pages of examples/browser in a real browser: js-libp2p there, the example's peer here, and a person at its terminal."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from stronghold_p2p import Keypair

from . import build
from .chromium import Page, opened
from .driver import WAIT

pytestmark = pytest.mark.asyncio(loop_scope="session")

READY = "document.querySelector('button:enabled')"
RESERVED = "(document.getElementById('reservation').dataset.state === 'open')"
NEWEST = "document.querySelector('#requests li')"
PARTS = f"['code', '.state', '.detail'].map(part => {NEWEST}.querySelector(part).textContent)"
"""What the newest request's entry tells: the request, its state, and a detail."""

REJECTED = "The peer closed the stream without a response."
COMMAND = ("-m", "stronghold_p2p")
RELAY = (*COMMAND, "relay")
PLACES = ("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws")
"""Of the relay."""

NOT_OFFERED = "The peer does not offer this protocol to us: it rejects all that we ask."


class Terminal:
    """A program, and the person at its terminal."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def line(self, start: str = "") -> str:
        """The next line that it prints and that begins with ``start``."""
        assert self._process.stdout is not None
        async with asyncio.timeout(WAIT):
            while line := (await self._process.stdout.readline()).decode():
                if line.startswith(start):
                    return line.rstrip("\n")
        raise AssertionError("it has ended")

    def answer(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n".encode())

    async def close(self) -> None:
        self._process.terminate()
        await self._process.wait()


@contextlib.asynccontextmanager
async def serving(folder: Path, *options: str) -> AsyncIterator[Terminal]:
    """The example's peer, which serves the pages in ``folder``."""
    async with running(str(build.PAGE / "serve.py"), str(folder), *options) as terminal:
        yield terminal


@contextlib.asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[Terminal]:
    """A program in Python."""
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdin=PIPE, stdout=PIPE)
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


async def test_page_through_a_relay(tmp_path: Path) -> None:
    """The page, and a Python peer that has no address of its own, ask each other."""
    folder = await asyncio.to_thread(build.build_page)
    key = tmp_path / "relay.pem"
    Keypair.generate().save(key)
    async with contextlib.AsyncExitStack() as stack:
        relay = await stack.enter_async_context(running(*RELAY, *PLACES, "--key", str(key)))
        tcp, ws = [(await relay.line("listening on")).split()[-1] for _ in PLACES]
        terminal = await stack.enter_async_context(serving(folder, "--relay", ws))
        url = (await terminal.line()).removeprefix("Open ")
        assert f"/relay.html#{ws}/p2p-circuit/p2p/" in url
        page = await stack.enter_async_context(opened(url, tmp_path / "profile"))
        await page.wait_for(f"{READY} && {RESERVED}")
        us, own = await text_of(page, "self"), await text_of(page, "own")
        assert own in {f"{address}/p2p-circuit/p2p/{us}" for address in (tcp, ws)}
        assert await text_of(page, "connection") == "not connected"

        await page.click("#ping button")
        assert await ended(page) == ['"Ping"', "answered", '"pong"']
        assert await text_of(page, "connection") == "connected through a relay"
        await page.click("#sign button")
        assert await terminal.line() == f"Sign 'I owe you a coffee' for {us}? yes, no or never"
        terminal.answer("yes")
        _, state, signature = await ended(page)
        assert (state, len(signature)) == ("answered", 130)
        await page.click("#erase button")
        assert await ended(page) == ['"Erase"', "rejected", REJECTED]

        for address in tcp, ws:
            assert await asked(f"{address}/p2p-circuit/p2p/{us}", '"Ping"') == '"pong"'
        assert '"error":"NoResponse"' in await asked(own, '"Erase"', "--json")
        received = "[...document.querySelectorAll('#received .state')].map(state => state.textContent)"
        assert await page.evaluate(received) == ["rejected", "answered", "answered"]
        (tmp_path / "relay.png").write_bytes(await page.screenshot())
        assert page.complaints == []

        # The relay restarts. The peer comes back by itself, and the page with its next request.
        await relay.close()
        await page.wait_for(f"!{RESERVED} && document.getElementById('connection').dataset.state === 'closed'")
        assert await text_of(page, "own") == "…"
        places = [address.partition("/p2p/")[0] for address in (tcp, ws)]
        relay = await stack.enter_async_context(running(*RELAY, *places, "--key", str(key)))
        await relay.line(f"listening on  {ws}")
        state = "failed"
        while state != "answered":
            assert state == "failed"
            await page.click("#ping button")
            _, state, _ = await ended(page)
        await page.wait_for(RESERVED)
        assert await asked(await text_of(page, "own"), '"Ping"') == '"pong"'


async def test_page_through_a_relay_without_one(tmp_path: Path) -> None:
    """It fits a narrow screen, and reserves at the first relay through which it dials."""
    folder = await asyncio.to_thread(build.build_page)
    async with running(*RELAY, *PLACES) as relay:
        _, ws = [(await relay.line("listening on")).split()[-1] for _ in PLACES]
        async with serving(folder, "--relay", ws) as terminal:
            url, _, address = (await terminal.line()).removeprefix("Open ").partition("#")
            async with opened(url, tmp_path / "profile") as page:
                await page.call(
                    "Emulation.setDeviceMetricsOverride", width=360, height=800, deviceScaleFactor=1, mobile=True
                )
                await page.wait_for(READY)
                assert await text_of(page, "reservation") == "no reservation"
                await page.click("#ping button")
                await page.type(address)
                await page.click("#ping button")
                assert await ended(page) == ['"Ping"', "answered", '"pong"']
                await page.wait_for(RESERVED)
                assert await page.evaluate("document.documentElement.scrollWidth") == 360
                assert page.complaints == []


async def asked(address: str, *arguments: str) -> str:
    """What a peer in Python prints that asks the page."""
    asking = await asyncio.create_subprocess_exec(sys.executable, *COMMAND, "request", address, *arguments, stdout=PIPE)
    async with asyncio.timeout(WAIT):
        told, _ = await asking.communicate()
    return told.decode().strip()


async def text_of(page: Page, name: str) -> str:
    """The text of the element with this id."""
    text = await page.evaluate(f"document.getElementById('{name}').textContent")
    assert isinstance(text, str)
    return text


async def ended(page: Page) -> list[str]:
    """What the entry of the newest request tells when the request has ended."""
    told = await page.wait_for(f"{NEWEST} && !['sent', 'waiting'].includes({NEWEST}.dataset.state) && {PARTS}")
    assert isinstance(told, list)
    return told
