"""The console: who gets in, what pages are told, and what their answers do. Without a browser; interop has one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from conftest import MakePeer
from support.browser import Browser
from support.waiting import next_event, settled, until

from stronghold_p2p import (
    Config,
    FirewallRequestOpened,
    NoResponse,
    PeerId,
    Rule,
    StrongholdError,
)
from stronghold_p2p.cli import output
from stronghold_p2p.cli.command import UsageError
from stronghold_p2p.cli.console import desk, server
from stronghold_p2p.cli.console.access import MAX_PAGES, MAX_SESSIONS
from stronghold_p2p.cli.console.place import parse_place
from stronghold_p2p.cli.console.records import MAX_VIEW
from stronghold_p2p.cli.console.server import HEADERS, MAX_BODY, MAX_CONNECTIONS, Console

from .conftest import WAIT, Cli, Peer, asked, failed, process, send


class Links:
    """The links that the console prints."""

    def __init__(self) -> None:
        self.printed: list[str] = []

    def show(self, record: Any, text: str) -> None:
        assert record == {"event": "console", "url": text[14:]}
        self.printed.append(record["url"])

    def browser(self) -> Browser:
        """One that opens the newest link."""
        return Browser(self.printed[-1])

    async def inside(self) -> Browser:
        """One that has opened it."""
        browser = self.browser()
        assert (await browser.enter()).status == 204
        return browser


@contextlib.asynccontextmanager
async def serving(peer: Peer, monkeypatch: pytest.MonkeyPatch, **options: Any) -> AsyncIterator[Links]:
    links = Links()
    monkeypatch.setattr(output, "result", links.show)
    console = Console(peer, ("127.0.0.1", 0), interval=0, **options)
    console.open()
    running = asyncio.create_task(console.run())
    try:
        yield links
    finally:
        running.cancel()
        await asyncio.wait([running])


@pytest.fixture
async def links(bob: Peer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Links]:
    """Of a console of bob's."""
    async with serving(bob, monkeypatch) as links:
        yield links


# -- who gets in ---------------------------------------------------------------------------------------


async def test_a_link_is_good_once_and_then_there_is_another(links: Links) -> None:
    browser = links.browser()
    entered = await browser.enter()
    assert entered.status == 204
    assert re.fullmatch(
        rf"stronghold_console=[\w-]{{43}}; HttpOnly; Path={browser.path}; SameSite=strict",
        entered.headers["set-cookie"],
    )
    thief = Browser(links.printed[0])
    refused = await thief.enter()
    assert (refused.status, "set-cookie" in refused.headers) == (403, False)
    assert len(set(links.printed)) == 2
    assert (await links.inside()).cookie not in ("", browser.cookie)


async def test_without_a_session_a_page_learns_nothing(bob: Peer, links: Links) -> None:
    stranger = links.browser()
    for cookie in "", "stronghold_console=guessed", "stronghold_console=\xe9":
        stranger.cookie = cookie
        async with stranger.page() as page:
            assert await page.next() == {"end": server.NO_SESSION}
            with pytest.raises(EOFError):
                await page.next()
        assert (await stranger.answer(1, "once")).status == 401


async def test_the_page_itself_tells_nothing_and_every_response_is_guarded(bob: Peer, links: Links) -> None:
    stranger = links.browser()
    kinds = {"": "text/html", "page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
    for path, kind in kinds.items():
        answered = await stranger.ask("GET", path)
        assert (answered.status, answered.headers["content-type"].partition(";")[0]) == (200, kind)
        assert str(bob.peer_id).encode() not in answered.body
        assert not re.search(
            rb"<script(?! type=\"module\" src=)| style=|\son[a-z]+=\"|https?://(?!www\.w3\.org/2000/svg)", answered.body
        )
    for method, path in ("GET", ""), ("GET", "/"), ("GET", "missing"), ("POST", "session"), ("PUT", "answer"):
        answered = await stranger.ask(method, path)
        assert {name: answered.headers.get(name) for name in HEADERS} == {
            name: value.lower() for name, value in HEADERS.items()
        }


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example:80"},
        {"host": "evil.example:127.0.0.1"},
        {"host": "localhost@evil.example"},
        {"host": ""},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "null"},
        {"origin": None},
        {"host": "evil.example", "origin": "http://evil.example"},
    ],
    ids=str,
)
async def test_other_sites_in_the_same_browser_are_refused(links: Links, headers: dict[str, str | None]) -> None:
    browser = await links.inside()
    answered = await browser.post("answer", {"id": 1, "answer": "once"}, headers)
    assert (answered.status, answered.json) == (403, json.loads(bytes(server.REFUSED.body)))
    if headers != {"origin": None}:  # browsers send none with the page's own GET
        assert (await browser.ask("GET", "", headers=headers)).status == 403


