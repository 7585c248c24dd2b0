"""The supervisor around a real tritonserver: start, drain, deaths, and what is left behind. The engine is `echo`."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from server_processes import (
    Server,
    echo_spec,
    free_ports,
    run_command,
    running_server,
    server_environment,
    wait_until,
    write_echo_release,
)
from tritonclient.grpc import service_pb2, service_pb2_grpc

from conch.contract import MODEL_NAMES, stages
from conch.repository.artifacts import GGUF_FILE, Artifacts, Provenance
from conch.repository.layout import write_release
from conch.server import procfs
from conch.server.leftovers import SHM_DIR
from conch.server.probe import ADMIN_HEADER, ask, model_ready
from conch.server.state import READY, PidFile, RunDir, State
from conch.server.supervisor import MAX_REPAIRS
from conch.spec import ModelSpec

pytestmark = pytest.mark.e2e

PATIENCE_S = 120


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that answers one token every 50 ms."""
    folder = tmp_path_factory.mktemp("echo")
    return write_echo_release(folder / "repository", echo_spec(itl_ms=50), folder / "scratch").path


@contextmanager
def stream(server: Server, tokens: int) -> Iterator[http.client.HTTPResponse]:
    """A streamed answer of which the first piece has come."""
    connection = http.client.HTTPConnection(server.host, server.http_port, timeout=PATIENCE_S)
    try:
        body = json.dumps({"text_input": "abc", "max_tokens": tokens, "stream": True})
        connection.request("POST", "/v2/models/ensemble/generate_stream", body=body)
        response = connection.getresponse()
        assert response.status == 200
        assert response.readline().startswith(b"data: ")
        yield response
    finally:
        connection.close()


def read_to_its_end(response: http.client.HTTPResponse) -> None:
    """Read until there is no more, or the connection breaks."""
    with contextlib.suppress(http.client.HTTPException, OSError):
        response.read()


def output(server: Server) -> str:
    return (server.run_dir.path / "output.txt").read_text()


def processes_of(server: Server) -> list[procfs.Process]:
    """tritonserver and everything below it."""
    triton = server.state.triton
    assert triton is not None
    found = [triton]
    for process in found:
        found.extend(procfs.children(process.pid))
    assert len(found) == 1 + len(stages(server.state.twins)), "tritonserver and the stages"
    return found


def assert_nothing_is_left(processes: list[procfs.Process], regions: tuple[str, ...], run_dir: RunDir) -> None:
    wait_until(lambda: not any(process.alive for process in processes), PATIENCE_S)
    assert regions, "the state names the regions"
    assert not [region for region in regions if (SHM_DIR / region).exists()]
    assert not run_dir.state_file.exists()
    assert not run_dir.admin_key_file.exists()


def test_up_status_logs_down(repository: Path, tmp_path: Path) -> None:
    ports, run_dir = free_ports(3), tmp_path / "run"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_command(*arguments, repository=repository, run_dir=run_dir, ports=ports)

    try:
        up = run("up")
        assert (up.returncode, up.stderr) == (0, "")
        for port in ports:
            assert f"127.0.0.1:{port}" in up.stdout
        curl = next(line for line in up.stdout.splitlines() if line.startswith("try:  "))
        answer = subprocess.run(["sh", "-c", curl.removeprefix("try:  ")], capture_output=True, check=True)
        assert json.loads(answer.stdout)["text_output"] == "The capital of F"

        again = run("up")
        assert again.returncode == 0
        assert "already up" in again.stdout

        other = run_command("up", repository=repository, run_dir=run_dir, ports=free_ports(3))
        assert other.returncode == 1
        assert "up already with another repository, host or ports" in other.stderr
        assert str(ports[0]) in other.stderr

        status = run("status", "--json")
        data = json.loads(status.stdout)
        assert status.returncode == 0
        assert data["models"] == dict.fromkeys(MODEL_NAMES, True)
        assert (data["phase"], data["http_port"], data["release"]["name"]) == ("ready", ports[0], "echo-bytes")
        assert run("status").stdout.startswith("ready: echo-bytes, release 1")

        state = State.read(RunDir(run_dir))
        assert state is not None
        assert state.triton is not None
        logs = run("logs", "--lines", "2")
        assert len(logs.stdout.splitlines()) == 2
        assert "Started" in run("logs").stdout
    finally:
        down = run("down")
    assert down.returncode == 0
    assert down.stdout.endswith("stopped\n")
    assert_nothing_is_left([state.triton], state.shm_regions, RunDir(run_dir))
    assert run("status").returncode == 3
    assert "not up" in run("down").stdout


