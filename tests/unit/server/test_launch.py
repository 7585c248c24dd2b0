"""How a release for several GPUs is launched: the commands, and what is refused before anything is loaded."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from server_processes import ROOT, write_byte_tokenizer

from conch.errors import RepositoryError, ServerError
from conch.repository.artifacts import Artifacts, Provenance
from conch.repository.layout import write_release
from conch.server.launch import Launch, Mode, Ports, checked_release, plan_launch
from conch.spec import parse_spec


def write_engine(folder: Path, tp_size: int, version: str = "1.2.1", capability: str = "9.0") -> None:
    folder.mkdir(parents=True)
    config = {"version": version, "pretrained_config": {"mapping": {"tp_size": tp_size, "pp_size": 1}}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "conch_build.json").write_text(json.dumps({"compute_capability": capability, "gpu_name": "NVIDIA H100"}))
    for rank in range(tp_size):
        (folder / f"rank{rank}.engine").write_bytes(b"engine")


def write_trtllm(tmp_path: Path, *, engine: dict[str, Any] | None = None, **section: Any) -> Path:
    """A repository with a release of the runtime tensorrtllm, for the engine that is said."""
    write_byte_tokenizer(tmp_path / "tokenizer")
    write_engine(tmp_path / "engine", **{"tp_size": section.get("tp_size", 1), **(engine or {})})
    settings = {"architecture": "LlamaForCausalLM", **section}
    spec = {"runtime": "tensorrtllm", "max_seq_len": 4096, "max_batch_size": 256, "tensorrt_llm": settings}
    text = json.dumps({"name": "small", "source": {"uri": "model"}, "engine": spec})
    artifacts = Artifacts(tmp_path / "tokenizer", tmp_path / "engine", Provenance("model", "0", "0" * 64))
    write_release(tmp_path / "repository", parse_spec(text, "small"), artifacts)
    return tmp_path / "repository"


def launch(repository: Path, mode: Mode = Mode.LEADER, hosts: list[str] | None = None) -> Launch:
    spec, settings = checked_release(repository)
    return plan_launch(spec, settings, repository, mode, hosts or [], Ports(), "conch:gpu")


def ranks(command: list[str]) -> list[list[str]]:
    """The commands that mpirun starts, without mpirun."""
    parts: list[list[str]] = [[]]
    for word in command:
        if word == ":":
            parts.append([])
        else:
            parts[-1].append(word)
    return [part[part.index("tritonserver") :] for part in parts]


def test_leader_mode_starts_a_server_for_each_gpu(tmp_path: Path) -> None:
    planned = launch(write_trtllm(tmp_path, tp_size=2, pp_size=1))
    assert planned.environment == {}
    assert planned.command[:3] == ["mpirun", "--allow-run-as-root", "-n"]
    leader, worker = ranks(planned.command)
    assert {"--load-model=ensemble", "--load-model=tensorrt_llm", "--http-port=8000"} <= set(leader)
    assert "--backend-config=python,thread-pool-size=264" in leader, "a thread for each request in flight"
    assert [word for word in worker if word.startswith("--load-model")] == ["--load-model=tensorrt_llm"]
    assert not [word for word in worker if "port" in word]
    prefixes = {word for rank in (leader, worker) for word in rank if "shm-region-prefix-name" in word}
    assert len(prefixes) == 2, "two servers would share memory of one name"
    for rank in (leader, worker):
        assert "--disable-auto-complete-config" in rank
        assert "--model-control-mode=explicit" in rank
        assert "--model-repository=/model_repository" in rank


def test_the_container_sees_the_repository_where_the_backend_looks_for_it(tmp_path: Path) -> None:
    repository = write_trtllm(tmp_path, served_repository="/srv/models")
    planned = launch(repository)
    assert f"{repository.resolve()}:/srv/models:ro" in planned.container
    assert planned.container[-len(planned.command) :] == planned.command
    assert "127.0.0.1:8000:8000" in planned.container


def test_orchestrator_mode_starts_one(tmp_path: Path) -> None:
    planned = launch(write_trtllm(tmp_path, tp_size=2), Mode.ORCHESTRATOR)
    assert planned.environment == {"TRTLLM_ORCHESTRATOR": "1"}
    assert len(ranks(planned.command)) == 1
    assert planned.container[planned.container.index("--env") + 1] == "TRTLLM_ORCHESTRATOR=1"


def test_two_machines(tmp_path: Path) -> None:
    repository = write_trtllm(tmp_path, tp_size=16, backend={"num_nodes": 2})
    planned = launch(repository, hosts=["a", "b"])
    assert planned.command[planned.command.index("--host") + 1] == "a:8,b:8"
    assert len(ranks(planned.command)) == 16
    assert planned.container[planned.container.index("--network") + 1] == "host"
    for hosts, mode, message in (
        ([], Mode.LEADER, "hosts must be 2"),
        (["a"], Mode.LEADER, "hosts must be 2"),
        (["a", "b", "c"], Mode.LEADER, "hosts must be 2"),
        ([], Mode.ORCHESTRATOR, "orchestrator mode is for one machine, got 2"),
    ):
        with pytest.raises(ServerError, match=message):
            launch(repository, mode, hosts)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"version": "1.1.0"}, "compiled for TensorRT-LLM 1.1.0, and the spec has 1.2.1"),
        ({"tp_size": 4}, "compiled for tp_size 4, and the spec has 2"),
        ({"capability": "8.0"}, "compiled for compute capability 8.0, and the spec has 9.0"),
    ],
)
def test_an_engine_that_is_not_the_spec_s_is_refused(tmp_path: Path, engine: dict[str, Any], message: str) -> None:
    repository = write_trtllm(tmp_path, engine=engine, tp_size=2, compute_capability="9.0")
    with pytest.raises(RepositoryError) as caught:
        checked_release(repository)
    assert message in caught.value.message


def test_half_an_engine_is_refused(tmp_path: Path) -> None:
    repository = write_trtllm(tmp_path, tp_size=2)
    (repository / "llama_engine/1/engine/rank1.engine").unlink()
    with pytest.raises(RepositoryError, match=r"rank1\.engine is missing"):
        checked_release(repository)


def run(
    tmp_path: Path, repository: Path, *flags: str, gpus: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    programs = tmp_path / "programs"
    programs.mkdir(exist_ok=True)
    if gpus:
        (programs / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '{gpus}'\n")
        (programs / "nvidia-smi").chmod(0o755)
    return subprocess.run(
        [sys.executable, str(ROOT / "build_scripts/launch.py"), "--repository", str(repository), *flags],
        env={"PATH": str(programs), **environment}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_command_prints_what_a_shell_can_run(tmp_path: Path) -> None:
    repository = write_trtllm(tmp_path, tp_size=2)
    done = run(tmp_path, repository, "--dry-run", "--image", "conch:gpu")
    assert (done.returncode, done.stderr) == (0, "")
    planned = launch(repository)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    assert [shlex.split(line) for line in lines] == [planned.command, planned.container]


@pytest.mark.parametrize(
    ("gpus", "message"),
    [
        ("", "nvidia-smi is not here"),
        ("NVIDIA A100, 8.0, 81920\\n" * 2, "compiled for compute capability 9.0, and this machine has 8.0"),
        ("NVIDIA H100, 9.0, 81559\\n", "compiled for 2 GPUs (tp_size 2, pp_size 1), and there are 1"),
    ],
)
def test_another_machine_is_refused_before_anything_is_loaded(tmp_path: Path, gpus: str, message: str) -> None:
    done = run(tmp_path, write_trtllm(tmp_path, tp_size=2), gpus=gpus)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_machine_that_fits(tmp_path: Path) -> None:
    done = run(tmp_path, write_trtllm(tmp_path, tp_size=2), gpus="NVIDIA H100, 9.0, 81559\\n" * 2)
    assert done.returncode == 0
    assert "mpirun" in done.stdout


@pytest.mark.parametrize(
    ("flags", "release", "message"),
    [
        (["--run"], "25.08", "compiled for TensorRT-LLM 1.2.1, and this container (25.08) has 0.21.0"),
        (["--run"], "26.09", "compiled for TensorRT-LLM 1.2.1, and this container (26.09) is not known to carry it"),
        (["--image", "nvcr.io/nvidia/tritonserver:25.12-trtllm-python-py3"], "", "25.12-trtllm-python-py3 has 1.1.0"),
        (["--image", "conch:old", "--dry-run"], "", "the image conch:old (26.02) has 1.1.0"),
    ],
)
def test_an_older_container_is_refused_with_both_sides_named(
    tmp_path: Path, flags: list[str], release: str, message: str
) -> None:
    repository = write_trtllm(tmp_path)
    (tmp_path / "programs").mkdir()
    docker = tmp_path / "programs" / "docker"
    docker.write_text("""#!/bin/sh\necho '["A=b", "NVIDIA_TRITON_SERVER_VERSION=26.02"]'\n""")
    docker.chmod(0o755)
    environment = {"NVIDIA_TRITON_SERVER_VERSION": release} if release else {}
    done = run(tmp_path, repository, *flags, gpus="NVIDIA H100, 9.0, 81559\\n", **environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr


def test_a_version_that_cannot_be_known_is_said_to_be_unchecked(tmp_path: Path) -> None:
    repository, gpus = write_trtllm(tmp_path), "NVIDIA H100, 9.0, 81559\\n"
    done = run(tmp_path, repository, "--image", "conch:gpu", gpus=gpus)
    unchecked = "# not checked, since it cannot be known here: the version of TensorRT-LLM in "
    assert (done.returncode, done.stdout.count(f"{unchecked}conch:gpu")) == (0, 1)
    assert unchecked not in run(tmp_path, repository, gpus=gpus).stdout
    assert unchecked not in run(tmp_path, repository, "--run", gpus=gpus, NVIDIA_TRITON_SERVER_VERSION="26.07").stdout
    assert f"{unchecked}this environment" in run(tmp_path, repository, "--run", gpus=gpus).stdout


def test_run_takes_the_place_of_the_command(tmp_path: Path) -> None:
    repository = write_trtllm(tmp_path, tp_size=2)
    (tmp_path / "programs").mkdir()
    mpirun = tmp_path / "programs" / "mpirun"
    mpirun.write_text('#!/bin/sh\nprintf "%s\\n" "$TRTLLM_ORCHESTRATOR" "$@"\nexit 7\n')
    mpirun.chmod(0o755)
    done = run(tmp_path, repository, "--run", "--mode", "orchestrator", gpus="NVIDIA H100, 9.0, 81559\\n" * 2)
    assert (done.returncode, done.stderr) == (7, "")
    command = launch(repository, Mode.ORCHESTRATOR).command
    assert done.stdout.splitlines()[-len(command) :] == ["1", *command[1:]]
    assert "docker" not in done.stdout


def test_run_without_mpirun_says_so(tmp_path: Path) -> None:
    repository = write_trtllm(tmp_path)
    assert run(tmp_path, repository, "--run", "--dry-run").returncode == 2
    done = run(tmp_path, repository, "--run", gpus="NVIDIA H100, 9.0, 81559\\n")
    assert done.returncode == 1
    assert "mpirun cannot be run: No such file or directory" in done.stderr
