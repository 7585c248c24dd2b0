"""The commands as people run them: real processes, a real pip, a real index; killed, interrupted, out of space."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_index import ROOT, Index
from small_models import gguf_bytes, small_metadata, write_small_gguf, write_small_huggingface

from conch.build.gguf import GgufHeader
from conch.build.gguf_tokenizer import convert_gguf_tokenizer
from conch.build.plan import release_paths
from conch.spec import load_spec

GOLDEN = Path(__file__).parent / "golden"
TIMEOUT_S = 120


class Commands:
    """Runs build commands in a folder of their own.

    Attributes:
        folder: working directory; holds ``cache`` and ``repository``.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment

    def start(self, name: str, *arguments: str | Path, largest_file_kib: int | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "build_scripts" / f"{name}.py"), *map(str, arguments)]
        if largest_file_kib is not None:
            command = ["bash", "-c", f'ulimit -f {largest_file_kib}; exec "$@"', "bash", *command]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def run(self, name: str, *arguments: str | Path, largest_file_kib: int | None = None) -> tuple[int, str, str]:
        """Exit status, standard output and standard error."""
        process = self.start(name, *arguments, largest_file_kib=largest_file_kib)
        output, errors = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, output, errors

    def build(self, spec: Path, *more: str | Path) -> tuple[int, str, str]:
        return self.run("build", "--spec", spec, "--repository", "repository", "--cache", "cache", *more)

    def half_built(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if ".staging" in path.name]


@pytest.fixture
def commands(tmp_path: Path, index: Index) -> Commands:
    folder = tmp_path / "work"
    folder.mkdir()
    return Commands(folder, index.environment)


@pytest.fixture
def spec(index: Index, write_spec: Callable[..., Path]) -> Path:
    return write_spec(index)


def test_build_twice_then_check(commands: Commands, spec: Path) -> None:
    status, output, errors = commands.build(spec)
    assert (status, errors) == (0, "")
    assert "small, version 1, is in repository" in output
    assert output.endswith(f"next: make serve SPEC={spec} REPOSITORY=repository\n")
    before = {path: path.stat().st_mtime_ns for path in commands.folder.rglob("*") if path.name != ".lock"}
    status, output, errors = commands.build(spec)
    assert (status, errors) == (0, "")
    assert "nothing to do: repository holds small, version 1, and is whole" in output
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert commands.run("check", "--repository", "repository")[:2] == (0, "repository is whole: small, version 1\n")


def test_dry_run_is_golden_and_changes_nothing(commands: Commands) -> None:
    write_small_gguf(commands.folder / "small.gguf")
    (commands.folder / "small.yaml").write_text(
        "name: small\nsource: {uri: small.gguf}\nengine: {deterministic: true}\n"
    )
    before = sorted(commands.folder.rglob("*"))
    status, output, errors = commands.build(Path("small.yaml"), "--version", "7", "--dry-run")
    assert (status, errors) == (0, "")
    assert output == (GOLDEN / "dry_run.txt").read_text()
    assert sorted(commands.folder.rglob("*")) == before


