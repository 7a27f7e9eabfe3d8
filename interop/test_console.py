"""The console's page in a real browser: questions appear, answers pass requests, and nothing a remote sends does harm."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from stronghold_p2p import FirewallRules, NoResponse, Rule, StrongholdP2p
from stronghold_p2p.cli import output
from stronghold_p2p.cli.console.server import Console

from .chromium import Page, opened
from .driver import WAIT

pytestmark = pytest.mark.asyncio(loop_scope="session")

Peer = StrongholdP2p[Any, Any]
SIGN = {"type": "Sign", "document": "contract.pdf"}
CARD = "document.querySelector('.card:not([data-ended])')"
LIVE = "document.querySelector('#link').dataset.state === 'live'"


@contextlib.asynccontextmanager
async def console() -> AsyncIterator[tuple[Peer, Peer, list[str]]]:
    """bob with a console, alice who asks him, and the links that were printed."""
    links: list[str] = []
    async with (
        StrongholdP2p[Any, Any](firewall=FirewallRules(inbound=Rule.ASK)) as bob,
        StrongholdP2p[Any, Any]() as alice,
    ):
        bob.on_request(lambda request: request.body)
        await bob.listen()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(output, "result", lambda record, text: links.append(record["url"]))
            its = Console(bob, ("127.0.0.1", 0))
            its.open()
            running = asyncio.create_task(its.run())
            try:
                yield bob, alice, links
            finally:
                running.cancel()
                await asyncio.wait([running])


@pytest_asyncio.fixture(loop_scope="session")
async def shown(tmp_path: Path) -> AsyncIterator[tuple[Peer, Peer, Page, list[str]]]:
    async with console() as (bob, alice, links), opened(links[0], tmp_path) as page:
        await page.wait_for(LIVE)
        yield bob, alice, page, links
        assert page.complaints == []


def send(alice: Peer, bob: Peer, body: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(alice.send_request(bob.listeners[0].address, body, timeout=WAIT))


async def press(page: Page, key: str, code: int, text: str = "") -> None:
    await page.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, windowsVirtualKeyCode=code, text=text)
    await page.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)


async def tab_to(page: Page, condition: str) -> None:
    """Presses Tab until the element that has the focus fulfils the condition."""
    for _ in range(40):
        await press(page, "Tab", 9)
        if await page.evaluate(f"(element => {condition})(document.activeElement)"):
            return
    raise AssertionError(f"not reached by the keyboard: {condition}")


async def remove_the_only_one(page: Page, question: str) -> None:
    """The rule, or ban, with a button; ``question`` is what one must be sure of."""
    await page.click("#rules button")
    assert question in await page.evaluate("document.querySelector('#sure').innerText")
    await page.click("#sure [data-sure=yes]")
    await page.wait_for("document.querySelector('#rules button') === null")


async def ask_and_allow_once(alice: Peer, bob: Peer, page: Page) -> None:
    request = send(alice, bob, SIGN)
    await page.wait_for(CARD)
    await page.click(".card:not([data-ended]) [data-answer=once]")
    assert await request == SIGN


async def test_a_question_appears_and_an_answer_passes_the_request(shown: tuple[Peer, Peer, Page, list[str]]) -> None:
    bob, alice, page, links = shown
    assert await page.evaluate("[location.hash, document.cookie, document.title]") == ["", "", "Stronghold"]
    assert len(links) == 2
    request = send(alice, bob, SIGN)
    text = await page.wait_for(f"{CARD}?.innerText")
    assert str(alice.peer_id) in text
    assert "it sends you Sign" in text
    assert '"document": "contract.pdf"' in text
    assert "s left" in text
    assert await page.evaluate("document.title") == "(1) Stronghold"
    await page.click(".card [data-answer=once]")
    assert await request == SIGN
    await page.wait_for("document.querySelector('.card .outcome').textContent === 'Allowed'")
    await page.wait_for("document.querySelector('#decisions li')?.innerText.includes('allowed')")
    request = send(alice, bob, SIGN)
    await page.wait_for(CARD)
    await page.click(".card:not([data-ended]) [data-for='3600']")
    assert await request == SIGN
    await page.wait_for("/✓ Sign[^]*until .* for 60 min more/.test(document.querySelector('#rules').innerText)")
    assert await send(alice, bob, SIGN) == SIGN  # unasked
    await remove_the_only_one(page, "Remove the rule for requests from")
    await ask_and_allow_once(alice, bob, page)


async def test_a_rejection_with_a_reason_and_a_ban_that_one_must_be_sure_of(
    shown: tuple[Peer, Peer, Page, list[str]],
) -> None:
    bob, alice, page, _ = shown
    request = send(alice, bob, SIGN)
    await page.wait_for(CARD)
    await page.click(".card .reason")
    await page.type("not today")
    await page.click(".card [data-answer=reject]")
    with pytest.raises(NoResponse):
        await request
    await page.wait_for("document.querySelector('.card .outcome').textContent === 'Rejected: not today'")
    request = send(alice, bob, SIGN)
    await page.wait_for(CARD)
    await page.click(".card:not([data-ended]) [data-answer=ban]")
    await page.click("#sure [data-sure=no]")
    await page.click(".card:not([data-ended]) [data-answer=ban]")
    assert "can connect no more" in await page.evaluate("document.querySelector('#sure').innerText")
    await page.click("#sure [data-sure=yes]")
    with pytest.raises(NoResponse):
        await request
    await page.wait_for("document.querySelector('#connections .none').checkVisibility()")
    assert not bob.connections
    await page.wait_for("/banned: no connection/.test(document.querySelector('#rules').innerText)")
    await remove_the_only_one(page, "Lift the ban of")
    await ask_and_allow_once(alice, bob, page)


async def test_two_tabs_agree(shown: tuple[Peer, Peer, Page, list[str]]) -> None:
    bob, alice, page, links = shown
    async with page.another(links[0].partition("#")[0]) as other:
        await other.wait_for(LIVE)
        request = send(alice, bob, SIGN)
        await page.wait_for(CARD)
        await other.wait_for(CARD)
        await other.click(".card [data-answer=once]")
        assert await request == SIGN
        for each in page, other:
            await each.wait_for("document.querySelector('.card .outcome').textContent === 'Allowed'")
            assert await each.evaluate(f"{CARD} === null && document.title === 'Stronghold'")
        assert other.complaints == []


async def test_a_hostile_request_does_no_harm(shown: tuple[Peer, Peer, Page, list[str]]) -> None:
    bob, alice, page, _ = shown
    await page.evaluate(
        "window.harmed = false; window.elements = document.querySelectorAll('script, img, iframe, a').length"
    )
    attack = "<img src=x onerror='harmed = true'><script>harmed = true</script><a href='javascript:harmed = true'>\u202e\u0000</a>"
    hostile = {"type": f"{attack}{'W' * 500}", "body": [attack, "</pre></li>", "W" * 3000], attack: attack}
    bob.set_name(alice.peer_id, "<b>alice</b><script>harmed = true</script>")
    request = send(alice, bob, hostile)
    text = await page.wait_for(f"{CARD}?.innerText")
    assert "<b>alice</b><script>" in text
    assert "<img src=x onerror=" in text
    assert "\u202e" not in text
    await page.click(".card [data-answer=reject]")
    with pytest.raises(NoResponse):
        await request
    await page.wait_for("document.querySelector('#decisions li')?.innerText.includes('rejected')")
    assert await page.evaluate(
        "window.harmed === false && elements === document.querySelectorAll('script, img, iframe, a').length"
    )
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_the_keyboard_is_enough(shown: tuple[Peer, Peer, Page, list[str]]) -> None:
    bob, alice, page, _ = shown
    first, second = send(alice, bob, SIGN), send(alice, bob, {"type": "Wipe"})
    await page.wait_for("document.querySelectorAll('.card').length === 2")
    news = "document.querySelector('#news').textContent"
    assert "New question" in await page.evaluate(news)
    await tab_to(page, "element.dataset.answer === 'once'")
    await press(page, "Enter", 13, "\r")
    assert await first == SIGN
    await page.wait_for("document.querySelector('.card .outcome').textContent === 'Allowed'")
    assert "Allowed" in await page.evaluate(news)
    assert await page.evaluate("document.activeElement.dataset.id") == "2"  # on to the next question
    await tab_to(page, "element.dataset.answer === 'all'")
    await press(page, "Enter", 13, "\r")
    assert await page.evaluate("document.activeElement.dataset.sure") == "no"  # a second Enter does no harm
    await press(page, "Tab", 9)
    await press(page, "Enter", 13, "\r")
    assert await second == {"type": "Wipe"}
    assert bob.get_firewall_config().peers[alice.peer_id][0] == Rule.ALLOW_ALL


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_phone_shows_it_without_scrolling_sideways(
    shown: tuple[Peer, Peer, Page, list[str]], scheme: str
) -> None:
    bob, alice, page, _ = shown
    await page.call("Emulation.setDeviceMetricsOverride", width=320, height=640, deviceScaleFactor=2, mobile=True)
    await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    request = send(alice, bob, {"type": "W" * 100, "text": "W" * 2000, "lines": ["w"] * 100})
    await page.wait_for(CARD)
    assert await page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [320, 320]
    least = "Math.min(...[...document.querySelectorAll('.card button')].filter(b => b.checkVisibility()).map(b => b.offsetHeight))"
    assert await page.evaluate(least) >= 40  # for fingers
    await page.click(".card [data-answer=once]")
    await request


async def test_a_page_without_the_peer_says_so_and_comes_back(tmp_path: Path) -> None:
    async with console() as (_, _, links), opened(links[0], tmp_path) as page:
        await page.wait_for(LIVE)
        stranger = links[0].partition("#")[0]
        await page.call("Network.clearBrowserCookies")
        await page.load(stranger)
        notice = await page.wait_for("document.querySelector('#notice:not([hidden])')?.textContent")
        assert notice == "This browser is not signed in: open the link that the terminal shows."
        await page.load("about:blank")
        await page.load(links[-1])
        await page.wait_for(LIVE)
