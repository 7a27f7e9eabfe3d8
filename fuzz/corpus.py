"""Inputs that are kept: a file for each target, with one of them a line, in hexadecimal digits."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

__all__ = ["read", "unpack", "write"]

FOLDER = Path(__file__).parent / "corpora"


def read(name: str) -> list[bytes]:
    """Those of a target; none if nothing was kept yet."""
    path = FOLDER / f"{name}.hex"
    return [bytes.fromhex(line) for line in path.read_text().splitlines()] if path.exists() else []


def write(name: str, inputs: Iterable[bytes]) -> None:
    """Keeps these instead."""
    lines = sorted({data.hex() for data in inputs if data}, key=lambda line: (len(line), line))
    (FOLDER / f"{name}.hex").write_text("".join(f"{line}\n" for line in lines))


def unpack(inputs: Iterable[bytes], folder: Path) -> None:
    """Each to a file of its own, as libFuzzer has them."""
    folder.mkdir()
    for data in inputs:
        (folder / sha256(data).hexdigest()[:16]).write_bytes(data)
