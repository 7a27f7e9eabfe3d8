"""Chromium without a window, by the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from .driver import WAIT

__all__ = ["Page", "opened"]

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")

FLAGS = (
    "--headless",
    "--no-sandbox",  # root has none, and the page is ours
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    # It reaches for its maker's hosts otherwise.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=800,1100",
    "--remote-debugging-port=0",
)

MAX_MESSAGE = 2**26
"""Bytes; a screenshot is one message."""


class Page:
    """A page in the browser."""

    def __init__(self, devtools: ClientConnection, host: str = "") -> None:
        """``host``: where the browser has the connections for its pages."""
        self._devtools = devtools
        self._host = host
        self._numbers = itertools.count()
        self.complaints: list[Any] = []
        """What the browser has told of errors: exceptions, what the page may not load, what it could not load."""

    async def load(self, url: str) -> None:
        """Returns when the page and its scripts are loaded."""
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)
        while (await self._receive()).get("method") != "Page.loadEventFired":
            pass

    @contextlib.asynccontextmanager
    async def another(self, url: str) -> AsyncIterator[Page]:
        """Another page in the same browser, for as long as the context."""
        target = (await self.call("Target.createTarget", url="about:blank"))["targetId"]
        async with connect(f"{self._host}/devtools/page/{target}", max_size=MAX_MESSAGE) as devtools:
            page = Page(devtools, self._host)
            await page.load(url)
            yield page

    async def click(self, selector: str) -> None:
        """Clicks with the mouse at the middle of an element, as a person does."""
        x, y = await self.evaluate(
            f"(element => {{ element.scrollIntoView(); const box = element.getBoundingClientRect();"
            f" return [box.x + box.width / 2, box.y + box.height / 2] }})(document.querySelector({json.dumps(selector)}))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def type(self, text: str) -> None:
        """Puts text where the focus is."""
        await self.call("Input.insertText", text=text)

    async def wait_for(self, condition: str) -> Any:
        """Waits until an expression of JavaScript is true (looked at when the document changes); returns its value."""
        return await self.evaluate(
            "new Promise(resolve => {"
            f" const look = () => {{ const value = {condition}; if (value) {{ observer.disconnect(); resolve(value) }} }};"
            " const observer = new MutationObserver(look);"
            " observer.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });"
            " look() })"
        )

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript; of a promise, what it resolves to."""
        done = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def screenshot(self) -> bytes:
        """The whole page as a PNG image."""
        taken = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(taken["data"])

    async def call(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        await self._devtools.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (message := await self._receive()).get("id") != number:
            pass
        assert "error" not in message, (method, message)
        return message["result"]

    async def _receive(self) -> dict[str, Any]:
        async with asyncio.timeout(WAIT):
            message: dict[str, Any] = json.loads(await self._devtools.recv())
        if message.get("method") == "Runtime.exceptionThrown" or (
            message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error"
        ):
            self.complaints.append(message["params"])
        return message


@contextlib.asynccontextmanager
async def opened(url: str, profile: Path) -> AsyncIterator[Page]:
    """A page in a browser of its own, whose files lie in ``profile``, for as long as the context."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    assert program, f"no browser: none of {', '.join(PROGRAMS)} is in PATH (Debian: apt-get install chromium)"
    command = (program, *FLAGS, f"--user-data-dir={profile}")
    # With room for all that it ever complains of: nobody reads that.
    browser = await asyncio.create_subprocess_exec(*command, stderr=PIPE, limit=MAX_MESSAGE)
    try:
        address = await _devtools_address(browser)
        async with connect(address) as devtools:
            target = (await Page(devtools).call("Target.createTarget", url="about:blank"))["targetId"]
        host = address.partition("/devtools/")[0]
        async with connect(f"{host}/devtools/page/{target}", max_size=MAX_MESSAGE) as devtools:
            page = Page(devtools, host)
            await page.load(url)
            yield page
            await page.call("Browser.close")
    finally:
        if browser.returncode is None:
            browser.terminate()
        await browser.wait()


async def _devtools_address(browser: asyncio.subprocess.Process) -> str:
    """Where it listens for tools, as it says on its standard error."""
    assert browser.stderr is not None
    said = []
    async with asyncio.timeout(WAIT):
        while line := (await browser.stderr.readline()).decode():
            said.append(line)
            if line.startswith("DevTools listening on "):
                return line.split()[-1]
    raise AssertionError("the browser ended: " + "".join(said))
