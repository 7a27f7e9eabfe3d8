from __future__ import annotations

import base64
import io
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stronghold_p2p.cli.request import MAX_TEXT
from stronghold_p2p.config import Config
from stronghold_p2p.identity import Keypair
from stronghold_p2p.transport.dnsaddr import TxtRecords

from .conftest import WAIT, Cli, listening, process


@pytest.fixture(scope="module")
def rejecting() -> Iterator[str]:
    with listening("--reject-all") as address:
        yield address


@pytest.fixture(scope="module")
def raw() -> Iterator[str]:
    with listening("--allow-all", "--codec", "raw") as address:
        yield address


@pytest.fixture(scope="module")
def silent() -> Iterator[str]:
    """The address of a port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"/ip4/127.0.0.1/tcp/{server.getsockname()[1]}/p2p/{Keypair.generate().peer_id}"


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"/ip4/127.0.0.1/tcp/{port}/p2p/{Keypair.generate().peer_id}"


def stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize("body", ['{"hello":"bob"}', "[1,2.5,null,true]", '"naïve ☃"', "0"])
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_the_response_is_printed_as_json(cli: Cli, echo: str, body: str, flags: tuple[str, ...]) -> None:
    asked = cli("request", echo, body, *flags)
    assert (asked.status, asked.out, asked.err) == (0, body + "\n", "")


def test_a_peer_by_the_records_of_a_name(cli: Cli, echo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(records: TxtRecords, host: str) -> tuple[list[bytes], float]:
        assert host == "bob.example"
        return [f"dnsaddr={echo}".encode()], 60.0

    monkeypatch.setattr(TxtRecords, "look_up", look_up)
    peer = echo.rpartition("/")[2]
    assert cli("request", f"/dnsaddr/bob.example/p2p/{peer}", "1").line == 1
    assert cli.json("ping", f"/dnsaddr/bob.example/p2p/{peer}", "--count", "1").lines[-1]["count"] == 1
    failed = cli("ping", f"/dnsaddr/bob.example/p2p/{Keypair.generate().peer_id}")
    assert failed.status == 3
    assert "/dnsaddr/bob.example: no TXT record of its name is an address of the peer: 1 of other peers" in failed.err


def test_the_request_is_read_from_stdin(cli: Cli, echo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, b'{ "hello" : "stdin" }')
    assert cli("request", echo, "-").line == {"hello": "stdin"}


@pytest.mark.parametrize("body", ["", "{", "{'a': 1}", "nan", '"\\ud800"', "[" * 100_000])
def test_what_is_not_json_is_not_sent(cli: Cli, body: str) -> None:
    asked = cli.json("request", closed_port(), body)  # dialed, it would be a DialError
    assert (asked.status, asked.line["error"]) == (2, "UsageError")


def test_what_is_not_text_is_not_sent(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, b'"\xff"')
    assert cli.json("request", closed_port(), "-").status == 2


class Read(io.BytesIO):
    """Bytes without an end, of which somebody reads as many as ``limit`` says, and no more than a piece beyond."""

    def __init__(self, limit: int, unit: bytes) -> None:
        super().__init__()
        self._left = limit + 65_536
        self._unit = unit

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        assert size > 0
        self._left -= size
        assert self._left >= 0
        return self._unit * size


@pytest.mark.parametrize(
    ("codec", "limit"),
    [("raw", Config().max_raw_message), ("json", MAX_TEXT), ("msgpack", MAX_TEXT)],
)
def test_stdin_without_an_end_is_read_up_to_the_limit(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, codec: str, limit: int
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(Read(limit, b" ")))
    asked = cli.json("request", closed_port(), "-", "--codec", codec)
    assert (asked.status, asked.line["error"]) == (1, "EncodeError")
    assert str(limit) in asked.line["message"]


def test_blanks_around_a_request_do_not_count(cli: Cli, echo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, b" " * 2_000_000 + b"1")
    assert cli("request", echo, "-").line == 1


def test_a_stdin_that_cannot_be_read(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.open(os.devnull, os.O_WRONLY), "rb") as write_only:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(write_only))
        asked = cli.json("request", closed_port(), "-")
    assert (asked.status, asked.line["error"]) == (2, "UsageError")
    assert asked.line["message"] == "stdin cannot be read: Bad file descriptor"


def test_a_stdin_that_somebody_has_made_non_blocking(cli: Cli, echo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, writes = os.pipe()
    os.set_blocking(reads, False)
    with open(reads) as nonblocking:
        monkeypatch.setattr("sys.stdin", nonblocking)

        def write() -> None:
            os.write(writes, b"[1]")
            os.close(writes)

        writing = threading.Thread(target=write)
        writing.start()
        assert cli("request", echo, "-").line == [1]
        writing.join()


def test_raw_bytes_come_back_as_they_are(cli: Cli, raw: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, b"\x00\xff not JSON")
    stdout = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(stdout))
    assert cli("request", raw, "-", "--codec", "raw").status == 0
    assert stdout.getvalue() == b"\x00\xff not JSON"


def test_raw_bytes_are_base64_in_json(cli: Cli, raw: str) -> None:
    assert base64.b64decode(cli.json("request", raw, "hello", "--codec", "raw").line) == b"hello"


@pytest.mark.parametrize("command", [("request", "ADDR", "{}"), ("ping", "ADDR")])
@pytest.mark.parametrize("address", ["bob", "/ip4/127.0.0.1/tcp/4001", "/ip4/300.0.0.1/tcp/1/p2p/x", ""])
def test_a_bad_address(cli: Cli, command: tuple[str, ...], address: str) -> None:
    asked = cli.json(*(address if part == "ADDR" else part for part in command))
    assert (asked.status, asked.line["error"]) == (2, "InvalidAddress")


@pytest.mark.parametrize("command", [("request", "ADDR", "{}"), ("ping", "ADDR")])
def test_nobody_listens(cli: Cli, command: tuple[str, ...]) -> None:
    asked = cli.json(*(closed_port() if part == "ADDR" else part for part in command))
    assert (asked.status, asked.line["error"]) == (3, "DialError")


def test_another_peer_answers(cli: Cli, echo: str) -> None:
    expected = str(Keypair.generate().peer_id)
    asked = cli.json("request", f"{echo.rpartition('/')[0]}/{expected}", "{}")
    assert (asked.status, asked.line["error"]) == (3, "DialError")
    assert expected in asked.line["message"]


@pytest.mark.parametrize("command", [("request", "ADDR", "{}"), ("ping", "ADDR")])
def test_no_connection_in_time(cli: Cli, silent: str, command: tuple[str, ...]) -> None:
    asked = cli.json(*(silent if part == "ADDR" else part for part in command), "--timeout", "0.05")
    assert (asked.status, asked.line["error"]) == (3, "DialError")


def test_the_firewall_rejects(cli: Cli, rejecting: str) -> None:
    asked = cli.json("request", rejecting, "{}")
    assert (asked.status, asked.line["error"]) == (5, "ProtocolNotSupported")


def test_the_firewall_rejects_and_says_why(cli: Cli, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[default]\ninbound = { allow = ["Ping"], reasons = true }\n')
    with process("listen", "--policy", str(policy)) as listener:
        assert listener.stdout is not None
        _, address = (listener.stdout.readline().split()[-1] for _ in range(2))
        rejected = cli.json("request", address, '{"type":"Sign"}')
        for_people = cli("request", address, '{"type":"Sign"}')
        listener.terminate()
        listener.communicate(timeout=WAIT)
    assert (rejected.status, rejected.line["error"]) == (5, "NoResponse")
    assert (rejected.line["reason"], rejected.line["retry_after"]) == ("rejected", None)
    assert for_people.err.endswith("rejected the request: its firewall does not allow it\n")


def test_another_codec_is_not_offered(cli: Cli, echo: str) -> None:
    asked = cli.json("request", echo, "{}", "--codec", "msgpack")
    assert (asked.status, asked.line["error"]) == (5, "ProtocolNotSupported")


def test_for_people_an_error_goes_to_stderr(cli: Cli, rejecting: str) -> None:
    asked = cli("request", rejecting, "{}")
    assert (asked.status, asked.out) == (5, "")
    assert asked.err.startswith("ProtocolNotSupported: ")


def test_a_key_that_cannot_be_read(cli: Cli, echo: str, tmp_path: Path) -> None:
    asked = cli.json("request", echo, "{}", "--key", str(tmp_path / "missing"))
    assert (asked.status, asked.line["error"]) == (1, "KeyFileError")


def test_ping_tells_each_time_and_sums_up(cli: Cli, echo: str) -> None:
    pinged = cli.json("ping", echo, "--count", "3")
    *times, summary = pinged.lines
    assert pinged.status == 0
    assert len(times) == summary["count"] == 3
    assert all(time["rtt_ms"] > 0 for time in times)
    assert summary["min_ms"] <= summary["mean_ms"] <= summary["max_ms"]


def test_ping_for_people(cli: Cli, rejecting: str) -> None:
    pinged = cli("ping", rejecting, "--count", "2")  # the firewall guards requests, not pings
    assert pinged.status == 0
    assert [line.split()[1] for line in pinged.out.splitlines()] == ["ms", "ms", "round"]


# -- by name -------------------------------------------------------------------------------------------


@pytest.fixture
def state(cli: Cli, echo: str, tmp_path: Path) -> str:
    """A state file with the name and the address of the peer that echoes."""
    file = str(tmp_path / "state.db")
    assert cli("firewall", "name", echo.rpartition("/")[2], "echo", "--state", file).status == 0
    assert cli("request", echo, "1", "--state", file).out == "1\n"
    return file


def test_a_peer_with_a_name_is_dialed_at_its_known_address(cli: Cli, state: str) -> None:
    assert cli("request", "echo", '"hello"', "--state", state).out == '"hello"\n'
    assert cli.json("ping", "echo", "--count", "1", "--state", state).status == 0


def test_a_name_of_the_policy(cli: Cli, echo: str, state: str, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(f'[peers."the echo"]\nid = "{echo.rpartition("/")[2]}"\n')
    files = ("--state", state, "--policy", str(policy))
    assert cli("request", "the echo", "1", *files).out == "1\n"
    policy.write_text(policy.read_text() + 'outbound = "reject"\n')
    refused = cli("request", "the echo", "1", *files)
    assert refused.status == 5
    assert refused.err.startswith("NotPermitted: not permitted for peer the echo (12D3Koo…")


def test_a_ban_in_the_state_file_holds(cli: Cli, echo: str, state: str) -> None:
    cli("firewall", "ban", "echo", "--state", state)
    refused = cli.json("request", "echo", "1", "--state", state)
    assert (refused.status, refused.line["error"]) == (5, "NotPermitted")
    assert echo.rpartition("/")[2] in refused.line["message"]


@pytest.mark.parametrize("command", [("request", "nobody", "1"), ("ping", "nobody"), ("bench", "--target", "nobody")])
def test_a_name_that_no_file_has(cli: Cli, state: str, command: tuple[str, ...]) -> None:
    told = cli.json(*command)
    assert (told.status, told.line["error"]) == (2, "InvalidAddress")
    assert "for a name, give the policy or state file that has it" in told.line["message"]
    told = cli.json(*command, "--state", state)
    assert (told.status, told.line["error"]) == (2, "InvalidAddress")
    assert "neither a peer id nor the name of a peer" in told.line["message"]


@pytest.mark.parametrize("target", ["alice", "ADDR"])
def test_a_state_file_that_is_not_there_is_not_made(cli: Cli, echo: str, tmp_path: Path, target: str) -> None:
    told = cli.json("request", echo if target == "ADDR" else target, "1", "--state", str(tmp_path / "missing"))
    assert (told.status, told.line["error"]) == (1, "StateError")
    assert not list(tmp_path.iterdir())


def test_files_without_a_target_are_of_no_use(cli: Cli, state: str) -> None:
    told = cli.json("bench", "--state", state)
    assert (told.status, told.line["error"]) == (2, "UsageError")


@pytest.mark.parametrize("relay", ["nonsense", "/ip4/127.0.0.1/tcp/1"])
def test_a_relay_that_is_none(cli: Cli, echo: str, relay: str) -> None:
    told = cli.json("request", echo, "1", "--relay", relay)
    assert (told.status, told.line["error"]) == (2, "InvalidAddress")
    assert relay in told.line["message"]