def test_dry_run_names_the_files_that_are_written(commands: Commands, tmp_path: Path) -> None:
    write_small_gguf(commands.folder / "small.gguf")
    spec = tmp_path / "small.yaml"
    spec.write_text("name: small\nsource: {uri: small.gguf}\n")
    assert commands.build(spec)[0] == 0
    repository = commands.folder / "repository"
    written = {p.relative_to(repository) for p in repository.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert written - {Path(".lock")} == set(release_paths(load_spec(spec), 1))


def test_fetch_alone(commands: Commands, spec: Path) -> None:
    assert "download the wheel small-model==1.0" in commands.run("fetch", "--spec", spec, "--dry-run")[1]
    assert not (commands.folder / ".cache").exists()
    status, output, errors = commands.run("fetch", "--spec", spec)
    assert (status, errors) == (0, "")
    assert "pypi://small-model==1.0 fetched: .cache/sources/" in output
    assert "pypi://small-model==1.0 is there" in commands.run("fetch", "--spec", spec)[1]
    assert "nothing: pypi://small-model==1.0 is in .cache" in commands.run("fetch", "--spec", spec, "--dry-run")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--spec", "x.yaml", "--dryrun"], "unrecognized arguments: --dryrun"),
        (["--spec", "x.yaml", "--dry"], "unrecognized arguments: --dry"),
        ([], "required: --spec"),
        (["--spec", "x.yaml", "--version", "0"], "--version: must be a whole number >= 1, got '0'"),
        (["--spec", "x.yaml", "--version", "1.5"], "--version: must be a whole number >= 1, got '1.5'"),
    ],
)
def test_usage_errors(commands: Commands, arguments: list[str], message: str) -> None:
    status, _, errors = commands.run("build", *arguments)
    assert status == 2
    assert message in errors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name: x\nsource: {uri: none.gguf}\n",
            "error: source.uri must be a file or folder that exists, got none.gguf\n",
        ),
        ("name: x\nsource: {uri: x.yaml}\n", "error: x.yaml must be a GGUF file, and does not begin as one\n"),
        ("name: x\nsource: {uri: small.gguf}\nengin: {}\n", "error: x.yaml: unknown key engin\n"),
        (
            "name: x\nsource: {uri: small.gguf, sha256: " + "f" * 64 + "}\n",
            f"error: source.sha256 of small.gguf must be {'f' * 64}, got ",
        ),
        (
            "name: x\nsource: {uri: small.gguf}\nengine: {weights: int8}\n",
            "error: engine.weights must be as_is for a GGUF file, which has its weights packed, got int8\n",
        ),
        (
            "name: x\nsource: {uri: small.gguf}\nengine: {max_seq_len: 999}\n",
            "error: engine.max_seq_len must be at most 128, the model's context, got 999\n",
        ),
    ],
)
def test_errors_are_lines(commands: Commands, text: str, message: str) -> None:
    write_small_gguf(commands.folder / "small.gguf")
    (commands.folder / "x.yaml").write_text(text)
    status, _, errors = commands.build(Path("x.yaml"))
    assert status == 1
    assert errors.startswith(message)
    assert errors.count("\n") <= 2
    assert commands.half_built() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general__architecture": "mamba"}, "general.architecture of a GGUF file must be one of llama, qwen2, qwen3"),
        ({"llama__rope__scaling__type": "linear"}, "llama.rope.scaling of a GGUF file must be none, got linear"),
        ({"tokenizer__ggml__pre": "tekken"}, "tokenizer.ggml.pre must be one of"),
    ],
)
def test_gguf_files_that_would_run_wrongly(commands: Commands, changes: dict[str, str], message: str) -> None:
    write_small_gguf(commands.folder / "small.gguf", mamba__context_length=128, **changes)
    (commands.folder / "x.yaml").write_text("name: x\nsource: {uri: small.gguf}\n")
    status, _, errors = commands.build(Path("x.yaml"))
    assert (status, errors.splitlines()[0].startswith(f"error: {message}")) == (1, True), errors


def test_a_tensor_type_that_the_engine_does_not_read(commands: Commands) -> None:
    (commands.folder / "small.gguf").write_bytes(gguf_bytes(small_metadata(), {"a.weight": 3, "b.weight": 7}))
    (commands.folder / "x.yaml").write_text("name: x\nsource: {uri: small.gguf}\n")
    status, _, errors = commands.build(Path("x.yaml"))
    assert status == 1
    assert "must be of the types F32, F16, Q4_0, Q4_1, Q8_0, Q4_K, Q6_K, got b.weight of Q5_1\n" in errors


def test_export_needs_its_environment(commands: Commands, tmp_path: Path) -> None:
    folder = commands.folder / "model"
    shutil.copytree(huggingface_folder(tmp_path), folder)
    spec = commands.folder / "x.yaml"
    spec.write_text("name: x\nsource: {uri: model}\nengine: {weights: int4, weights_group_size: 32}\n")
    status, _, errors = commands.build(spec)
    assert status == 1
    assert errors == (
        "error: export of a Hugging Face checkpoint needs an environment of its own, and .venv-export/bin/python "
        "is not there\nRun make setup-export, or name its Python with --export-python or CONCH_EXPORT_PYTHON\n"
    )
    status, _, errors = commands.build(spec, "--export-python", sys.executable)
    assert (status, errors.splitlines()[0].endswith("is missing")) == (1, True), errors
    spec.write_text("name: x\nsource: {uri: model}\nengine: {weights: int4, weights_group_size: 64}\n")
    _, _, errors = commands.build(spec, "--export-python", sys.executable)
    assert errors == "error: engine.weights_group_size must divide the model's intermediate_size 96, got 64\n"


