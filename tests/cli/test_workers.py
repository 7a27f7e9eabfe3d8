"""``listen --workers``: several processes that are one peer, to whom asks, and to whoever is at the terminal."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import MakePeer

from stronghold_p2p import ConnectionEstablished
from stronghold_p2p.identity import Keypair

from .conftest import WAIT, Cli, process

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems spread no connections"),
]

WHO = "exec:sh -c 'echo $PPID'"
"""A handler that answers with the process id of its worker."""

MANY = 100
"""Connections that do not all come to one of two workers."""

TWO = ("--workers", "2")


class Crew:
    """A supervisor that prints JSON, and its two workers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.address: str = self.read("listening")["address"]
        self.pids = self.children()

    def children(self) -> set[int]:
        return set(map(int, Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()))

    def read(self, event: str) -> Any:
        """The next line, which is of this event."""
        assert self.process.stdout is not None
        line = json.loads(self.process.stdout.readline())
        assert line["event"] == event, line
        return line

    def say(self, **answer: Any) -> None:
        assert self.process.stdin is not None
        print(json.dumps(answer), file=self.process.stdin, flush=True)

    def end(self, number: signal.Signals = signal.SIGTERM) -> str:
        """What it has printed since; all processes have ended then, since each holds stdout."""
        assert self.process.stdout is not None
        self.process.send_signal(number)
        rest = self.process.stdout.read()
        self.process.wait(WAIT)
        return rest


@contextmanager
def crew(*options: str, **streams: Any) -> Iterator[Crew]:
    with process("listen", *options, *TWO, "--json", **streams) as started:
        yield Crew(started)


def reach(cli: Cli, address: str, *options: str) -> set[int]:
    """Who answers, until two have."""
    reached: set[int] = set()
    for _ in range(MANY):
        told = cli.json("request", address, "null", *options)
        assert told.status == 0, told.out
        reached.add(told.line)
        if len(reached) == 2:
            break
    return reached


def test_people_are_told_once_who_it_is_and_where() -> None:
    with process("listen", "--allow-all", *TWO) as bob:
        assert bob.stdout is not None
        lines = [bob.stdout.readline() for _ in range(2)]
        bob.send_signal(signal.SIGINT)
        out, err = bob.communicate(timeout=WAIT)
    assert [line.partition("  ")[0] for line in lines] == ["peer id", "listening on"]
    assert (bob.returncode, out, err) == (130, "", "")


def test_a_worker_that_dies_is_replaced(cli: Cli) -> None:
    with crew("--allow-all", "--handler", WHO) as bob:
        killed = min(bob.pids)
        os.kill(killed, signal.SIGKILL)
        ended = bob.read("worker_ended")
        assert ended["message"] == "has ended by signal 9"
        assert bob.read("worker_replaced")["worker"] == ended["worker"]
        assert reach(cli, bob.address) == bob.children()
        assert len(bob.children() & bob.pids) == 1
        bob.process.terminate()
        _, err = bob.process.communicate(timeout=WAIT)
    assert err == f"worker {ended['worker']} has ended by signal 9: another one takes its place in 0.1 s\n"


def test_workers_end_with_their_supervisor() -> None:
    with crew("--allow-all") as bob:
        assert bob.end(signal.SIGKILL) == ""
        assert bob.process.stderr is not None
        assert bob.process.stderr.read() == ""


def test_one_alone_may_be_supervised(cli: Cli) -> None:
    with process("listen", "--allow-all", "--workers", "1", "--json") as started:
        bob = Crew(started)
        assert cli.json("request", bob.address, '"hello"').line == "hello"
        assert bob.end() == ""


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_failed_start_tells_why_once(form: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        used = f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}"
        with process("listen", used, "--allow-all", *TWO, *form) as bob:
            out, err = bob.communicate(timeout=WAIT)
    told = json.loads(out)["message"] if form else err
    assert bob.returncode == 1
    assert "already in use" in told
    assert (err if form else out) == ""