def test_logs_follow(repository: Path, tmp_path: Path) -> None:
    with running_server(repository, tmp_path / "run") as server:
        command = [sys.executable, "-m", "conch.server", "logs", "-f", "--lines=1", f"--run-dir={server.run_dir.path}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
            assert follower.stdout is not None
            assert follower.stdout.readline()
            with server.run_dir.triton_log.open("a") as log:
                log.write("a line of a later time\n")
            assert any("a line of a later time" in line for line in follower.stdout)
            follower.send_signal(signal.SIGINT)
        assert follower.returncode == 130


def test_a_stop_lets_a_stream_in_flight_finish(repository: Path, tmp_path: Path) -> None:
    with running_server(repository, tmp_path / "run") as server:
        processes, regions = processes_of(server), server.state.shm_regions
        with stream(server, 60) as response:
            server.supervisor.terminate()
            pieces = [json.loads(line[6:]) for line in response if line.startswith(b"data: ")]
        assert "".join(piece["text_output"] for piece in pieces) == ("abc" * 20)[1:]
        assert pieces[-1]["finish_reason"] == "length"
        assert server.supervisor.wait(PATIENCE_S) == 0
        assert_nothing_is_left(processes, regions, server.run_dir)
        assert output(server).endswith("stopped\n")


def test_a_stop_lets_a_grpc_stream_in_flight_finish(repository: Path, tmp_path: Path) -> None:
    with (
        running_server(repository, tmp_path / "run") as server,
        grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        responses = stub.ModelStreamInfer(iter([grpc_request(b"abc", 60)]), timeout=PATIENCE_S)
        pieces = [next(responses).infer_response]
        server.supervisor.terminate()
        pieces += [response.infer_response for response in responses]
        assert b"".join(text_output(piece) for piece in pieces) == b"abc" * 20
        assert pieces[-1].parameters["triton_final_response"].bool_param
        assert server.supervisor.wait(PATIENCE_S) == 0


def text_output(piece: service_pb2.ModelInferResponse) -> bytes:
    """The text of a response of one row; in front of it is its length."""
    index = [tensor.name for tensor in piece.outputs].index("text_output")
    data: bytes = piece.raw_output_contents[index]
    return data[4:]


def test_a_stop_refuses_new_requests_while_it_waits(repository: Path, tmp_path: Path) -> None:
    with running_server(repository, tmp_path / "run") as server:
        with stream(server, 100) as response:
            server.supervisor.terminate()
            wait_until(lambda: "stopping" in output(server), PATIENCE_S)
            wait_until(lambda: not model_ready(server.host, server.http_port, "ensemble"), PATIENCE_S)
            body = '{"text_input": "abc", "max_tokens": 1}'
            refused = ask(server.host, server.http_port, "POST", "/v2/models/ensemble/generate", body=body)
            assert refused.status != 200
            assert b'"finish_reason":"length"' in response.read()
        assert server.supervisor.wait(PATIENCE_S) == 0


def test_an_idle_connection_does_not_hold_up_a_stop(repository: Path, tmp_path: Path) -> None:
    timeout_s = 3600
    with running_server(repository, tmp_path / "run", f"--drain-timeout-s={timeout_s}") as server:
        with contextlib.closing(http.client.HTTPConnection(server.host, server.http_port)) as connection:
            connection.request("GET", "/v2/health/ready")
            assert connection.getresponse().read() == b""
            server.supervisor.terminate()
            assert server.supervisor.wait(PATIENCE_S) == 0
        assert "lost" not in output(server)


def grpc_request(text: bytes, tokens: int) -> service_pb2.ModelInferRequest:
    """A streamed request of one row."""
    request = service_pb2.ModelInferRequest(model_name="ensemble")
    for name, datatype, data in (
        ("text_input", "BYTES", len(text).to_bytes(4, "little") + text),
        ("max_tokens", "INT32", tokens.to_bytes(4, "little")),
        ("stream", "BOOL", b"\1"),
    ):
        request.inputs.add(name=name, datatype=datatype, shape=[1, 1])
        request.raw_input_contents.append(data)
    return request


def test_a_second_signal_ends_what_is_in_flight(repository: Path, tmp_path: Path) -> None:
    with running_server(repository, tmp_path / "run") as server:
        processes, regions = processes_of(server), server.state.shm_regions
        with stream(server, 100_000) as response:
            server.supervisor.send_signal(signal.SIGINT)
            wait_until(lambda: "stopping" in output(server), PATIENCE_S)
            server.supervisor.send_signal(signal.SIGINT)
            read_to_its_end(response)
        assert server.supervisor.wait(PATIENCE_S) == 0
        assert_nothing_is_left(processes, regions, server.run_dir)
        assert "requests in flight are lost" in output(server)


def test_a_drain_has_an_end(repository: Path, tmp_path: Path) -> None:
    with running_server(repository, tmp_path / "run", "--drain-timeout-s=1") as server:
        processes, regions = processes_of(server), server.state.shm_regions
        with stream(server, 100_000):
            server.supervisor.terminate()
            assert server.supervisor.wait(PATIENCE_S) == 0
        assert_nothing_is_left(processes, regions, server.run_dir)
        assert "requests still in flight are lost" in output(server)


def test_a_killed_tritonserver_is_started_again(repository: Path, tmp_path: Path) -> None:
    with running_server(repository, tmp_path / "run") as server:
        processes, regions = processes_of(server), server.state.shm_regions
        os.kill(processes[0].pid, signal.SIGKILL)
        wait_until(lambda: server.state.repairs == 1 and server.state.phase == READY, PATIENCE_S)
        with stream(server, 3) as response:
            assert b"length" in response.read()
        said = "tritonserver ended by itself (killed by SIGKILL): starting again, repair 1 of at most 3"
        assert said in output(server)
        assert not any(process.alive for process in processes)
        assert not [region for region in regions if (SHM_DIR / region).exists()]


def test_what_dies_again_and_again_is_not_repaired_for_ever(repository: Path, tmp_path: Path) -> None:
    with running_server(repository, tmp_path / "run") as server:
        for repairs in range(MAX_REPAIRS):
            wait_until(lambda n=repairs: server.state.repairs == n and server.state.phase == READY, PATIENCE_S)
            os.kill(processes_of(server)[0].pid, signal.SIGKILL)
        wait_until(lambda: server.state.repairs == MAX_REPAIRS and server.state.phase == READY, PATIENCE_S)
        processes, regions = processes_of(server), server.state.shm_regions
        os.kill(processes[0].pid, signal.SIGKILL)
        assert server.supervisor.wait(PATIENCE_S) == 1
        assert_nothing_is_left(processes, regions, server.run_dir)
        assert "(killed by SIGKILL): failure 4 within 10 minutes, so it is not started again" in output(server)
        assert str(server.run_dir.triton_log) in output(server)


def test_a_server_that_hangs_is_started_again(repository: Path, tmp_path: Path) -> None:
    """One that is stopped for a moment, with all its processes, is left alone; one that stays so is not."""
    with running_server(repository, tmp_path / "run", "--probe-interval-s=1", "--hang-timeout-s=6") as server:
        processes = processes_of(server)
        os.killpg(processes[0].pid, signal.SIGSTOP)
        time.sleep(3)
        os.killpg(processes[0].pid, signal.SIGCONT)
        time.sleep(7)
        assert server.state.repairs == 0
        assert all(process.alive for process in processes)
        with stream(server, 100_000) as response:
            os.kill(processes[0].pid, signal.SIGSTOP)
            read_to_its_end(response)  # it is cut, not left hanging
        wait_until(lambda: server.state.repairs == 1 and server.state.phase == READY, PATIENCE_S)
        assert "tritonserver (timed out) has not answered for 6 s: starting again" in output(server)
        with stream(server, 3) as response:
            assert b"length" in response.read()


def test_a_tritonserver_that_somebody_else_stops_is_not_repaired(repository: Path, tmp_path: Path) -> None:
    with running_server(repository, tmp_path / "run") as server:
        processes, regions = processes_of(server), server.state.shm_regions
        with stream(server, 60) as response:
            os.kill(processes[0].pid, signal.SIGTERM)
            assert b'"finish_reason":"length"' in response.read()
        assert server.supervisor.wait(PATIENCE_S) == 1
        assert_nothing_is_left(processes, regions, server.run_dir)
        assert "error: tritonserver ended by itself (exit code 0)" in output(server)


@pytest.mark.parametrize("model", ["tokenizer", "llama_engine", "detokenizer"])
def test_a_killed_stage_is_repaired(repository: Path, tmp_path: Path, model: str) -> None:
    with running_server(repository, tmp_path / "run") as server:
        processes, regions = processes_of(server), server.state.shm_regions
        stage = next(p for p in processes[1:] if f"/{model}/" in procfs.arguments(p.pid)[1])
        with stream(server, 100_000) as response:
            os.kill(stage.pid, signal.SIGKILL)
            rest = threading.Thread(target=read_to_its_end, args=[response], daemon=True)
            rest.start()
            wait_until(lambda: server.state.repairs == 1 and server.state.phase == READY, PATIENCE_S)
            rest.join(PATIENCE_S)
            assert not rest.is_alive(), "the request in flight must end, not hang"
        with stream(server, 3) as response:
            assert b"length" in response.read()
        assert f"the process of {model}" in output(server)
        assert not any(process.alive for process in processes)
        assert not [region for region in regions if (SHM_DIR / region).exists()]


def test_a_killed_supervisor_leaves_nothing_and_the_next_one_starts(repository: Path, tmp_path: Path) -> None:
    ports, run_dir = free_ports(3), tmp_path / "run"
    with running_server(repository, run_dir, ports=ports) as server:
        processes, regions = processes_of(server), server.state.shm_regions
        server.supervisor.kill()
        server.supervisor.wait()
        status = run_command("status", repository=repository, run_dir=run_dir, ports=ports)
        assert status.returncode == 3
    # At once, while the old tritonserver may still be ending: the new supervisor waits for it.
    with running_server(repository, run_dir, ports=ports) as server:
        assert not any(process.alive for process in processes)
        assert not [region for region in regions if (SHM_DIR / region).exists()]


def test_two_servers_on_the_same_ports(repository: Path, tmp_path: Path) -> None:
    with running_server(repository, tmp_path / "first") as first:
        ports = [first.http_port, first.grpc_port, first.metrics_port]
        second = run_command("serve", repository=repository, run_dir=tmp_path / "second", ports=ports)
        assert second.returncode == 1
        triton = first.state.triton
        assert triton is not None
        assert f"port {first.http_port} is taken by tritonserver (pid {triton.pid})" in second.stderr
        assert "CONCH_HTTP_PORT" in second.stderr
        with stream(first, 3) as response:
            assert b"length" in response.read()


def test_a_port_that_is_lost_after_the_check(repository: Path, tmp_path: Path) -> None:
    """Somebody else who answers on our port must not pass for our server."""
    ports = free_ports(3)
    with running_server(repository, tmp_path / "first", ports=ports) as first:
        # The check is passed by being told nothing: this one starts on the gRPC port that the first one holds.
        code = "import conch.server.preflight as p, sys; p.check_ports = lambda settings: None; " + (
            "from conch.server.__main__ import main; sys.exit(main(sys.argv[1:]))"
        )
        command = ["serve", f"--repository={repository}", f"--run-dir={tmp_path / 'second'}"]
        done = subprocess.run(
            [sys.executable, "-c", code, *command],
            env=server_environment(ports), capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "ready after" not in done.stdout
        assert f"GRPC could not be served: Socket '127.0.0.1:{first.grpc_port}' already in use" in done.stderr


def test_an_interrupt_before_it_is_ready(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "conch.server", "serve", f"--repository={repository}"]
    with subprocess.Popen(
        [*command, f"--run-dir={tmp_path / 'run'}"],
        env=server_environment(free_ports(3)), stdout=subprocess.PIPE, text=True,
    ) as supervisor:  # fmt: skip
        assert supervisor.stdout is not None
        assert any("loading" in line for line in supervisor.stdout)
        state = State.read(RunDir(tmp_path / "run"))
        supervisor.send_signal(signal.SIGINT)
        assert "stopped before it was ready" in supervisor.stdout.read()
    assert supervisor.returncode == 130
    assert state is not None
    assert state.triton is not None
    assert not state.triton.alive


def test_nonsense_in_the_repository_is_refused_before_the_start(tmp_path: Path) -> None:
    release = write_echo_release(tmp_path / "repository", echo_spec(), tmp_path / "scratch")
    (release.path / "tokenizer" / "config.pbtxt").write_text("nonsense {")
    done = run_command("serve", repository=release.path, run_dir=tmp_path / "run", ports=free_ports(3))
    assert done.returncode == 1
    assert "tokenizer/config.pbtxt was changed" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "triton.log").exists()


def test_a_model_that_cannot_be_loaded_is_told_in_one_sentence(tmp_path: Path) -> None:
    """Every file is as it was built, and yet the engine cannot use them: the reason is in Triton's log alone."""
    release = write_echo_release(tmp_path / "echo", echo_spec(), tmp_path / "scratch")
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / GGUF_FILE).write_bytes(b"this is no model" * 1000)
    data = echo_spec().model_dump()
    data["engine"]["runtime"] = "openvino"
    artifacts = Artifacts(tmp_path / "scratch" / "tokenizer", tmp_path / "engine", Provenance("none", "0", "0" * 64))
    release = write_release(tmp_path / "repository", ModelSpec.model_validate(data), artifacts, None)
    run_dir = tmp_path / "run"
    done = run_command("up", repository=release.path, run_dir=run_dir, ports=free_ports(3))
    assert done.returncode == 1
    said = done.stdout + done.stderr
    line = next(line for line in said.splitlines() if line.startswith("error: "))
    assert "tritonserver gave up: model llama_engine version 1 failed to load: " in line
    assert f"The whole log: {run_dir / 'triton.log'}" in said
    assert "Traceback" not in said
    assert "At:" not in said
    assert "failed to load 'llama_engine'" in (run_dir / "triton.log").read_text()


def test_the_management_api_needs_the_key(repository: Path, tmp_path: Path) -> None:
    with running_server(repository, tmp_path / "run") as server:
        key = server.run_dir.admin_key_file.read_text().strip()

        def index(headers: dict[str, str]) -> int:
            return ask(server.host, server.http_port, "POST", "/v2/repository/index", headers=headers).status

        assert index({}) == 403
        assert index({ADMIN_HEADER: "wrong"}) == 403
        assert index({ADMIN_HEADER: key}) == 200
        for path in ("/v2/logging", "/v2/trace/setting", "/v2/systemsharedmemory/status"):
            assert ask(server.host, server.http_port, "GET", path).status == 403
        with grpc.insecure_channel(f"{server.host}:{server.grpc_port}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            request = service_pb2.RepositoryIndexRequest()
            with pytest.raises(grpc.RpcError):
                stub.RepositoryIndex(request)
            metadata = [(f"triton-grpc-protocol-{ADMIN_HEADER}", key)]
            assert len(stub.RepositoryIndex(request, metadata=metadata).models) == len(MODEL_NAMES)
        assert key not in server.run_dir.triton_log.read_text()
        assert key not in output(server)


def test_a_server_that_is_down_for_status_while_its_supervisor_starts(tmp_path: Path) -> None:
    held = PidFile(RunDir(tmp_path))
    status = run_command("status", repository=tmp_path, run_dir=tmp_path, ports=free_ports(3))
    held.close()
    assert (status.returncode, status.stdout) == (4, "starting\n")