def huggingface_folder(tmp_path: Path) -> Path:
    tokenizer = convert_gguf_tokenizer(GgufHeader(small_metadata(), {})).tokenizer
    return write_small_huggingface(tmp_path / "huggingface", tokenizer.to_str())


def test_a_wrong_checksum(commands: Commands, index: Index, write_spec: Callable[..., Path]) -> None:
    status, _, errors = commands.build(write_spec(index, sha256="f" * 64))
    assert status == 1
    assert errors.startswith(f"error: sha256 of the wheel small-model==1.0 must be {'f' * 64}, got {index.sha256}\n")
    assert list(commands.folder.glob("cache/sources/*")) == []


def test_a_file_that_the_wheel_does_not_hold(commands: Commands, index: Index, write_spec: Callable[..., Path]) -> None:
    status, _, errors = commands.build(write_spec(index, file="small_model/none.gguf"))
    assert (status, errors.startswith("error: source.file must name one file of small_model-1.0")) == (1, True)


@pytest.fixture
def stalled(commands: Commands, spec: Path, index: Index) -> Iterator[subprocess.Popen[str]]:
    """A build that hangs in the middle of a download."""
    index.stall.set()
    process = commands.start("build", "--spec", spec, "--repository", "repository", "--cache", "cache")
    assert index.asked.wait(TIMEOUT_S)
    assert len(commands.half_built()) == 1
    yield process
    if process.poll() is None:
        process.kill()
        process.communicate()


