from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stronghold_p2p.identity import Keypair

from .conftest import WAIT, Cli, process

LOCAL = "/ip4/127.0.0.1/tcp/0"


def event(running: subprocess.Popen[str]) -> Any:
    """The next line that it prints."""
    assert running.stdout is not None
    return json.loads(running.stdout.readline())


@contextmanager
def relaying(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A relay in a process of its own, and its address."""
    with process("relay", *arguments, "--json") as relay:
        assert event(relay)["event"] == "limits"
        yield event(relay)["address"], relay


@contextmanager
def reserved(relay: str, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A peer that echoes and listens through ``relay``, and its address there."""
    with process("listen", LOCAL, "--allow-all", "--via-relay", relay, "--json", *arguments) as listener:
        direct, circuit = event(listener), event(listener)
        assert (direct["event"], circuit["event"]) == ("listening", "listening")
        assert circuit["address"].startswith(f"{relay}/p2p-circuit/p2p/")
        yield circuit["address"], listener


def test_requests_and_pings_go_through_it(cli: Cli) -> None:
    with relaying(LOCAL) as (relay, _), reserved(relay) as (circuit, _):
        assert cli.json("request", circuit, '"hello"').line == "hello"
        told = cli.json("ping", circuit, "--count", "2")
        assert (told.status, len(told.lines)) == (0, 3)
        peer_id = relay.rpartition("/")[2]
        path = {"transport": "tcp", "relay": peer_id, "max_seconds": 600.0, "max_bytes": 16777216}
        assert told.lines[-1]["path"] == path
        said = cli("ping", circuit, "--count", "1").out.splitlines()[-1]
        assert said.startswith(f"1 round trip through the relay {peer_id}, for 600 s and 16,777,216 bytes each way: ")


def test_it_says_what_it_gives() -> None:
    limits = (
        "--max-reservations",
        "7",
        "--max-per-network",
        "6",
        "--max-circuits",
        "5",
        "--max-seconds",
        "0",
        "--max-bytes",
        "4",
    )
    with process("relay", LOCAL, *limits, "--json") as relay:
        told = event(relay)
    assert told == {
        "event": "limits",
        "max_reservations": 7,
        "max_reservations_per_network": 6,
        "max_reservations_per_minute_per_peer": 30,
        "max_reservations_per_minute_per_network": 60,
        "reservation_ttl": 3600.0,
        "max_circuits": 5,
        "max_circuits_per_peer": 64,
        "max_circuits_per_minute_per_peer": 60,
        "max_circuits_per_minute_per_network": 240,
        "max_seconds": None,
        "max_bytes": 4,
    }
    with process("relay", LOCAL, *limits) as relay:
        assert relay.stdout is not None
        lines = [relay.stdout.readline().rstrip("\n") for _ in range(6)]
    assert lines[0].startswith("without --key, the relay has another identity at each start")
    assert lines[1].startswith("peer id       12D3KooW")
    assert lines[2] == "reservations  at most 7, 6 of one network, each for 3600 s"
    assert lines[3] == "circuits      at most 5, 64 of one peer, each for any time and 4 bytes each way"
    rates = "30 reservations of one peer, 60 of one network; 60 circuits from one peer, 240 from one network"
    assert lines[4] == f"in a minute   {rates}"
    assert lines[5].startswith("listening on  /ip4/127.0.0.1/tcp/")


def test_a_request_that_is_too_large_for_it(cli: Cli) -> None:
    with relaying(LOCAL, "--max-bytes", "10000") as (relay, _), reserved(relay) as (circuit, _):
        told = cli.json("request", circuit, json.dumps("x" * 20_000))
        assert (told.status, told.line["error"]) == (1, "EncodeError")
        assert "over the limit of the relay" in told.line["message"]


def test_it_may_be_for_some_peers_only(cli: Cli, tmp_path: Path) -> None:
    key = tmp_path / "bob.pem"
    Keypair.generate().save(key)
    bob = str(Keypair.load(key).peer_id)
    with relaying(LOCAL, "--reserve", bob, "--unlimited", bob, "--max-bytes", "100") as (relay, _):
        told = cli.json("listen", LOCAL, "--allow-all", "--via-relay", relay)
        assert (told.status, told.line["error"]) == (1, "ListenError")
        assert "202: its rules do not allow it" in told.line["message"]
        with process("listen", LOCAL, "--allow-all", "--via-relay", relay, "--key", str(key), "--json") as listener:
            event(listener)
            circuit = event(listener)["address"]
            assert cli.json("request", circuit, json.dumps("x" * 1000)).line == "x" * 1000
        told = cli.json("request", circuit, "1")
        assert (told.status, told.line["error"]) == (3, "DialError")
        assert "204: the peer has no reservation there" in told.line["message"]


def test_a_policy_says_who_may_reserve(cli: Cli, tmp_path: Path) -> None:
    """And is reloaded on SIGHUP."""
    key, policy = tmp_path / "bob.pem", tmp_path / "policy.toml"
    Keypair.generate().save(key)
    policy.write_text(f'relay.reserve = ["{Keypair.generate().peer_id}"]\n')
    with relaying(LOCAL, "--policy", str(policy)) as (relay, running):
        told = cli.json("listen", LOCAL, "--allow-all", "--via-relay", relay, "--key", str(key))
        assert "202: its rules do not allow it" in told.line["message"]
        policy.write_text(f'relay.reserve = ["{Keypair.load(key).peer_id}"]\n')
        running.send_signal(signal.SIGHUP)
        assert event(running)["event"] == "policy"
        with reserved(relay, "--key", str(key)) as (circuit, _):
            assert cli.json("request", circuit, "1").line == 1


def test_it_is_for_peers_of_the_policy_by_their_names(cli: Cli, tmp_path: Path) -> None:
    key, policy = tmp_path / "bob.pem", tmp_path / "policy.toml"
    Keypair.generate().save(key)
    policy.write_text(f'[peers.bob]\nid = "{Keypair.load(key).peer_id}"\n')
    with relaying(LOCAL, "--policy", str(policy), "--reserve", "bob") as (relay, _):
        told = cli.json("listen", LOCAL, "--allow-all", "--via-relay", relay)
        assert (told.status, told.line["error"]) == (1, "ListenError")
        with reserved(relay, "--key", str(key)) as (circuit, _):
            assert cli.json("request", circuit, "1").line == 1


def test_a_peer_is_asked_by_its_id_through_a_relay(cli: Cli) -> None:
    with relaying(LOCAL) as (relay, _), reserved(relay, "--relay-mode", "only") as (circuit, _):
        peer = circuit.rpartition("/")[2]
        assert cli.json("request", peer, "1", "--relay", relay).line == 1
        told = cli.json("ping", peer, "--count", "1", "--relay", relay)
        assert told.lines[-1]["path"]["relay"] == relay.rpartition("/")[2]


def test_a_peer_that_relays_may_not_join_us_with(cli: Cli) -> None:
    with relaying(LOCAL) as (relay, _), reserved(relay, "--relay-mode", "allow") as (circuit, _):
        assert cli.json("request", circuit, "1").line == 1
    told = cli.json("listen", LOCAL, "--allow-all", "--via-relay", relay, "--relay-mode", "never")
    assert (told.status, told.line["error"]) == (2, "UsageError")


def test_it_reports_what_it_does(cli: Cli) -> None:
    with relaying(LOCAL, "--report", "0.2") as (relay, running):
        assert event(running) == {
            "event": "relay",
            "reservations": 0,
            "circuits": 0,
            "reservations_made": 0,
            "circuits_made": 0,
            "bytes": 0,
            "refusals": {},
        }
        with reserved(relay) as (circuit, _):
            cli.json("request", circuit, "1")
            cli.json("request", f"{relay}/p2p-circuit/p2p/{Keypair.generate().peer_id}", "1")
        running.send_signal(signal.SIGTERM)
        *_, last = running.communicate(timeout=WAIT)[0].splitlines()
    told = json.loads(last)
    assert (told["reservations"], told["circuits"]) == (0, 0)
    assert (told["reservations_made"], told["circuits_made"]) == (1, 1)
    assert told["bytes"] > 500
    assert told["refusals"] == {"circuit: NO_RESERVATION": 1}


def test_it_reports_in_words() -> None:
    with process("relay", LOCAL, "--report", "0.1") as relay:
        assert relay.stdout is not None
        lines = [relay.stdout.readline().rstrip("\n") for _ in range(7)]
    assert lines[-1] == "relay         0 reservations, 0 circuits; in all 0 and 0, 0 bytes; refused: nothing"


def test_the_listener_comes_back_when_it_does(cli: Cli, tmp_path: Path) -> None:
    key = tmp_path / "relay.pem"
    Keypair.generate().save(key)
    with relaying(LOCAL, "--key", str(key)) as (relay, first), reserved(relay) as (circuit, listener):
        first.send_signal(signal.SIGKILL)
        first.wait(WAIT)
        lost = event(listener)
        assert (lost["event"], lost["relay"]) == ("reservation_lost", relay.rpartition("/")[2])
        with relaying(relay.partition("/p2p/")[0], "--key", str(key)):
            made = event(listener)
            assert (made["event"], made["addresses"]) == ("reservation", [circuit])
            assert cli.json("request", circuit, '"back"').line == "back"


def test_one_that_is_down_at_the_start_is_tried_again(cli: Cli, tmp_path: Path) -> None:
    key = tmp_path / "relay.pem"
    Keypair.generate().save(key)
    with relaying(LOCAL, "--key", str(key)) as (relay, _):
        pass
    with process("listen", LOCAL, "--allow-all", "--via-relay", relay, "--json") as listener:
        assert event(listener)["event"] == "listening"
        lost = event(listener)
        assert (lost["event"], lost["relay"]) == ("reservation_lost", relay.rpartition("/")[2])
        assert listener.stderr is not None
        log = [listener.stderr.readline()]
        with relaying(relay.partition("/p2p/")[0]):
            log.append(listener.stderr.readline())  # another relay is there
        with relaying(relay.partition("/p2p/")[0], "--key", str(key)):
            made = event(listener)
            assert made["event"] == "reservation"
            assert cli.json("request", made["addresses"][0], '"there"').line == "there"
    assert f"cannot listen on {relay}: no reservation: cannot dial" in log[0]
    assert "but the remote is 12D3Koo" in log[1]
    assert all(line.endswith("; it is tried again\n") for line in log)


def test_one_that_is_another_than_was_said() -> None:
    with relaying(LOCAL) as (relay, _):
        other = f"{relay.rpartition('/')[0]}/{Keypair.generate().peer_id}"
        with process("listen", LOCAL, "--allow-all", "--via-relay", other, "--json") as listener:
            out, _ = listener.communicate(timeout=WAIT)
    told = json.loads(out)
    assert (listener.returncode, told["error"]) == (1, "ListenError")
    assert "but the remote is" in told["message"]


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (("relay", "--reserve", "nobody"), 2, "InvalidAddress"),
        (("relay", "--unlimited", "nobody"), 2, "InvalidAddress"),
        (("listen", LOCAL, "--allow-all", "--relay-mode", "sometimes"), 2, "UsageError"),
        (("relay", "--max-circuits", "0"), 2, "UsageError"),
        (("relay", "--max-seconds", "inf"), 2, "UsageError"),
        (("relay", "/ip4/192.0.2.1/tcp/0"), 1, "ListenError"),
        (("listen", LOCAL, "--allow-all", "--via-relay", "nonsense"), 2, "InvalidAddress"),
        (("listen", LOCAL, "--allow-all", "--via-relay", "/ip4/127.0.0.1/tcp/1"), 2, "InvalidAddress"),
    ],
)
def test_what_cannot_be(cli: Cli, arguments: tuple[str, ...], status: int, error: str) -> None:
    told = cli.json(*arguments)
    assert (told.status, told.line["error"]) == (status, error)


@pytest.mark.parametrize(("stop", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_it_ends_in_order_when_stopped(stop: signal.Signals, status: int) -> None:
    with relaying(LOCAL) as (_, relay):
        relay.send_signal(stop)
        assert relay.communicate(timeout=WAIT) == ("", "")
        assert relay.returncode == status
