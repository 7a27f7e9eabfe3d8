"""``doctor``: what it prints, and its exit status."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.multicast import only_loopback

from stronghold_p2p import Keypair
from stronghold_p2p.cli import output
from stronghold_p2p.diagnosis import Finding, examination

from .conftest import Cli, listening, process

LOCAL = "/ip4/127.0.0.1/tcp/0"
HERE = ("--listen", LOCAL)


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    only_loopback(monkeypatch)
    monkeypatch.setattr(examination, "NEIGHBORS_PART", 0.01)


@pytest.fixture(scope="module")
def relay() -> Iterator[str]:
    """The address of a relay."""
    with process("relay", LOCAL, "--json") as running:
        assert running.stdout is not None
        running.stdout.readline()
        yield json.loads(running.stdout.readline())["address"]


def test_as_json_each_finding_is_a_line(cli: Cli, relay: str) -> None:
    with listening("--allow-all", "--via-relay", relay) as address:
        ran = cli.json("doctor", *HERE, "--relay", relay, "--peer", address, "--name", "localhost")
    *findings, summary = ran.lines
    assert ran.err == ""
    assert {line["event"] for line in findings} == {"finding"}
    assert [line["check"] for line in findings] == [
        "interfaces", "dns", "mdns", "relay", "clock", "port_mapping", "peer", "peer_by_relay", "ping", "requests", "nat", "reachability"
    ]  # fmt: skip
    assert set(findings[0]) == {"event", "check", "verdict", "what", "advice", "data"}
    assert {line["check"]: line["data"] for line in findings}["requests"]["codecs"] == ["json"]
    assert (summary["event"], summary["reach"]) == ("summary", "not at all")
    assert summary["what"].startswith("You can reach the peer ")
    assert f"--via-relay {relay}" in summary["advice"]
    # This machine is in no network: a problem, whatever the relay and the peer are like.
    assert (ran.status, summary["problems"]) == (1, 1)


def test_people_read_a_paragraph_each(cli: Cli, relay: str) -> None:
    ran = cli("doctor", *HERE, "--relay", relay)
    lines = ran.out.splitlines()
    assert lines[0] == "problem  interfaces     This machine is in no network: it and others cannot reach each other."
    assert lines[1] == "                        Do: Connect it to a network. If this is a container, give it one."
    peer = relay.rpartition("/")[2]
    assert f"note     relay          The relay {peer} answers by tcp at" in lines
    assert any(line.startswith("summary                 Peers elsewhere cannot reach you") for line in lines)
    assert any(line.startswith(f"                        {relay}") for line in lines)
    assert max(len(line) for line in lines if "12D3" not in line) <= 110


def test_a_peer_is_tried_where_the_state_file_has_it(
    cli: Cli, echo: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    peer, state = echo.rpartition("/")[2], str(tmp_path_factory.mktemp("state") / "state.db")
    cli("firewall", "name", peer, "echo", "--state", state)
    cli("request", echo, "1", "--state", state)
    told = cli("doctor", *HERE, "--peer", "echo", "--state", state).out
    assert f"You can reach the peer echo (12D3Koo…{peer[-6:]}) directly." in " ".join(told.split())
    ran = cli.json("doctor", *HERE, "--peer", "nobody", "--state", state)
    assert (ran.status, ran.line["error"]) == (2, "InvalidAddress")


def test_without_a_problem_the_status_is_0(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "check_interfaces", lambda machine: Finding("interfaces", "ok", ""))
    ran = cli.json("doctor", *HERE)
    assert (ran.status, ran.lines[-1]["problems"]) == (0, 0)


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (("--relay", "nonsense"), 2, "InvalidAddress"),
        (("--peer", "/ip4/127.0.0.1/tcp/1"), 2, "InvalidAddress"),
        (("--name", "/tcp/1"), 2, "InvalidAddress"),
        (("--listen", "/ip4/192.0.2.1/tcp/1"), 1, "ListenError"),
        (("--seconds", "0"), 2, "UsageError"),
        (("--key", "/nonexistent"), 1, "KeyFileError"),
        (("--passphrase-file", "/nonexistent"), 2, "UsageError"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_cannot_be(cli: Cli, arguments: tuple[str, ...], status: int, error: str) -> None:
    ran = cli.json("doctor", *arguments)
    assert (ran.status, ran.line["error"]) == (status, error)


def test_whoever_reads_may_leave(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*result: object) -> None:
        raise output.OutputFailed("stdout", BrokenPipeError())

    monkeypatch.setattr(output, "result", fail)
    assert cli("doctor", *HERE).err.startswith("OutputFailed: ")


def test_a_key_is_used(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> None:
    key = tmp_path_factory.mktemp("keys") / "key.pem"
    Keypair.generate().save(key)
    own = str(Keypair.load(key).peer_id)
    ran = cli.json("doctor", *HERE, "--key", str(key), "--peer", own)
    assert (ran.status, ran.line["error"]) == (2, "InvalidAddress")
    assert "of this peer itself" in ran.line["message"]