@pytest.mark.parametrize("name", ["localhost", "localhost:1", "127.0.0.1:1", "[::1]:1"])
async def test_a_port_may_be_forwarded(links: Links, name: str) -> None:
    browser = links.browser()
    browser.name = name
    assert (await browser.enter()).status == 204


async def test_only_a_loopback_address_can_be_given() -> None:
    assert parse_place("") == ("127.0.0.1", 0)
    assert parse_place("8080") == ("127.0.0.1", 8080)
    assert parse_place("localhost:8080") == ("127.0.0.1", 8080)
    assert parse_place("127.5.5.5:1") == ("127.5.5.5", 1)
    assert parse_place("[::1]:65535") == ("::1", 65535)
    for text in "0.0.0.0:1", "192.0.2.1:1", "[::]:1", "[2001:db8::1]:1":
        with pytest.raises(UsageError, match="loopback"):
            parse_place(text)
    for text in "host:1", "127.0.0.1:", "65536", "-1", "127.0.0.1:\u0661", "1:2:3", "127.0.0.1":
        with pytest.raises(UsageError, match="expected PORT or ADDR:PORT"):
            parse_place(text)


async def test_nothing_secret_is_in_the_log(
    bob: Peer, alice: Peer, links: Links, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in "uvicorn.error", "uvicorn.access":
        assert logging.getLogger(name).getEffectiveLevel() >= logging.CRITICAL
    browser = await links.inside()
    request = send(alice, bob, {"type": "Sign"})
    async with browser.page() as page:
        await page.questions()
        assert (await browser.answer(1, "once")).status == 204
        await request
    secrets = [part for link in links.printed for part in re.split("[/#]", link)[-3:]] + [browser.cookie[-43:]]
    assert [secret for secret in secrets if secret and secret in caplog.text] == []


# -- questions and answers -----------------------------------------------------------------------------


async def test_a_question_appears_and_an_answer_passes_the_request(bob: Peer, alice: Peer, links: Links) -> None:
    browser = await links.inside()
    async with browser.page() as page:
        assert (await page.next())["peer"] == str(bob.peer_id)
        request = send(alice, bob, {"type": "Sign", "document": "contract"})
        (question,) = await page.questions()
        address = str(bob.connections[0].address)
        expected = {
            "id": 1,
            "kind": "request",
            "peer": str(alice.peer_id),
            "name": None,
            "direction": "inbound",
            "type": "Sign",
            "path": "directly",
            "address": address,
            "network": "127.0.0.1/32",
            "whole": True,
            "view": '{\n  "type": "Sign",\n  "document": "contract"\n}',
            "need": 1,
            "agreed": 0,
            "waiting": 1,
        }
        left = question.pop("expires") - page.shown["now"]
        assert question == expected
        assert 0 < left <= Config().firewall_timeout
        assert (await browser.answer(1, "once")).status == 204
        assert await request == {"type": "Sign", "document": "contract"}
        end = await page.ends(1)
        assert (end["outcome"], end["by"], end["type"]) == ("approved", "person", "Sign")
        while not page.shown["decisions"]:
            await page.next()
        decision = page.shown["decisions"][0]
        assert (decision["allowed"], decision["by"], decision["how"]) == (True, "person", "approved")


@pytest.mark.parametrize(
    ("answer", "rest", "rule"),
    [
        ("type", {"for": 3600}, (["Sign", "allow"], "ask", True)),
        ("type", {}, (["Sign", "allow"], "ask", False)),
        ("all", {}, (None, "allow", False)),
        ("all", {"for": 60}, (None, "allow", True)),
    ],
)
async def test_an_answer_for_more_sets_a_rule_that_the_page_shows(
    bob: Peer, alice: Peer, links: Links, answer: str, rest: dict[str, Any], rule: tuple[list[str] | None, str, bool]
) -> None:
    browser = await links.inside()
    async with browser.page() as page:
        request = send(alice, bob, {"type": "Sign"})
        await page.questions()
        assert (await browser.answer(1, answer, **rest)).status == 204
        await request
        while not (own := [its for its in page.shown["rules"]["listed"] if its["peer"] == str(alice.peer_id)]):
            await page.next()
        (told,) = own
        said = told["says"][0]
        its_type, otherwise, ends = rule
        assert (said["types"], said["otherwise"]) == ([its_type] if its_type else [], otherwise)
        assert (said["until"] is not None) is ends
        assert (told["layer"], told["direction"]) == ("peer", "inbound")
        assert await send(alice, bob, {"type": "Sign"}) == {"type": "Sign"}  # unasked


async def test_a_type_that_is_not_shown_whole_is_not_allowed_by_its_name(bob: Peer, alice: Peer, links: Links) -> None:
    browser = await links.inside()
    async with browser.page() as page:
        request = send(alice, bob, {"type": "x" * 101})
        (question,) = await page.questions()
        assert not question["whole"]
        assert (await browser.answer(1, "type")).status == 409
        assert (await browser.answer(1, "once")).status == 204
        await request


async def test_a_rejection_with_its_reason(bob: Peer, alice: Peer, links: Links) -> None:
    browser = await links.inside()
    async with browser.page() as page:
        request = send(alice, bob, 1)
        await page.questions()
        assert (await browser.answer(1, "type")).status == 409  # it has none
        assert (await browser.answer(1, "reject", reason="not today")).status == 204
        assert isinstance(await failed(request), NoResponse)
        end = await page.ends(1)
        assert (end["outcome"], end["reason"]) == ("rejected", "not today")


async def test_a_ban_and_its_end(bob: Peer, alice: Peer, links: Links) -> None:
    browser = await links.inside()
    async with browser.page() as page:
        request = send(alice, bob, 1)
        await page.questions()
        assert (await browser.answer(1, "ban")).status == 204
        assert isinstance(await failed(request), StrongholdError)
        await until(lambda: not bob.connections)
        while page.shown["connections"]["listed"]:
            await page.next()
        while page.shown["rules"]["banned"] != [{"peer": str(alice.peer_id), "name": None}]:
            await page.next()
        assert (await browser.post("removal", {"peer": str(alice.peer_id), "what": "ban"})).status == 204
        while page.shown["rules"]["banned"]:
            await page.next()
        request = send(alice, bob, 2)
        (question,) = await page.questions()
        assert (await browser.answer(question["id"], "once")).status == 204
        assert await request == 2


async def test_a_rule_of_a_peer_is_removed(bob: Peer, alice: Peer, links: Links) -> None:
    removal = {"peer": str(alice.peer_id), "what": "inbound"}
    assert (await links.browser().post("removal", removal)).status == 401
    browser = await links.inside()
    bob.set_peer_rule(alice.peer_id, Rule.ALLOW_ALL)
    async with browser.page() as page:
        assert await send(alice, bob, 1) == 1
        assert (await browser.post("removal", removal)).status == 204
        request = send(alice, bob, 2)
        await page.questions()
        assert (await browser.answer(1, "once")).status == 204
        assert await request == 2
    assert bob.get_firewall_config().peers == {alice.peer_id: (None, Rule.ALLOW_ALL)}
    assert (await browser.post("removal", removal | {"peer": "nobody"})).status == 409
    assert (await browser.post("removal", removal | {"what": "both"})).status == 400


async def test_a_network_is_rejected(bob: Peer, alice: Peer, make_peer: MakePeer, links: Links) -> None:
    browser = await links.inside()
    carol = await make_peer()
    async with browser.page() as page:
        requests = [send(peer, bob, 1) for peer in (alice, carol)]
        await page.questions(2)
        assert (await browser.answer(2, "network")).status == 204
        for request in requests:
            assert isinstance(await failed(request), NoResponse)
        await page.questions(0)


async def test_pages_agree(bob: Peer, alice: Peer, links: Links) -> None:
    first, second = await links.inside(), await links.inside()
    async with first.page() as one, second.page() as other:
        request = send(alice, bob, 1)
        assert await one.questions() == await other.questions()
        assert (await first.answer(1, "once")).status == 204
        late = await second.answer(1, "reject")
        assert (late.status, late.json) == (409, {"message": "This question has ended."})
        assert await request == 1
        assert await one.ends(1) == await other.ends(1)
        assert await one.questions(0) == await other.questions(0) == []


async def test_it_stands_beside_other_answerers(bob: Peer, alice: Peer, links: Links) -> None:
    asked: asyncio.Queue[Any] = asyncio.Queue()
    bob.on_firewall_request(asked.put_nowait)
    browser = await links.inside()
    async with browser.page() as page:
        request = send(alice, bob, 1)
        await page.questions()
        (await asked.get()).approve()
        assert await request == 1
        assert (await page.ends(1))["by"] == "handler"


async def test_with_no_page_a_question_waits_unseen(
    bob: Peer, alice: Peer, links: Links, caplog: pytest.LogCaptureFixture
) -> None:
    """And so brings no quiet on the peer when it goes unanswered."""
    events = bob.events()
    for _ in range(2):
        request = send(alice, bob, {"type": "Sign"})
        await next_event(events, FirewallRequestOpened)
        request.cancel()
        await asyncio.wait([request])
    request = send(alice, bob, {"type": "Sign"})
    await next_event(events, FirewallRequestOpened)
    browser = await links.inside()
    async with browser.page() as page:
        (question,) = await page.questions()
        assert (await browser.answer(question["id"], "once")).status == 204
        await request
    assert [record.message for record in caplog.records] == [
        "a request waits for an answer in the console, and no page of it is open"
    ]


async def test_beside_a_terminal_no_page_is_missed(
    bob: Peer, alice: Peer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: asyncio.Queue[Any] = asyncio.Queue()
    bob.on_firewall_request(asked.put_nowait)
    async with serving(bob, monkeypatch, alone=False):
        request = send(alice, bob, 1)
        question = await asked.get()
        await settled()
        question.approve()
        assert await request == 1
    assert caplog.records == []


async def test_one_that_was_seen_does(bob: Peer, alice: Peer, links: Links) -> None:
    browser = await links.inside()
    async with browser.page() as page:
        request = send(alice, bob, {"type": "Sign"})
        await page.questions()
        request.cancel()
        await page.ends(1)
        assert isinstance(await failed(send(alice, bob, {"type": "Sign"})), NoResponse)


# -- what remotes send ---------------------------------------------------------------------------------

HOSTILE = "\x1b[2J\x07\u202e\u200b\u2028<script>alert(1)</script>\U0010ffff" + "\u0301" * 50


async def test_what_a_remote_sends_is_safe_and_short(bob: Peer, alice: Peer, links: Links) -> None:
    browser = await links.inside()
    async with browser.page() as page:
        request = send(alice, bob, {"type": HOSTILE + "x" * 500_000, "deep": [[HOSTILE] * 3] * 300})
        (question,) = await page.questions()
        assert (await browser.answer(1, "reject", reason=HOSTILE)).status == 204
        await failed(request)
        await page.ends(1)
        while not page.shown["decisions"]:
            await page.next()
    assert len(question["view"]) == MAX_VIEW
    assert len(page.raw) < 40_000
    texts = "".join(texts_in([json.loads(line[6:]) for line in page.raw.splitlines() if line.startswith(b"data: ")]))
    assert "<script>alert(1)</script>" in texts  # which the page shows as text
    for hidden in (*"\x1b\x07\u202e\u200b\u2028\U0010ffff", "\u0301" * 20):
        assert hidden not in texts


def texts_in(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            yield from texts_in([*value, *value.values()])
        case list():
            for item in value:
                yield from texts_in(item)


async def test_a_flood_hides_no_other_network(bob: Peer, links: Links, monkeypatch: pytest.MonkeyPatch) -> None:
    flood = [PeerId.from_bytes(b"\x12\x20" + number.to_bytes(32)) for number in range(60)]
    browser = await links.inside()
    async with browser.page() as page:
        requests = [asked(bob, peer, "/ip4/192.0.2.1/tcp/1") for peer in flood]
        await page.questions(desk.MAX_SHOWN)
        requests.append(
            asked(bob, alone := PeerId.from_bytes(b"\x12\x20" + bytes(32)[:-1] + b"\xff"), "/ip4/198.51.100.1/tcp/1")
        )
        await settled()
        for question in page.shown["questions"]["shown"][:2]:
            assert (await browser.answer(question["id"], "reject")).status == 204
        while str(alone) not in {told["peer"] for told in page.shown["questions"]["shown"]}:
            await page.next()
        for request in requests:
            request.cancel()
        await asyncio.wait(requests)


# -- limits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"{}",
        b'{"id":"1","answer":"once"}',
        b'{"id":1,"answer":"no"}',
        b'{"id":1,"answer":"once","more":1}',
        b'{"id":1,"answer":"type","for":-1}',
        b'{"id":1,"answer":"type","for":1e300}',
        b'{"id":1,"answer":"reject","reason":"' + b"x" * 201 + b'"}',
        b"\xff",
        b"[" * 5000,
    ],
    ids=repr,
)
async def test_a_malformed_answer_changes_nothing(links: Links, body: bytes) -> None:
    browser = await links.inside()
    assert (await browser.ask("POST", "answer", body)).status == 400
    assert (await browser.ask("POST", "session", body)).status == 400


async def test_a_body_has_a_limit(links: Links) -> None:
    browser = await links.inside()
    for path in "session", "answer", "removal":
        assert (await browser.ask("POST", path, b" " * (MAX_BODY + 1))).status == 413


async def test_a_head_has_a_limit(links: Links) -> None:
    with contextlib.suppress(ConnectionError):  # what it does not read may cut off its answer
        assert (await links.browser().ask("GET", "", headers={"x": "x" * 2_000_000})).status == 400


async def test_a_browser_keeps_so_many_pages(links: Links) -> None:
    browser, other = await links.inside(), await links.inside()
    async with contextlib.AsyncExitStack() as pages:
        for _ in range(MAX_PAGES):
            await (await pages.enter_async_context(browser.page())).next()
        async with browser.page() as page:
            assert await page.next() == {"end": server.MANY_PAGES}
        await (await pages.enter_async_context(other.page())).next()
    for _ in range(MAX_PAGES):  # those that are closed do not count
        async with browser.page() as page:
            await page.next()


async def test_so_many_browsers_are_in(links: Links, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ALIVE", 0.01)  # by then a page is told that its session has ended
    first = await links.inside()
    async with first.page() as page:
        await page.next()
        for _ in range(MAX_SESSIONS):
            last = await links.inside()
        while "end" not in page.shown:
            await page.next()
        assert page.shown["end"] == server.NO_SESSION
    assert (await first.answer(1, "once")).status == 401
    assert (await last.answer(1, "once")).status == 409


async def test_so_many_connections_are_held(links: Links) -> None:
    browser = await links.inside()
    idle = [await asyncio.open_connection(browser.host, browser.port) for _ in range(MAX_CONNECTIONS)]
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await browser.ask("GET", "")
    for _, writer in idle:
        writer.close()
        await writer.wait_closed()
    await settled()
    assert (await browser.ask("GET", "")).status == 200


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\n"])
async def test_a_request_has_to_come(
    links: Links, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, begun: bytes
) -> None:
    monkeypatch.setattr(server, "PATIENCE", 0.01)
    browser = links.browser()
    reader, writer = await asyncio.open_connection(browser.host, browser.port)
    begun = begun.replace(b"/ ", f"{browser.path}session ".encode()).replace(
        b"1.1\r\n", f"1.1\r\nhost: {browser.name}\r\norigin: http://{browser.name}\r\n".encode()
    )
    writer.write(begun)
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    await settled()
    assert caplog.records == []


async def test_a_page_that_reads_nothing_is_given_up(links: Links, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system takes no more for it."""
    monkeypatch.setattr(server, "STUCK", 0.01)
    monkeypatch.setattr(server, "ALIVE", 0)
    monkeypatch.setattr(server, "MAX_PAGES", 1)
    monkeypatch.setattr(server, "_event", lambda data: b"data: %b\n\n" % data + b": as much again\n" * 50_000)
    browser = await links.inside()
    async with browser.page() as unread:
        await unread.next()
        taken = False
        while not taken:  # its place
            with contextlib.suppress(EOFError, ConnectionError):  # we may be slow, too
                async with browser.page() as page:
                    taken = "end" not in await page.next()


# -- the command ---------------------------------------------------------------------------------------


def test_listen_prints_the_link_and_ends_in_order() -> None:
    with process("listen", "--console", "/ip4/127.0.0.1/tcp/0", "--json") as listener:
        assert listener.stdout is not None
        told = json.loads(listener.stdout.readline())
        assert json.loads(listener.stdout.readline())["event"] == "listening"
        browser = Browser(told["url"])

        async def stay() -> None:
            assert (await browser.enter()).status == 204
            async with browser.page() as page:
                await page.next()
                listener.send_signal(signal.SIGTERM)
                with contextlib.suppress(EOFError):
                    while True:
                        await page.next()

        asyncio.run(stay())
        out, err = listener.communicate(timeout=WAIT)
    assert (listener.returncode, json.loads(out)["event"], err) == (0, "console", "")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--console", "0.0.0.0:1"), 2, "loopback"),
        (("--console=0.0.0.0:1",), 2, "loopback"),
        (("--console", "--allow-all"), 2, "choose who decides"),
        (("--console", "127.0.0.1:PORT"), 1, "already in use$"),
    ],
)
def test_what_it_cannot_do(cli: Cli, arguments: tuple[str, ...], status: int, message: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ran = cli.json("listen", *(argument.replace("PORT", port) for argument in arguments))
    assert ran.status == status
    assert re.search(message, ran.line["message"])


def test_without_the_extra_it_says_what_to_install(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "stronghold_p2p.cli.console.server", raising=False)
    monkeypatch.setitem(sys.modules, "starlette", None)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    ran = cli.json("listen", "--console")
    assert (ran.status, ran.line["error"]) == (2, "UsageError")
    assert "pip install '.[cli,console]'" in ran.line["message"]
