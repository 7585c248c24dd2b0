"""``up`` where a server is up already, or another command is starting one."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from server_processes import echo_spec, wait_until, write_echo_release

from conch.errors import ServerError
from conch.repository.artifacts import Artifacts, Provenance
from conch.repository.layout import write_release
from conch.server import background
from conch.server.settings import Settings
from conch.server.state import READY, PidFile, RunDir, State, this_process


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a repository that pins release 1."""
    write_echo_release(tmp_path / "repository", echo_spec(), tmp_path / "scratch")
    return Settings(repository=tmp_path / "repository", run_dir=tmp_path / "run")


@pytest.fixture
def _held(settings: Settings) -> Iterator[None]:
    """This process passes for the supervisor of a server that serves release 1."""
    run_dir = RunDir(settings.run_dir)
    held = PidFile(run_dir)
    State(READY, this_process(), None, settings, "echo-bytes", 1, 1.5).write(run_dir)
    yield
    held.close()


@pytest.mark.usefixtures("_held")
def test_a_server_of_the_pinned_release_is_up_already(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert background.up(settings) == 0
    assert "already up" in capsys.readouterr().out


@pytest.mark.usefixtures("_held")
def test_a_server_of_another_release_is_not_taken_for_the_pinned_one(settings: Settings, tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "scratch" / "tokenizer", tmp_path / "scratch" / "engine", Provenance("", "", ""))
    write_release(settings.repository, echo_spec(max_batch_size=8), artifacts)
    with pytest.raises(ServerError) as caught:
        background.up(settings)
    assert caught.value.message == (
        f"a server is up already and serves echo-bytes, release 1; {settings.repository} now pins echo-bytes, release 2"
    )
    assert "make down" in caught.value.mend


@pytest.mark.usefixtures("_held")
def test_a_server_with_other_settings_is_not_the_one(settings: Settings) -> None:
    with pytest.raises(ServerError, match="another repository, host or ports"):
        background.up(replace(settings, http_port=7))


@pytest.mark.usefixtures("_held")
def test_a_second_up_waits_for_the_first(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    said, codes = "", []
    with RunDir(settings.run_dir).up_lock.open("a") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = threading.Thread(target=lambda: codes.append(background.up(settings)))
        second.start()

        def waits() -> bool:
            nonlocal said
            said += capsys.readouterr().out
            return "another command is starting the server" in said

        wait_until(waits, 10)
        assert not codes
    second.join()
    assert codes == [0]
