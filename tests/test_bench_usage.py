from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.systems import watched
from bench.usage import Machine, Usage, usage_of, waiting_of

STAT = "cpu  100 20 30 400 50 6 7 80 90 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n"


def test_a_machine_is_busy_without_what_is_stolen_and_total_with_all() -> None:
    machine = Machine.parse(STAT)
    ticks = {name: seconds / machine.total * 693 for name, seconds in vars(machine).items()}
    assert ticks == pytest.approx({"busy": 163, "stolen": 80, "total": 693})


def test_differences_are_of_each_count() -> None:
    assert Machine(5.0, 2.0, 9.0) - Machine(1.0, 1.0, 4.0) == Machine(4.0, 1.0, 5.0)
    assert Usage(5.0, 20) - Usage(1.0, 5) == Usage(4.0, 15)
    assert Usage(5.0, 20) + Usage(1.0, 5) == Usage(6.0, 25)


def test_a_process_has_page_faults_even_if_it_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b""  # now it ends, and is not waited for yet
        assert usage_of(process.pid).minor_faults > 0


@pytest.mark.skipif(
    Path("/proc/self/schedstat").read_text().startswith("0 0 0"), reason="this kernel does not count it"
)
def test_two_processes_on_one_processor_wait_for_each_other() -> None:
    processor = min(os.sched_getaffinity(0))
    work = f"import os; os.sched_setaffinity(0, [{processor}]); print(flush=True)\nwhile True: pass"
    with (
        subprocess.Popen([sys.executable, "-c", work], stdout=subprocess.PIPE) as one,
        subprocess.Popen([sys.executable, "-c", work], stdout=subprocess.PIPE) as other,
    ):
        try:
            for process in (one, other):
                assert process.stdout is not None
                assert process.stdout.readline() == b"\n"
            before, end = waiting_of(one.pid), time.monotonic() + 60
            while waiting_of(one.pid) == before:
                assert time.monotonic() < end
        finally:
            one.kill()
            other.kill()


def test_what_a_command_takes_counts_from_its_first_line_to_its_last() -> None:
    work = "print('{}', flush=True); pages = bytearray(b'x' * 4096 * 1000); print('{\"rate\": 1}')"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as listener:
        measured = watched((sys.executable, "-c", work), listener.pid)
        listener.communicate(b"\n")
    assert measured.figures == {"rate": 1}
    assert measured.took is not None
    assert measured.took.dialer.minor_faults > 0
    assert measured.took.seconds > 0


def test_a_command_with_one_line_tells_its_figures_alone() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as listener:
        measured = watched((sys.executable, "-c", "print('{\"rate\": 1}')"), listener.pid)
        listener.communicate(b"\n")
    assert (measured.figures, measured.took) == ({"rate": 1}, None)


@pytest.mark.parametrize(
    ("program", "error"), [("print(1); raise SystemExit(3)", subprocess.CalledProcessError), ("", ValueError)]
)
def test_a_command_that_fails_or_prints_nothing_is_an_error(program: str, error: type[Exception]) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as listener:
        with pytest.raises(error):
            watched((sys.executable, "-c", program), listener.pid)
        listener.communicate(b"\n")
