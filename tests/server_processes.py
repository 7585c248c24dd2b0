"""Real servers for tests: a small release without a model, free ports, a supervisor as a child process."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conch.bound import bound
from conch.contract import (
    ENGINE,
    GRPC_PORT_VARIABLE,
    HOST_VARIABLE,
    HTTP_PORT_VARIABLE,
    METRICS_PORT_VARIABLE,
    TOKENIZER,
)
from conch.repository.artifacts import ENGINE_DIR, Artifacts, Provenance
from conch.repository.layout import Release, write_release
from conch.server.locate import BACKENDS_VARIABLE
from conch.server.state import READY, RunDir, State
from conch.spec import ModelSpec, load_spec, parse_spec
from conch.text.files import CHAT_TEMPLATE_FILE, META_FILE, TOKENIZER_FILE, TokenizerMeta

ROOT = Path(__file__).resolve().parents[1]
START_TIMEOUT_S = 300
# smollm2-135m-swapped runs the end-to-end tests over Triton's backend tensorrtllm, with OpenVINO in its place.
DEFAULT_SPEC = os.environ.get("CONCH_TEST_SPEC", "smollm2-135m")
# Specs of tests that are swapped, too, then; the others are about their own runtime.
SWAPPED_TOO = ("smollm2-135m-deterministic", "narrow")
# Behind the name of a spec: as a release for Triton's C++ backend, for the one in this folder that takes its place.
SWAPPED, BEAMS = "-swapped", "-beams"
SWAPPED_BACKENDS = ROOT / "tests" / "swapped_backends"
SWAPPED_SETTINGS = "swapped.json"  # in the folder of the engine
SWAPPED_STEP_TIMEOUT_S = 10  # tests wait for it


@dataclass(frozen=True)
class Server:
    """A server that answers.

    Attributes:
        host: where it listens.
        http_port, grpc_port, metrics_port: its ports.
        repository: what it serves.
        run_dir: its state and logs.
        supervisor: its process.
    """

    host: str
    http_port: int
    grpc_port: int
    metrics_port: int
    repository: Path
    run_dir: RunDir
    supervisor: subprocess.Popen[bytes]

    @property
    def state(self) -> State:
        """What the supervisor last wrote down."""
        state = State.read(self.run_dir)
        assert state is not None, "the server is down"
        return state


def echo_spec(*, ttft_ms: float = 0, itl_ms: float = 0, max_batch_size: int = 64) -> ModelSpec:
    """A spec of the engine without a model."""
    return parse_spec(
        f"""
        name: echo-bytes
        source: {{uri: none.gguf}}
        engine:
          runtime: echo
          echo_ttft_ms: {ttft_ms}
          echo_itl_ms: {itl_ms}
          max_batch_size: {max_batch_size}
        """,
        "echo_spec",
    )


def write_byte_tokenizer(folder: Path) -> None:
    """Write the files of a tokenizer whose tokens are single bytes, and one end token that no text has."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
    tokenizer.save(str(folder / TOKENIZER_FILE))
    TokenizerMeta(
        vocab_size=257,
        max_position_embeddings=1 << 20,
        eos_token_ids=(256,),
        pad_token_id=256,
        bos_token="",
        eos_token="<|end|>",
        add_special_tokens=False,
    ).write(folder)


def write_echo_release(repository: Path, spec: ModelSpec, scratch: Path) -> Release:
    """Write a release of the engine without a model: seconds, no download.

    Args:
        repository: made if missing.
        spec: as of echo_spec.
        scratch: an empty or missing folder for what goes into the release.
    """
    write_byte_tokenizer(scratch / "tokenizer")
    (scratch / "engine").mkdir()
    provenance = Provenance(uri="none.gguf", revision="0", sha256="0" * 64)
    return write_release(repository, spec, Artifacts(scratch / "tokenizer", scratch / "engine", provenance), None)