def pip_of(process: subprocess.Popen[str]) -> int:
    """Process id of the pip that a build runs."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    return int(children[0])


def is_running(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("number", "to_group", "status", "word"),
    [
        (signal.SIGINT, True, 130, "interrupted"),  # Ctrl-C: pip gets it, too
        (signal.SIGINT, False, 130, "interrupted"),
        (signal.SIGTERM, False, 143, "terminated"),
    ],
)
def test_stopped_in_a_download(
    commands: Commands, stalled: subprocess.Popen[str], number: int, to_group: bool, status: int, word: str
) -> None:
    pip = pip_of(stalled)
    if to_group:
        os.killpg(stalled.pid, number)
    else:
        os.kill(stalled.pid, number)
    _, errors = stalled.communicate(timeout=TIMEOUT_S)
    assert stalled.returncode == status
    assert errors == f"{word}: nothing half-built is left; run the same command to go on\n"
    assert commands.half_built() == []
    assert not is_running(pip)


def test_killed_in_a_download_then_built(
    commands: Commands, stalled: subprocess.Popen[str], index: Index, spec: Path
) -> None:
    pip = pip_of(stalled)
    stalled.kill()
    stalled.communicate(timeout=TIMEOUT_S)
    left = commands.half_built()
    assert len(left) == 1
    index.stall.clear()
    status, output, _ = commands.build(spec)
    assert status == 0
    assert f"removing {left[0].relative_to(commands.folder)}: a build that was killed left it" in output
    assert commands.half_built() == []
    assert not is_running(pip)


def test_two_builds_at_once(commands: Commands, stalled: subprocess.Popen[str], index: Index, spec: Path) -> None:
    second = commands.start("build", "--spec", spec, "--repository", "repository", "--cache", "cache")
    assert second.stdout is not None
    assert second.stdout.readline() == "another build works in cache; waiting for it to end\n"
    index.stall.clear()
    os.kill(stalled.pid, signal.SIGINT)
    stalled.communicate(timeout=TIMEOUT_S)
    output, errors = second.communicate(timeout=TIMEOUT_S)
    assert (second.returncode, errors) == (0, "")
    assert "small, version 1, is in repository" in output


def test_builds_at_once_make_one_release(commands: Commands, spec: Path) -> None:
    arguments = ("build", "--spec", spec, "--repository", "repository", "--cache", "cache")
    processes = [commands.start(*arguments) for _ in range(3)]
    ends = [process.communicate(timeout=TIMEOUT_S) for process in processes]
    for process, (output, errors) in zip(processes, ends, strict=True):
        assert process.returncode == 0, output + errors
    made = [output for output, _ in ends if "version 1, is in repository" in output]
    assert len(made) == 1
    assert sorted(p.name for p in (commands.folder / "repository/ensemble").iterdir()) == ["1", "config.pbtxt"]


def test_a_damaged_cache_is_mended(commands: Commands, spec: Path) -> None:
    assert commands.build(spec)[0] == 0
    for path in commands.folder.glob("cache/*/*/files/*"):
        path.unlink()  # the engine's file is linked into the repository: a change of its content would reach that
        path.write_bytes(b"damaged")
    status, output, _ = commands.build(spec)
    assert status == 0
    assert output.count("is damaged: making it again") == 2
    assert "nothing to do" in output


def large_gguf(commands: Commands, size_bytes: int) -> Path:
    path = write_small_gguf(commands.folder / "large.gguf")
    os.truncate(path, size_bytes)  # sparse: it takes no room itself
    spec = commands.folder / "large.yaml"
    spec.write_text("name: large\nsource: {uri: large.gguf}\nengine: {runtime: echo}\n")
    return spec


def test_the_disk_fills_up_while_writing(commands: Commands) -> None:
    spec = large_gguf(commands, 8 << 20)
    arguments = ("--spec", spec, "--repository", "repository", "--cache", "cache")
    status, _, errors = commands.run("build", *arguments, largest_file_kib=4096)
    assert status == 1
    assert errors.startswith("error: no space left at cache/sources/.staging-")
    assert "8.4 MB are needed" in errors
    assert errors.endswith("Make room there, or choose another folder\n")
    assert commands.half_built() == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("what", ["cache", "repository"])
def test_a_disk_that_is_too_small_is_refused_beforehand(commands: Commands, small_disk: Path, what: str) -> None:
    spec = large_gguf(commands, 8 << 20)
    if what == "repository":
        spec.write_text("name: large\nsource: {uri: large.gguf}\n")
    (commands.folder / what).symlink_to(small_disk)
    status, _, errors = commands.build(spec)
    assert status == 1
    assert errors.splitlines()[0].startswith(f"error: no space left at {what}")
    assert "8.4 MB are needed, " in errors
    assert " are free" in errors
    assert commands.half_built() == []


@pytest.mark.skipif(not shutil.which("mount"), reason="there is no mount command here")
def test_pip_runs_out_of_space(commands: Commands, index: Index, small_disk: Path, spec: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(6 << 20))
    (commands.folder / "cache").symlink_to(small_disk)
    status, _, errors = commands.build(spec)
    assert status == 1
    assert errors.splitlines()[0].startswith("error: no space left at cache")


def test_a_folder_that_cannot_be_made(commands: Commands, spec: Path) -> None:
    (commands.folder / "cache").write_text("")
    assert commands.build(spec)[2] == "error: cache must be a folder, got the file cache\n"
    (commands.folder / "cache").unlink()
    (commands.folder / "repository").write_text("")
    assert commands.build(spec)[2] == "error: repository must be a folder, got the file repository\n"


def test_a_changed_repository_is_found(commands: Commands, spec: Path) -> None:
    status, _, errors = commands.run("check", "--repository", "repository")
    assert (status, errors.splitlines()[0]) == (
        1,
        "error: repository holds no release: repository/ensemble/config.pbtxt is missing",
    )
    assert commands.build(spec)[0] == 0
    path = commands.folder / "repository/tokenizer/1/tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text())) + " ")
    status, _, errors = commands.run("check", "--repository", "repository")
    assert (status, errors.startswith("error: repository/tokenizer/1/tokenizer.json was changed")) == (1, True)


def test_an_environment_without_the_packages(commands: Commands, spec: Path) -> None:
    command = [sys.executable, "-S", str(ROOT / "build_scripts/build.py"), "--spec", str(spec)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={}, cwd=commands.folder)
    assert done.returncode == 1
    assert done.stderr.startswith("error: conch is not installed in ")
    assert done.stderr.endswith("Run make setup, and use .venv/bin/python\n")


def test_output_that_nobody_reads(commands: Commands, spec: Path) -> None:
    shell = f"{sys.executable} {ROOT}/build_scripts/build.py --spec {spec} --dry-run | true"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=commands.folder, check=True)
    assert done.stderr == ""