def test_a_policy_with_approvers_is_refused(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(f'[default]\ninbound = "ask"\n[approval]\napprovers = ["{Keypair.generate().peer_id}"]\n')
    with process("listen", "--policy", str(policy), *TWO, "--json") as bob:
        out, _ = bob.communicate(timeout=WAIT)
    assert bob.returncode == 1
    assert "several processes" in json.loads(out)["message"]


def test_what_is_answered_in_one_holds_in_all(cli: Cli, tmp_path: Path) -> None:
    key = tmp_path / "alice.pem"
    cli.json("key", "new", str(key))
    with crew("--ask", "--handler", WHO, stdin=subprocess.PIPE) as bob:
        with process("request", bob.address, "null", "--key", str(key), "--json") as asking:
            question = bob.read("firewall")
            bob.say(id=question["id"], answer="always")
            ended = bob.read("ended")
            assert (ended["id"], ended["reason"], ended["by"]) == (question["id"], "rule set", "person")
            answered, _ = asking.communicate(timeout=WAIT)
        assert {int(answered)} | reach(cli, bob.address, "--key", str(key)) == bob.pids
        # The other one may have asked within the half second until it knew.
        rest = [json.loads(line) for line in bob.end().splitlines()]
    assert {line["reason"] for line in rest if line["event"] == "ended"} <= {"reconsidered"}


def test_each_question_has_a_number_of_its_own(cli: Cli) -> None:
    with crew("--ask", "--handler", WHO, stdin=subprocess.PIPE) as bob:
        answered = set()
        for number in range(1, MANY):
            with process("request", bob.address, "null", "--json") as asking:
                assert bob.read("firewall")["id"] == number
                bob.say(id=number, answer="allow")
                assert bob.read("ended")["reason"] == "approved"
                out, _ = asking.communicate(timeout=WAIT)
            answered.add(int(out))
            if len(answered) == 2:
                break
        assert answered == bob.pids
        bob.say(id=number, answer="allow")
        assert bob.process.stdout is not None
        assert "has ended" in json.loads(bob.process.stdout.readline())["message"]


def test_a_ban_holds_in_all(cli: Cli, tmp_path: Path) -> None:
    key, state = tmp_path / "alice.pem", tmp_path / "state"
    peer = cli.json("key", "new", str(key)).line["peer_id"]
    with (
        crew("--ask", "--state", str(state), stdin=subprocess.PIPE) as bob,
        process("request", bob.address, "null", "--key", str(key), "--json") as asking,
    ):
        bob.say(id=bob.read("firewall")["id"], answer="ban")
        assert bob.read("ended")["reason"] == "rejected"
        asking.communicate(timeout=WAIT)
    banned = cli.json("firewall", "list", "--state", str(state)).line
    assert (banned["peer"], banned["banned"]) == (peer, True)


def test_a_network_that_is_rejected_in_one_asks_in_none(cli: Cli) -> None:
    with crew("--ask", "--ask-quiet", "600", stdin=subprocess.PIPE) as bob:
        with process("request", bob.address, "null") as asking:
            bob.say(id=bob.read("firewall")["id"], answer="reject_network")
            assert bob.read("ended")["reason"] == "rejected"
            asking.communicate(timeout=WAIT)
        for _ in range(20):  # not all come to the one that has asked
            assert cli.json("request", bob.address, "null").status == 5
        assert bob.end() == ""


def test_a_network_that_is_rejected_in_one_is_rejected_in_all(cli: Cli) -> None:
    """Its open questions, too; not all are of the one that has the answer."""
    with crew("--ask", "--ask-quiet", "600", stdin=subprocess.PIPE) as bob, ExitStack() as asking:
        processes = [asking.enter_context(process("request", bob.address, "null")) for _ in range(8)]
        ids = [bob.read("firewall")["id"] for _ in processes]
        bob.say(id=ids[0], answer="reject_network")
        assert sorted(bob.read("ended")["id"] for _ in processes) == sorted(ids)
        for one in processes:
            one.communicate(timeout=WAIT)


def test_the_question_of_a_worker_that_dies_ends(cli: Cli) -> None:
    with crew("--ask", stdin=subprocess.PIPE) as bob, process("request", bob.address, "null") as asking:
        question = bob.read("firewall")
        for pid in bob.pids:
            os.kill(pid, signal.SIGKILL)
        lines = [json.loads(bob.process.stdout.readline()) for _ in range(3)]  # type: ignore[union-attr]
        asking.communicate(timeout=WAIT)
    ended = [line for line in lines if line["event"] == "ended"]
    assert [(line["id"], line["reason"]) for line in ended] == [(question["id"], "lost")]


def test_without_anybody_who_answers_requests_are_rejected(cli: Cli) -> None:
    with crew("--ask") as bob:
        told = cli.json("request", bob.address, "null")
        assert (told.status, told.line["error"]) == (5, "NoResponse")


def test_a_person_is_asked() -> None:
    with process("listen", "--ask", *TWO, stdin=subprocess.PIPE) as bob:
        assert bob.stdout is not None
        assert bob.stdin is not None
        bob.stdout.readline()
        address = bob.stdout.readline().split()[-1]
        with process("request", address, '"hello"') as asking:
            shown = [bob.stdout.readline() for _ in range(10)]
            assert shown[1] == "question 1: may this request pass?\n"
            assert shown[-1].startswith("y(es) this once")
            print("y", file=bob.stdin, flush=True)
            assert bob.stdout.readline() == "allowed, this once\n"
            out, _ = asking.communicate(timeout=WAIT)
    assert out == '"hello"\n'


async def test_one_alone_keeps_peers_connected(make_peer: MakePeer) -> None:
    alice = await make_peer()
    kept = await alice.listen()
    events = alice.events()
    with crew("--allow-all", "--keep", str(kept)) as bob:
        async for event in events:
            if isinstance(event, ConnectionEstablished):
                break
        await asyncio.to_thread(bob.end)
    await alice.close()
    assert not [event async for event in events if isinstance(event, ConnectionEstablished)]


def test_each_has_an_audit_of_its_own(cli: Cli, tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    with crew("--allow-all", "--handler", WHO, "--audit", str(audit)) as bob:
        reach(cli, bob.address)
        bob.end()
    files = sorted(tmp_path.glob("audit.*"))
    assert [file.name for file in files] == ["audit.1", "audit.2"]
    for file in files:
        assert '"event":"decision"' in file.read_text()
        assert cli("audit", "verify", str(file)).status == 0


def test_a_hangup_reaches_all_and_is_told_once(cli: Cli, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('default.inbound = "reject"')
    with crew("--policy", str(policy), "--handler", WHO) as bob:
        assert cli.json("request", bob.address, "null").status == 5
        policy.write_text('default.inbound = "allow"')
        bob.process.send_signal(signal.SIGHUP)
        assert bob.read("policy")["path"] == str(policy)
        reached: set[int] = set()
        while reached != bob.pids:
            told = cli.json("request", bob.address, "null")
            reached |= {told.line} if told.status == 0 else set()  # the other one may need a moment more
        assert bob.end() == ""


def test_a_port_that_others_share_already_is_in_use() -> None:
    with crew("--allow-all", "/ip4/127.0.0.1/tcp/0") as first:
        with process("listen", first.address.partition("/p2p/")[0], "--reject-all", *TWO, "--json") as second:
            assert second.stdout is not None
            assert json.loads(second.stdout.readline())["error"] == "ListenError"
            assert second.wait(WAIT) == 1
        first.end()


def test_nothing_is_imported_from_where_it_is_started(tmp_path: Path) -> None:
    """Anybody may write there, and workers are told the key."""
    (tmp_path / "msgspec.py").write_text("raise SystemExit(99)")
    command = [sys.executable, "-P", "-m", "stronghold_p2p", "listen", "--allow-all", *TWO, "--json"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        assert json.loads(started.stdout.readline())["event"] == "listening"
        started.terminate()


def test_a_path_that_is_not_utf_8(tmp_path: Path) -> None:
    policy = os.fsdecode(os.fsencode(tmp_path) + b"/policy\xff.toml")
    Path(policy).write_text('[default]\ninbound = "allow"\n')
    state = os.fsdecode(os.fsencode(tmp_path) + b"/state\xff")
    with crew("--policy", policy, "--state", state) as running:
        Path(policy).write_text('[default]\ninbound = "reject"\n')
        assert running.read("policy")["path"].endswith("policy\\xff.toml")
        running.end()


def test_a_worker_that_does_not_react_is_ended() -> None:
    with impatient(ENDING=0.1) as running:
        stopped, _ = running.pids
        os.kill(stopped, signal.SIGSTOP)
        running.end()
        assert running.process.returncode == 0


def test_a_worker_that_hangs_is_replaced() -> None:
    with impatient(LOOK=0.1) as running:
        stopped, _ = running.pids
        os.kill(stopped, signal.SIGSTOP)
        while stopped in running.children():
            running.read("worker_ended")  # the other one, too, if the machine is that busy
            running.read("worker_replaced")
        running.end()


@contextmanager
def impatient(**times: float) -> Iterator[Crew]:
    """A crew whose supervisor has such times."""
    program = (
        "from stronghold_p2p.cli import main; from stronghold_p2p.cli.workers import supervisor;"
        f"vars(supervisor).update({times}); main()"
    )
    command = [sys.executable, "-c", program, "listen", "--allow-all", *TWO, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as started:
        try:
            yield Crew(started)
        finally:
            started.terminate()
