import os
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from server_processes import started

from conch.errors import ServerError
from conch.server.procfs import Process
from conch.server.settings import Settings
from conch.server.state import READY, PidFile, RunDir, State, holder_pid, is_held, this_process, write_admin_key

HOLD = """
import sys, time
from pathlib import Path
from conch.server.state import PidFile, RunDir
held = PidFile(RunDir(Path(sys.argv[1])))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def make_state(run_dir: RunDir) -> State:
    settings = Settings(repository=run_dir.path / "repository", run_dir=run_dir.path)
    return State(READY, this_process(), Process(7, 8), settings, "smol", 3, 1.5, 2, ("region-1", "region-2"))


def test_a_state_is_read_as_it_was_written(run_dir: RunDir) -> None:
    run_dir.path.mkdir()
    for state in (make_state(run_dir), replace(make_state(run_dir), triton=None, shm_regions=())):
        state.write(run_dir)
        assert State.read(run_dir) == state


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"phase": "ready"}', '"x"', "3"])
def test_a_damaged_state_is_none(run_dir: RunDir, text: str) -> None:
    run_dir.path.mkdir()
    run_dir.state_file.write_text(text)
    assert State.read(run_dir) is None


def test_no_state_is_none(run_dir: RunDir) -> None:
    assert State.read(run_dir) is None


def test_a_pid_file_is_held_once_and_given_back(run_dir: RunDir) -> None:
    assert not is_held(run_dir)
    held = PidFile(run_dir)
    assert is_held(run_dir)
    assert holder_pid(run_dir) == os.getpid()
    with pytest.raises(ServerError, match=rf"is up already \(pid {os.getpid()}\)"):
        PidFile(run_dir)
    held.close()
    assert not is_held(run_dir)
    PidFile(run_dir).close()


def test_a_killed_holder_holds_no_more(run_dir: RunDir) -> None:
    with started([sys.executable, "-c", HOLD, str(run_dir.path)]) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        assert is_held(run_dir)
    assert not is_held(run_dir)


def test_the_admin_key_is_new_each_time_and_its_owners_alone(run_dir: RunDir) -> None:
    run_dir.path.mkdir()
    run_dir.admin_key_file.write_text("old")
    run_dir.admin_key_file.chmod(0o644)
    keys = {write_admin_key(run_dir) for _ in range(3)}
    assert len(keys) == 3
    assert min(map(len, keys)) >= 32
    assert run_dir.admin_key_file.read_text().strip() in keys
    assert stat.S_IMODE(run_dir.admin_key_file.stat().st_mode) == 0o600
