"""``approve``: another peer's questions in this terminal, for a person and for a program."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest
from conftest import MakePeer

from stronghold_p2p import Direction, Keypair, Multiaddr, Stream, StreamReset, StrongholdP2p
from stronghold_p2p.cli import output
from stronghold_p2p.cli.approve import ApproverPerson, ApproverProgram, Questions
from stronghold_p2p.encoding import messages
from stronghold_p2p.protocols.approval import PROTOCOL
from stronghold_p2p.protocols.approval.question import ApprovalQuestion
from stronghold_p2p.protocols.framing import read_bytes, write, write_bytes

from .conftest import WAIT, Cli, process

STRANGER = Keypair.generate().peer_id

POLICY = """
[default]
inbound = "ask"
[approval]
approvers = ["{approver}"]
"""


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Keypair]:
    """The approver's, as a file and as it is."""
    path = tmp_path_factory.mktemp("approver") / "key"
    keypair = Keypair.generate()
    keypair.save(path)
    return path, keypair


@pytest.fixture
def policy(key: tuple[Path, Keypair], tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY.format(approver=key[1].peer_id))
    return path


def read(process: subprocess.Popen[str]) -> Any:
    """The next line that is printed."""
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def say(process: subprocess.Popen[str], **answer: Any) -> None:
    assert process.stdin is not None
    print(json.dumps(answer), file=process.stdin, flush=True)


def test_who_asks_may_be_given_by_name(key: tuple[Path, Keypair], policy: Path, tmp_path: Path, cli: Cli) -> None:
    """And whom it asks about has the name that we know, whatever it is called there."""
    state, alice = str(tmp_path / "state.db"), tmp_path / "alice"
    Keypair.generate().save(alice)
    policy.write_text(policy.read_text() + f'[peers."a friend"]\nid = "{Keypair.load(alice).peer_id}"\n')
    with process("listen", "--policy", str(policy), "--json", stdin=subprocess.DEVNULL) as office:
        address = read(office)["address"]
        for peer, name in ((address.rpartition("/")[2], "office"), (str(Keypair.load(alice).peer_id), "alice")):
            cli("firewall", "name", peer, name, "--state", state)
        cli("ping", address, "--count", "1", "--state", state)
        options = ("--state", state, "--key", str(key[0]), "--json")
        with process("approve", "office", *options, stdin=subprocess.PIPE) as phone:
            assert read(phone)["event"] == "approving"
            assert read(phone)["name"] == "office"
            with process("request", address, "1", "--key", str(alice)):
                question = read(phone)
                assert question["name"] == "alice"
                say(phone, id=question["id"], answer="allow")
                assert read(phone)["reason"] == "approved"


@pytest.mark.parametrize(
    ("answer", "status", "outcome"),
    [
        ({"answer": "allow"}, 0, "approved"),
        ({"answer": "allow", "types": ["Sign"], "for": 60}, 0, "rule set"),
        ({"answer": "reject", "reason": "no"}, 5, "rejected"),
    ],
    ids=["once", "type", "rejected"],
)
def test_a_program_answers(
    key: tuple[Path, Keypair], policy: Path, answer: dict[str, Any], status: int, outcome: str
) -> None:
    file, keypair = key
    with process("listen", "--policy", str(policy), "--json", stdin=subprocess.DEVNULL) as office:
        address = read(office)["address"]
        with process("approve", address, "--key", str(file), "--json", stdin=subprocess.PIPE) as phone:
            assert read(phone) == {"event": "approving", "peer": str(keypair.peer_id)}
            assert read(phone)["event"] == "connected"
            with process("request", address, json.dumps({"type": "Sign", "text": "\u202e\x1b[31m"})) as request:
                question = read(phone)
                assert (question["event"], question["id"], question["type"]) == ("firewall", 1, "Sign")
                assert question["asker"] == address.rpartition("/")[2]
                assert "\u202e" not in question["view"]
                say(phone, id=1, **answer)
                ended = read(phone)
                assert (ended["event"], ended["reason"]) == ("ended", outcome)
                assert ended["by"] == f"approver {keypair.peer_id}"
                assert request.wait(WAIT) == status