def build_repository(spec: str) -> Path:
    """Build a spec of build_scripts/specs, or tests/specs, as a person would; kept in the cache for the next run.

    Raises:
        RuntimeError: the build failed; holds what it said.
    """
    if spec.removesuffix(BEAMS).endswith(SWAPPED):
        return build_swapped_repository(spec)
    repository = ROOT / ".cache" / "test-repositories" / spec
    command = [sys.executable, str(ROOT / "build_scripts" / "build.py"), f"--spec={spec_file(spec)}"]
    done = subprocess.run(
        [*command, f"--repository={repository}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{spec} could not be built: {done.stdout}{done.stderr}")
    return repository


def build_swapped_repository(name: str) -> Path:
    """A release for Triton's C++ backend with the default model's files in it, for SWAPPED_BACKENDS to load.

    It is the release that a build with TensorRT-LLM writes, but for what is in its folder ``engine``: a GGUF file, and
    how OpenVINO shall run it.

    Args:
        name: of another spec, with SWAPPED behind it, whose limits and precision it has; and with BEAMS behind that, as
            if it were compiled for beam search, which rules out sampling.
    """
    base = load_spec(spec_file(name.removesuffix(BEAMS).removesuffix(SWAPPED)))
    default = build_repository("smollm2-135m")
    version = max(int(path.name) for path in (default / ENGINE.name).iterdir() if path.name.isdigit())
    repository = ROOT / ".cache" / "test-repositories" / name
    settings: dict[str, Any] = {
        "architecture": "LlamaForCausalLM", "served_repository": str(repository),
        "backend": {"guided_decoding_backend": "xgrammar", "xgrammar_tokenizer_info_path": "/none.json"},
    }  # fmt: skip
    if name.endswith(BEAMS):
        settings["build"] = {"max_beam_width": base.serving.max_sequences}
    engine = {"runtime": "tensorrtllm", "max_batch_size": base.engine.max_batch_size, "max_seq_len": 8192}
    engine["step_timeout_s"] = SWAPPED_STEP_TIMEOUT_S
    spec = {
        "name": name, "source": {"uri": "hf://HuggingFaceTB/SmolLM2-135M-Instruct@main"},
        "engine": {**engine, "tensorrt_llm": settings}, "serving": base.serving.model_dump(mode="json"),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer, engine_dir = Path(scratch, "tokenizer"), Path(scratch, "engine")
        tokenizer.mkdir()
        for file in (TOKENIZER_FILE, CHAT_TEMPLATE_FILE, META_FILE):
            shutil.copyfile(default / TOKENIZER.name / str(version) / file, tokenizer / file)
        shutil.copytree(default / ENGINE.name / str(version) / ENGINE_DIR, engine_dir)
        (engine_dir / SWAPPED_SETTINGS).write_text(base.engine.model_dump_json())
        provenance = Provenance(uri="the default model", revision="0", sha256="0" * 64)
        write_release(repository, parse_spec(json.dumps(spec), name), Artifacts(tokenizer, engine_dir, provenance))
    return repository


def spec_file(name: str) -> Path:
    """A spec of build_scripts/specs, or of tests/specs."""
    path = ROOT / "build_scripts" / "specs" / f"{name}.yaml"
    return path if path.exists() else ROOT / "tests" / "specs" / path.name


def free_ports(count: int) -> list[int]:
    """Ports that nobody listened on a moment ago; held all at once, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def server_environment(ports: list[int]) -> dict[str, str]:
    """This environment with these three ports in it, HTTP, gRPC, metrics."""
    names = (HTTP_PORT_VARIABLE, GRPC_PORT_VARIABLE, METRICS_PORT_VARIABLE)
    own = dict(zip(names, map(str, ports), strict=True))
    return {**os.environ, HOST_VARIABLE: "127.0.0.1", BACKENDS_VARIABLE: str(SWAPPED_BACKENDS), **own}


def run_command(
    *arguments: str, repository: Path, run_dir: Path, ports: list[int], timeout_s: int = START_TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m conch.server`` to its end."""
    command, *rest = arguments
    return subprocess.run(
        [sys.executable, "-m", "conch.server", command, f"--repository={repository}", f"--run-dir={run_dir}", *rest],
        env=server_environment(ports),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@contextmanager
def running_server(repository: Path, run_dir: Path, *flags: str, ports: list[int] | None = None) -> Iterator[Server]:
    """A server through the supervisor; drained at the end, and gone with this process however that ends."""
    ports = ports or free_ports(3)
    run_dir.mkdir(parents=True, exist_ok=True)
    output = run_dir / "output.txt"
    with output.open("wb") as file:
        supervisor = subprocess.Popen(
            bound(
                [
                    sys.executable, "-m", "conch.server", "serve",
                    f"--repository={repository}", f"--run-dir={run_dir}", *flags,
                ]
            ),
            env=server_environment(ports),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: _is_ready(supervisor, run_dir, output), START_TIMEOUT_S)
        yield Server("127.0.0.1", *ports, repository, RunDir(run_dir), supervisor)
    finally:
        supervisor.terminate()
        try:
            supervisor.wait(timeout=120)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait()
            raise


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A child with its output in a pipe, killed at the end."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        try:
            yield child
        finally:
            child.kill()


def wait_until(condition: object, timeout_s: float) -> None:
    """Call ``condition`` until it is true.

    Raises:
        TimeoutError: it did not become true.
    """
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not true within {timeout_s} s: {condition}")
        time.sleep(0.05)


def _is_ready(supervisor: subprocess.Popen[bytes], run_dir: Path, output: Path) -> bool:
    if supervisor.poll() is not None:
        raise RuntimeError(f"the server ended with {supervisor.returncode}: {output.read_text(errors='replace')}")
    state = State.read(RunDir(run_dir))
    return state is not None and state.supervisor.pid == supervisor.pid and state.phase == READY
