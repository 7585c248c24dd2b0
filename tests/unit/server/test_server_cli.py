import socket
from pathlib import Path

import pytest
from server_processes import echo_spec, free_ports, write_echo_release

from conch.server.__main__ import main
from conch.server.state import PidFile, RunDir


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["start"],
        ["serve", "--nonsense"],
        ["serve", "--repo", "x"],  # no abbreviations: a flag added later must not change what one means
        ["status", "--follow"],
        ["logs", "--lines", "-1"],
        ["logs", "--lines", "many"],
        ["serve", "--drain-timeout-s", "0"],
        ["serve", "--start-timeout-s", "1e3"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_bad_variable_is_one_line_and_exit_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONCH_HTTP_PORT", "http")
    assert main(["serve", f"--run-dir={tmp_path}"]) == 2
    assert capsys.readouterr().err == "error: CONCH_HTTP_PORT must be a port number in [1, 65535], got 'http'\n"


def test_what_is_down_is_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = f"--run-dir={tmp_path / 'run'}"
    assert main(["status", run_dir]) == 3
    assert main(["status", "--json", run_dir]) == 3
    assert main(["down", run_dir]) == 0
    assert capsys.readouterr().out == 'down\n{"phase": "down"}\nnot up\n'
    assert main(["logs", run_dir]) == 1
    assert "there is no log" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_serve_without_a_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", f"--repository={tmp_path}/none", f"--run-dir={tmp_path}/run"]) == 1
    error = capsys.readouterr().err
    assert "holds no release" in error
    assert "make build" in error
    assert main(["status", f"--run-dir={tmp_path}/run"]) == 3  # nothing is left behind


def test_serve_refuses_a_taken_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_echo_release(tmp_path / "repository", echo_spec(), tmp_path / "scratch")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = [*free_ports(2), taken.getsockname()[1]]
        for name, port in zip(("HTTP", "GRPC", "METRICS"), ports, strict=True):
            monkeypatch.setenv(f"CONCH_{name}_PORT", str(port))
        assert main(["serve", f"--repository={tmp_path}/repository", f"--run-dir={tmp_path}/run"]) == 1
    assert f"port {ports[2]} is taken by" in capsys.readouterr().err


def test_a_second_server_of_a_run_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = PidFile(RunDir(tmp_path))
    assert main(["serve", f"--run-dir={tmp_path}"]) == 1
    held.close()
    assert "is up already" in capsys.readouterr().err


def test_a_run_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["serve", f"--run-dir={tmp_path}/file/run"]) == 1
    assert capsys.readouterr().err.startswith("error: ")