def test_a_person_answers(key: tuple[Path, Keypair], policy: Path) -> None:
    with process("listen", "--policy", str(policy), "--json", stdin=subprocess.DEVNULL) as office:
        address = read(office)["address"]
        with process("approve", address, "--key", str(key[0]), stdin=subprocess.PIPE) as phone:
            read_until(phone, "connected")
            with process("request", address, json.dumps({"type": "Sign"})) as request:
                assert read_until(phone, "asked by").split()[-1] == address.rpartition("/")[2]
                assert phone.stdin is not None
                print("yes", file=phone.stdin, flush=True)
                read_until(phone, "allowed, this once")
                assert request.wait(WAIT) == 0


def read_until(process: subprocess.Popen[str], what: str) -> str:
    """The next line with ``what`` in it."""
    assert process.stdout is not None
    return next(line for line in process.stdout if what in line)


def test_it_ends_as_it_should(cli: Cli) -> None:
    assert cli("approve").status == 2
    assert cli("approve", "nonsense").status == 2
    with process("approve", f"/ip4/127.0.0.1/tcp/1/p2p/{Keypair.generate().peer_id}", "--json") as phone:
        assert read(phone)["event"] == "approving"
        phone.terminate()
        assert phone.wait(WAIT) == 0


# -- in this process -------------------------------------------------------------------------------------


class Page:
    """What is typed, and what is shown."""

    def __init__(self) -> None:
        self.ended = False
        self.shown: asyncio.Queue[Any] = asyncio.Queue()
        self._typed: asyncio.Queue[bytes | None] = asyncio.Queue()

    def type(self, text: str) -> None:
        self._typed.put_nowait(text.encode())

    async def read(self) -> bytes | None:
        return await self._typed.get()

    def discard(self) -> None:
        return

    def close(self) -> None:
        self.ended = True
        self._typed.put_nowait(None)


class Scene:
    """A peer that asks by hand, and an approver before a page."""

    def __init__(self, asker: StrongholdP2p[Any, Any], phone: Multiaddr, page: Page) -> None:
        self.asker = asker
        self.page = page
        self._phone = phone

    async def ask(self, **changes: Any) -> Stream:
        stream = await self.asker.open_stream(self._phone, PROTOCOL)
        question: dict[str, Any] = {
            "nonce": bytes(16),
            "kind": "request",
            "peer": STRANGER,
            "name": None,
            "address": None,
            "direction": Direction.INBOUND,
            "type": "Sign",
            "view": '{"type":"Sign"}',
            "seconds": 60.0,
            "waiting": 1,
            "need": 1,
            "agreed": 0,
            **changes,
        }
        await write_bytes(stream, ApprovalQuestion(**question).encode())
        return stream


