"""Child processes: their end, their output, and signals that come at any moment."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conch.build.children import folder_bytes, last_lines, run_child
from conch.build.progress import Progress

SIGNALS = """
import io, random, signal, time
from conch.build import children
from conch.build.progress import Progress

class Stopped(BaseException):
    pass

def stop(*_):
    raise Stopped

children._POLL_S, children._LOOK_S = 0.002, 0.0005
signal.signal(signal.SIGALRM, stop)
source = random.Random(1)
for _ in range(400):
    signal.setitimer(signal.ITIMER_REAL, 0.004 + 0.01 * source.random())
    try:
        children.run_child(["sleep", "600"], progress=Progress(io.StringIO()), title="", environment={})
        raise SystemExit("the signal was lost")
    except Stopped:
        pass
"""


def run(*command: str) -> tuple[int, str]:
    return run_child(list(command), progress=Progress(io.StringIO()), title="t", environment=dict(os.environ))


def test_status_and_output() -> None:
    assert run("sh", "-c", "echo out; echo err >&2; exit 7") == (7, "out\nerr\n")
    assert run("sh", "-c", "kill -9 $$") == (-signal.SIGKILL, "")


def test_progress_is_told() -> None:
    said = io.StringIO()
    run_child(["sleep", "0.3"], progress=Progress(said), title="sleeping", environment={}, so_far=lambda: ", so far")
    assert said.getvalue() == "sleeping\n"  # then nothing for a while: this is no terminal


def test_a_signal_at_any_moment_ends_the_child() -> None:
    subprocess.run([sys.executable, "-c", SIGNALS], check=True, timeout=120)


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        run("/nonexistent/program")


def test_last_lines() -> None:
    assert last_lines("a\n\n  b \nc\nd\n", 2) == "c | d"
    assert last_lines("") == ""


def test_folder_bytes(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/file").write_bytes(bytes(10))
    assert folder_bytes(tmp_path) == 10
    assert folder_bytes(tmp_path / "none") == 0
