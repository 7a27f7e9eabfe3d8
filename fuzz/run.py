"""One target after the other, each in a process that is forked: the library is instrumented once."""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import atheris

from fuzz import corpus

if TYPE_CHECKING:
    from fuzz.target import Target  # it imports the library, which is to be instrumented first

__all__ = ["Options", "Result", "fuzz_all", "load"]

MAX_SECONDS = 1.0
"""Of the processor's time for one input. The dearest valid ones take some 20 ms with all that watches them."""

LIMITS = ("-rss_limit_mb=400", "-timeout=60", "-print_final_stats=1")
"""Memory of a process, of which the interpreter and the library take some 100 MB; and the seconds after which an input that
never ends is a finding."""

MAX_KEPT = 32
MAX_KEPT_SIZE = 256
"""Inputs of a target that are kept, and the bytes of one: the shortest."""


@dataclass(frozen=True)
class Options:
    """What is the same for all targets."""

    seconds: float
    runs: int
    """-1: as many as there is time for."""
    seed: int
    keep: bool
    """In corpora/, the inputs that reached more."""


@dataclass(frozen=True)
class Result:
    """What became of one target."""

    name: str
    inputs: int
    edges: int
    """Of the library's bytecode that were taken."""
    finding: str
    """Why, and the input in hexadecimal digits; empty: none."""


def load() -> dict[str, Target]:
    """All targets; the library tells where an input has led."""
    with redirect_stderr(io.StringIO()), atheris.instrument_imports(include=["stronghold_p2p"]):
        from fuzz.table import TARGETS

        # What is imported on first use, too; a finding is told when it is the target's turn.
        for target in TARGETS.values():
            for seed in target.seeds():
                with suppress(Exception):
                    target.check(seed)
    return TARGETS


def fuzz_all(targets: Iterable[Target], options: Options) -> Iterator[Result]:
    """As many at once as there are processors."""
    waiting = list(reversed(list(targets)))
    running: dict[int, tuple[Target, Path]] = {}
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            target = waiting.pop()
            folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
            corpus.unpack([*target.seeds(), *corpus.read(target.name)], folder / "corpus")
            pid = os.fork()
            if pid == 0:
                _fuzz(target, folder, options)
            running[pid] = target, folder
        pid, status = os.wait()
        target, folder = running.pop(pid)
        result = _result(target, folder, os.waitstatus_to_exitcode(status))
        if options.keep and not result.finding:
            inputs = sorted((path.read_bytes() for path in (folder / "corpus").iterdir()), key=len)
            corpus.write(target.name, [data for data in inputs if len(data) <= MAX_KEPT_SIZE][:MAX_KEPT])
        shutil.rmtree(folder)
        yield result


def _fuzz(target: Target, folder: Path, options: Options) -> NoReturn:
    """In the child."""
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)

    def check(data: bytes) -> None:
        began = time.process_time()
        target.check(data)
        seconds = time.process_time() - began
        assert seconds < MAX_SECONDS, f"it took {seconds:.1f} s"

    arguments = (
        "fuzz",
        f"-seed={options.seed}",
        f"-max_len={target.max_size}",
        f"-max_total_time={options.seconds:.0f}",
        f"-runs={options.runs}",
        f"-artifact_prefix={folder}/finding-",
        *LIMITS,
        str(folder / "corpus"),
    )
    atheris.Setup(list(arguments), check)
    atheris.Fuzz()
    os._exit(1)  # it does not return


def _result(target: Target, folder: Path, status: int) -> Result:
    log = (folder / "log").read_text(errors="replace")
    finding = ""
    if status:
        # The first line of an error that is not indented ends the traceback; else libFuzzer says why.
        why = re.search(r"^(?:AssertionError|[\w.]+(?:Error|Exception|Exit)|==\d+== ERROR).*", log, re.MULTILINE)
        inputs = [path.read_bytes().hex() for path in folder.glob("finding-*")]
        finding = f"{why[0] if why else f'status {status}'}: --only {target.name} --input {''.join(inputs)}"
    return Result(
        target.name,
        _number(r"stat::number_of_executed_units:\s*(\d+)", log) or _number(r"^#(\d+)", log),
        _number(r"cov: (\d+)", log),
        finding,
    )


def _number(pattern: str, log: str) -> int:
    """The last one."""
    return int((re.findall(pattern, log, re.MULTILINE) or ["0"])[-1])