@pytest.fixture(params=[ApproverPerson, ApproverProgram])
async def scene(
    request: pytest.FixtureRequest, make_peer: MakePeer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    office, phone, page = await make_peer(), await make_peer(), Page()
    questions = Questions(phone.approval_requests([office.peer_id]))
    more: dict[str, Any] = {"quiet": None} if request.param is ApproverPerson else {}
    for name in ("note", "result"):
        monkeypatch.setattr(output, name, page.shown.put_nowait)
    approver = request.param(questions, page, ban=None, **more)
    tasks: list[asyncio.Task[None]] = []

    def start(coroutine: Coroutine[Any, Any, None]) -> None:
        tasks.append(asyncio.create_task(coroutine))

    start(approver.run())
    start(questions.run(start))
    yield Scene(office, await phone.listen(), page)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


for_a_person = pytest.mark.parametrize("scene", [ApproverPerson], indirect=True)
for_a_program = pytest.mark.parametrize("scene", [ApproverProgram], indirect=True)

HIDDEN = "\x1b[2J\u202e\u2800\nquestion 9: may this request pass?"


@for_a_person
async def test_what_an_asker_tells_is_made_safe(scene: Scene) -> None:
    stream = await scene.ask(name=HIDDEN, type=HIDDEN, view=HIDDEN)
    shown = await scene.page.shown.get()
    assert all(line.isprintable() for line in shown.split("\n"))
    assert not {"\u202e", "\u2800"} & set(shown)
    assert shown.count("\nquestion") == 1
    await write(stream, messages.ApprovalEnd(outcome="rejected", by=HIDDEN, reason=HIDDEN))
    ended = await scene.page.shown.get()
    assert ended.startswith("question 1 was answered elsewhere: rejected")
    assert ended.isprintable()
    await stream.close()


@for_a_person
async def test_an_answer_that_counts_when_others_agree(scene: Scene) -> None:
    stream = await scene.ask(need=3, agreed=1)
    assert "1 more must agree" in await scene.page.shown.get()
    scene.page.type("yes")
    assert await scene.page.shown.get() == "allowed, this once, if 1 more agree"
    other = await scene.ask()  # the next one does not wait for that
    await scene.page.shown.get()
    for each in stream, other:
        each.reset()


@for_a_person
@pytest.mark.parametrize(
    ("typed", "outcome", "told"),
    [
        ("no, not now", "rejected", "rejected"),
        ("yes", "timed out", "question 1 was not answered in time"),
        ("yes", "rejected", "question 1 was answered elsewhere: rejected, by person"),
        ("h", "rule set", "allowed, and so is Sign from this peer for an hour"),
    ],
)
async def test_whether_an_answer_has_counted(scene: Scene, typed: str, outcome: str, told: str) -> None:
    stream = await scene.ask()
    await scene.page.shown.get()
    scene.page.type(typed)
    await read_bytes(stream, max_size=4096)
    await write(stream, messages.ApprovalEnd(outcome=outcome, by="person"))
    assert (await scene.page.shown.get()).startswith(told)
    await stream.close()


@for_a_person
async def test_what_a_person_cannot_do_from_here(scene: Scene) -> None:
    stream = await scene.ask(address=Multiaddr.parse("/ip4/192.0.2.1/tcp/1"))
    assert "ban" not in await scene.page.shown.get()
    scene.page.type("ban")
    assert "please answer" in await scene.page.shown.get()
    stream.reset()
    assert (await scene.page.shown.get()).startswith("question 1 has ended: the connection is lost")


@for_a_program
async def test_a_program_answers_in_any_order_and_is_told_every_end(scene: Scene) -> None:
    first, second = await scene.ask(), await scene.ask(need=2)
    records = [await scene.page.shown.get() for _ in range(2)]
    assert [record["id"] for record in records] == [1, 2]
    assert {record["asker"] for record in records} == {str(scene.asker.peer_id)}
    assert [record["need"] for record in records] == [1, 2]
    scene.page.type('{"id":2,"answer":"allow","types":["Sign","Wipe"]}')
    assert "its own type alone" in (await scene.page.shown.get())["message"]
    scene.page.type('{"id":2,"answer":"allow"}')
    scene.page.type('{"id":1,"answer":"reject"}')
    await read_bytes(first, max_size=4096)
    await read_bytes(second, max_size=4096)
    await write(second, messages.ApprovalEnd(outcome="approved", by="approver x"))
    ended = await scene.page.shown.get()
    assert (ended["event"], ended["id"], ended["reason"], ended["by"]) == ("ended", 2, "approved", "approver x")
    first.reset()
    assert (await scene.page.shown.get())["reason"] == "lost"


async def test_the_input_ends(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    stream = await scene.ask()
    await scene.page.shown.get()
    scene.page.close()
    with pytest.raises(StreamReset):
        await stream.read()
    assert "questions are left to other approvers" in caplog.text
