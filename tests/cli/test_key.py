from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest

from stronghold_p2p.identity import Keypair, PublicKey

from .conftest import Cli

VARIABLE = "STRONGHOLD_P2P_PASSPHRASE"


@pytest.mark.parametrize("form", ["pem", "libp2p"])
def test_show_tells_what_new_made(cli: Cli, tmp_path: Path, form: str) -> None:
    file = tmp_path / "alice.key"
    made = cli.json("key", "new", str(file), "--format", form)
    shown = cli.json("key", "show", str(file))
    assert (made.status, shown.status) == (0, 0)
    assert made.line == {"file": str(file), **shown.line}
    public_key = PublicKey.from_protobuf(base64.b64decode(shown.line["public_key"]))
    assert str(public_key.peer_id) == shown.line["peer_id"] == str(Keypair.load(file).peer_id)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_for_people_the_same_is_said_in_words(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "alice.key"
    peer_id = cli.json("key", "new", str(file)).line["peer_id"]
    shown = cli("key", "show", str(file))
    assert shown.out.splitlines()[0].split() == ["peer", "id", peer_id]


def test_a_key_file_is_overwritten_only_by_force(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "alice.key"
    first = cli.json("key", "new", str(file)).line["peer_id"]
    refused = cli.json("key", "new", str(file))
    assert (refused.status, refused.line["error"]) == (1, "KeyFileError")
    assert cli.json("key", "show", str(file)).line["peer_id"] == first
    assert cli.json("key", "new", str(file), "--force").line["peer_id"] != first


def test_the_passphrase_comes_from_the_environment(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "alice.key"
    monkeypatch.setenv(VARIABLE, "open sesame")
    made = cli.json("key", "new", str(file), "--passphrase")
    assert b"ENCRYPTED" in file.read_bytes()
    assert cli.json("key", "show", str(file)).line["peer_id"] == made.line["peer_id"]
    monkeypatch.setenv(VARIABLE, "open barley")
    wrong = cli.json("key", "show", str(file))
    assert (wrong.status, wrong.line["error"]) == (1, "KeyFileError")


def test_the_passphrase_comes_from_a_file(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, secret = tmp_path / "alice.key", tmp_path / "secret"
    secret.write_text("open sesame\nanother line\n")
    monkeypatch.setenv(VARIABLE, "open barley")  # the file goes before it
    made = cli.json("key", "new", str(file), "--passphrase-file", str(secret))
    assert str(Keypair.load(file, "open sesame").peer_id) == made.line["peer_id"]
    assert cli.json("key", "show", str(file), "--passphrase-file", str(secret)).line["peer_id"] == made.line["peer_id"]
    assert cli.json("key", "show", str(file)).line["error"] == "KeyFileError"


@pytest.mark.parametrize("line_end", [b"", b"\n", b"\r\n"])
def test_a_line_end_is_no_part_of_the_passphrase(cli: Cli, tmp_path: Path, line_end: bytes) -> None:
    file, secret = tmp_path / "alice.key", tmp_path / "secret"
    secret.write_bytes("sésame ".encode() + line_end)
    assert cli("key", "new", str(file), "--passphrase-file", str(secret)).status == 0
    assert Keypair.load(file, "sésame ")


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff", b"x" * 4097])
def test_a_passphrase_file_without_a_passphrase(cli: Cli, tmp_path: Path, content: bytes | None) -> None:
    file, secret = tmp_path / "alice.key", tmp_path / "secret"
    if content is not None:
        secret.write_bytes(content)
    made = cli.json("key", "new", str(file), "--passphrase-file", str(secret))
    assert (made.status, made.line["error"]) == (2, "UsageError")
    assert not file.exists()


def test_a_passphrase_file_needs_a_key_file(cli: Cli, tmp_path: Path) -> None:
    told = cli.json("listen", "--allow-all", "--passphrase-file", str(tmp_path / "secret"))
    assert (told.status, told.line["error"]) == (2, "UsageError")


@pytest.mark.parametrize("answers", [("open sesame", "open sesame"), ("open sesame", "open barley"), ("", "")])
def test_the_passphrase_is_asked_for_twice(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: tuple[str, str]
) -> None:
    given = iter(answers)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(given))
    made = cli.json("key", "new", str(tmp_path / "alice.key"), "--passphrase")
    if answers[0] == answers[1] != "":
        assert made.status == 0
        assert Keypair.load(tmp_path / "alice.key", answers[0])
    else:
        assert (made.status, made.line["error"]) == (2, "UsageError")
        assert not (tmp_path / "alice.key").exists()


def test_without_a_terminal_nobody_is_asked(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "alice.key"
    Keypair.generate().save(file, passphrase="open sesame")
    shown = cli.json("key", "show", str(file))
    assert (shown.status, shown.line["error"]) == (2, "UsageError")
    assert VARIABLE in shown.line["message"]


def test_libp2p_s_form_cannot_be_encrypted(cli: Cli, tmp_path: Path) -> None:
    made = cli.json("key", "new", str(tmp_path / "alice.key"), "--format", "libp2p", "--passphrase")
    assert (made.status, made.line["error"]) == (2, "UsageError")


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN PRIVATE KEY-----\nMC4CAQAw"])
def test_what_is_no_key_file(cli: Cli, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "alice.key"
    if content is not None:
        file.write_bytes(content)
        file.chmod(0o600)
    shown = cli.json("key", "show", str(file))
    assert (shown.status, shown.line["error"]) == (1, "KeyFileError")


def test_a_key_file_that_others_can_read_is_warned_about_on_stderr(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "alice.key"
    cli("key", "new", str(file))
    file.chmod(0o644)
    shown = cli.json("key", "show", str(file))
    assert shown.status == 0
    assert str(file) in shown.err
