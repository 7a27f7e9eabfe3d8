"""Descriptors 0, 1 and 2 closed, or leading where nothing can be read or written."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stronghold_p2p.identity import Keypair

from .conftest import WAIT, listening, process, python

pytestmark = pytest.mark.slow

FULL = "/dev/full"


def shell(redirection: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command as a shell does, with a redirection, such as one that closes what Python would open."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "stronghold_p2p", *arguments],
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
        env={**os.environ, **environment},
    )


def run(*arguments: str, **paths: str) -> tuple[int, str, str]:
    """Runs a command with files as some of its streams; its status, and what it prints on the others."""
    with contextlib.ExitStack() as stack:
        files: dict[str, Any] = {
            name: stack.enter_context(open(path, "r" if path == os.devnull else "w")) for name, path in paths.items()
        }
        ran = stack.enter_context(process(*arguments, **files))
        out, err = ran.communicate(timeout=WAIT)
        return ran.returncode, out or "", err or ""


@pytest.mark.parametrize(
    ("redirection", "printed"),
    [
        ("<&-", True),
        ("2>&-", True),
        ("<&- 2>&-", True),
        ("0>/dev/null", True),
        (">&-", False),
        ("<&- >&-", False),
        (">&- 2>&-", False),
        ("<&- >&- 2>&-", False),
    ],
)
def test_a_request_needs_none_of_them(echo: str, redirection: str, printed: bool) -> None:
    ran = shell(redirection, "request", echo, "[1]")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "[1]\n" if printed else "", "")


def test_what_is_closed_is_empty(echo: str) -> None:
    ran = shell("<&-", "request", echo, "-")
    assert (ran.returncode, ran.stderr.partition(":")[0]) == (2, "UsageError")


def test_a_passphrase_is_not_asked_for_where_nobody_sees_it(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    Keypair.generate().save(key, passphrase="open sesame")
    for redirection in ("2>&-", "<&- >&- 2>&-"):
        assert shell(redirection, "key", "show", str(key)).returncode == 2
        assert shell(redirection, "key", "show", str(key), STRONGHOLD_P2P_PASSPHRASE="open sesame").returncode == 0


def test_a_handlers_command_has_them_too() -> None:
    """What it writes to stderr must not end up in a socket that took the number."""
    code = "import os, json; json.dump([os.fstat(2).st_rdev, os.stat(os.devnull).st_rdev], open(1, 'w'))"
    closed = {"anew": True, "preexec_fn": lambda: os.close(2)}
    with listening("--allow-all", "--handler", python(code), **closed) as address:
        ran = shell("", "request", address, "1")
    stderr, null = ran.stdout.strip("[]\n").split(",")
    assert stderr == null


@pytest.mark.parametrize(
    ("stdout", "command"),
    [
        (FULL, "request ADDR 1"),
        (FULL, "request ADDR 1 --json"),
        (os.devnull, "request ADDR 1 --json"),
        (FULL, "ping ADDR --count 1"),
        (FULL, "key show KEY"),
        (FULL, "key show KEY --json"),
        (FULL, "request --help"),
        (FULL, "--help"),
        (FULL, "listen --allow-all --json"),
    ],
)
def test_a_stdout_that_takes_nothing_is_an_error_of_one_line(
    echo: str, tmp_path: Path, stdout: str, command: str
) -> None:
    key = tmp_path / "key.pem"
    Keypair.generate().save(key)
    arguments = command.replace("ADDR", echo).replace("KEY", str(key)).split()
    status, _, err = run(*arguments, stdout=stdout)
    assert status == 1
    assert ("No space left on device" if stdout == FULL else "Bad file descriptor") in err
    assert err.index("\n") == len(err) - 1
    assert run(*arguments, stdout=stdout, stderr=FULL)[0] == 1


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_an_error_that_cannot_be_told_keeps_its_status(flags: tuple[str, ...]) -> None:
    command = ("request", "bob", "1", *flags)
    assert run(*command, stderr=FULL)[0] == 2
    assert run(*command, stdout=FULL, stderr=FULL)[0] == 2
    assert shell(">&- 2>&-", *command).returncode == 2


def test_a_log_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    Keypair.generate().save(key)
    key.chmod(0o644)  # which is warned of
    assert run("key", "show", str(key), stderr=FULL)[0] == 0


def test_a_reader_that_has_left(echo: str) -> None:
    ran = subprocess.run(
        [
            "sh",
            "-c",
            '"$@"; echo $? >&2',
            "sh",
            sys.executable,
            "-m",
            "stronghold_p2p",
            "ping",
            echo,
            "--count",
            "100000",
        ],
        stdout=closed_pipe(),
        stderr=subprocess.PIPE,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert ran.stderr == "OutputFailed: cannot write to stdout: Broken pipe\n1\n"


def closed_pipe() -> int:
    read_end, write_end = os.pipe()
    os.close(read_end)
    return write_end


@pytest.mark.parametrize(("hard", "expected"), [(700, 700), (20_000, 16_384)])
def test_a_peer_may_open_as_many_as_the_system_allows(hard: int, expected: int) -> None:
    code = (
        "import resource as r; from stronghold_p2p.cli import descriptors;"
        f" r.setrlimit(r.RLIMIT_NOFILE, (128, {hard})); descriptors.raise_limit();"
        " print(*r.getrlimit(r.RLIMIT_NOFILE))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=WAIT)
    assert printed.stdout == f"{expected} {hard}\n"
