"""The way into other machines' containers: stand-ins for ssh and docker, and Open MPI where there is one."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from server_processes import ROOT
from test_launch import launch, write_trtllm

AGENT = ROOT / "docker" / "mpi_agent.sh"
PROGRAMS = {
    # Joins its words for a shell of the other side, as ssh does; machines do not share folders for temporary files.
    "ssh": 'export FAKE_NODE=$1 TMPDIR="$TMPDIR/$1"; mkdir -p "$TMPDIR"; shift; exec sh -c "$*"',
    "docker": '[ "$1 $2 $3" = "exec -i conch" ] || exit 9; shift 3; exec "$@"',
    "tritonserver": 'echo "$OMPI_COMM_WORLD_RANK $FAKE_NODE $OMPI_COMM_WORLD_LOCAL_RANK $*"',
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMPI_MCA_plm_rsh_agent": str(AGENT), "TMPDIR": str(tmp_path)}


QUOTED = ["echo 'a  b' \"$FAKE_NODE\"; echo \"it's\" \\$HOME", "printf '%s|' \"a'b\" 'c\"d'"]


@pytest.mark.parametrize("command", QUOTED)
def test_a_command_arrives_as_it_was_given(environment: dict[str, str], command: str) -> None:
    here = subprocess.run(["sh", "-c", command], env={**environment, "FAKE_NODE": "b"}, capture_output=True, check=True)
    there = subprocess.run([str(AGENT), "b", command], env=environment, capture_output=True, check=True)
    assert there.stdout == here.stdout != b""


def test_it_enters_the_container_that_is_named(environment: dict[str, str]) -> None:
    done = subprocess.run([str(AGENT), "b", "true"], env={**environment, "CONCH_CONTAINER": "other"}, check=False)
    assert done.returncode == 9


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no Open MPI on this machine")
def test_open_mpi_starts_each_rank_where_its_gpu_is(environment: dict[str, str], tmp_path: Path) -> None:
    """tp 8, pp 2 on two machines of eight: the command that launch.py prints, run."""
    planned = launch(write_trtllm(tmp_path, tp_size=16, backend={"num_nodes": 2}), hosts=["a", "b"])
    done = subprocess.run(planned.command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{shlex.join(planned.command)}: {done.stderr}"
    ranks = sorted((line.split(maxsplit=3) for line in done.stdout.splitlines()), key=lambda words: int(words[0]))
    assert [(int(rank), node, int(gpu)) for rank, node, gpu, _ in ranks] == [
        (rank, "ab"[rank // 8], rank % 8) for rank in range(16)
    ]
    assert ["--http-port=" in words[3] for words in ranks] == [True] + [False] * 15
