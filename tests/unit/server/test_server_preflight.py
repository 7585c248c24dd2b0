import os
import socket
import sys
from pathlib import Path

import pytest
from server_processes import echo_spec, free_ports, write_echo_release

from conch.engines.interpreter import VARIABLE
from conch.errors import RepositoryError, ServerError
from conch.repository.layout import Release
from conch.server import preflight as checks
from conch.server.settings import Settings, settings_from_environment
from conch.spec import ModelSpec

GIB = 1 << 30


def test_this_machine_will_do() -> None:
    checks.check_platform()
    checks.check_python()
    checks.check_numpy()
    checks.check_shm(checks.SHM_DIR)


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Linux", "aarch64"), ("Windows", "AMD64")])
def test_another_platform(system: str, machine: str) -> None:
    with pytest.raises(ServerError, match=f"runs on Linux x86_64, this is {system} {machine}"):
        checks.check_platform(system, machine)


@pytest.mark.parametrize("version", [(3, 9), (3, 13), (2, 7), (4, 0)])
def test_another_python(version: tuple[int, int]) -> None:
    with pytest.raises(ServerError, match=rf"must be 3.10, 3.11 or 3.12, this is {version[0]}\.{version[1]}"):
        checks.check_python(version)


def test_numpy_2() -> None:
    with pytest.raises(ServerError, match=r"numpy must be below 2, .* got 2\.0\.1") as caught:
        checks.check_numpy("2.0.1")
    assert "pip install 'numpy<2'" in caught.value.mend


def test_too_little_memory() -> None:
    checks.check_memory(GIB, GIB)
    checks.check_memory(GIB, None)
    with pytest.raises(ServerError, match=r"memory must be at least 2\.0 GiB .*, available are 1\.5 GiB"):
        checks.check_memory(2 * GIB, 3 * GIB // 2)


def test_the_memory_that_a_release_needs(tmp_path: Path) -> None:
    echo = echo_spec()
    assert checks.memory_need_bytes(write_echo_release(tmp_path / "a", echo, tmp_path / "b")) == checks.BASE_BYTES
    # The same release with an engine's weights in it, of which only the size counts.
    data = echo.model_dump()
    data["engine"].update(runtime="openvino", kv_cache_gib=3)
    release = write_echo_release(tmp_path / "c", ModelSpec.model_validate(data), tmp_path / "d")
    with (release.path / "llama_engine" / str(release.version) / "engine" / "model.gguf").open("wb") as weights:
        weights.truncate(GIB)
    assert checks.memory_need_bytes(release) == checks.BASE_BYTES + (3 + checks.WEIGHTS_FACTOR) * GIB


def vllm_release(tmp_path: Path) -> Release:
    data = echo_spec().model_dump()
    data["engine"] = {"runtime": "vllm", "max_seq_len": 64, "vllm": {"tensor_parallel_size": 2}}
    return write_echo_release(tmp_path / "a", ModelSpec.model_validate(data), tmp_path / "b")


def test_the_python_of_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks.check_engine_python(write_echo_release(tmp_path / "c", echo_spec(), tmp_path / "d"))
    release = vllm_release(tmp_path)
    assert checks.memory_need_bytes(release) == checks.BASE_BYTES + 2 * checks.WORKER_BYTES
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ServerError) as caught:
        checks.check_engine_python(release)
    assert caught.value.message.endswith(f" needs vllm 0.24.0, and it is not installed in {sys.executable}")
    assert caught.value.mend.startswith(f"Name the Python of an environment that has it with {VARIABLE}")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "python"))
    with pytest.raises(ServerError, match=r"needs vllm .*python cannot be run: No such file or directory"):
        checks.check_engine_python(release)
    monkeypatch.setenv(VARIABLE, sys.executable)
    package = tmp_path / "packages" / "vllm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('it must not be imported')")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    for version, fits in (("0.24.0", True), ("0.24.0+cpu", True), ("0.26.0", False)):
        (package / "_version.py").write_text(f"__version__ = version = '{version}'\n")
        if fits:
            checks.check_engine_python(release)
            continue
        with pytest.raises(ServerError, match=rf"needs vllm 0\.24\.0, and {sys.executable} has {version}"):
            checks.check_engine_python(release)


def test_no_shared_memory(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="is missing or not writable"):
        checks.check_shm(tmp_path / "nothing")


def test_shared_memory_that_is_full() -> None:
    # /proc has no room; who is not root may not write there either.
    with pytest.raises(ServerError, match=r"must have \d+ MiB free for the stubs, it has 0 MiB|not writable"):
        checks.check_shm(Path("/proc"))


def settings(tmp_path: Path, **ports: int) -> Settings:
    free = dict(zip(("http", "grpc", "metrics"), free_ports(3), strict=True))
    environment = {f"CONCH_{name.upper()}_PORT": str(port) for name, port in {**free, **ports}.items()}
    return settings_from_environment(environment, repository=tmp_path / "repository", run_dir=tmp_path / "run")


def test_a_taken_port_names_its_holder_and_the_variable(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=rf"port {port} is taken by \S+ \(pid {os.getpid()}\)") as caught:
            checks.check_ports(settings(tmp_path, grpc=port))
    assert "CONCH_GRPC_PORT" in caught.value.mend


def test_an_address_that_is_not_ours(tmp_path: Path) -> None:
    there = settings_from_environment({"CONCH_HOST": "192.0.2.1"}, run_dir=tmp_path)
    with pytest.raises(ServerError, match=r"cannot listen on 192\.0\.2\.1:\d+: Cannot assign"):
        checks.check_ports(there)


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ready, problems = checks.preflight(settings(tmp_path, http=taken.getsockname()[1]))
    assert ready is None
    assert [type(p) for p in problems] == [RepositoryError, ServerError]
    assert all(p.mend for p in problems)
