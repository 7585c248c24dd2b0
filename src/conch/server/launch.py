"""How a release of the runtime tensorrtllm is launched: one tritonserver for each GPU, joined by MPI, in the container.

Two ways, both NVIDIA's. In leader mode mpirun starts every rank; rank 0 serves, and the others load the engine alone
and wait for it. In orchestrator mode one tritonserver starts the ranks by itself; that is for one machine, and for
several models at a time. This module writes the commands and checks what can be checked before; it starts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from conch.contract import ENGINE, UNARY_IN_FLIGHT, ensembles
from conch.errors import ServerError
from conch.repository.artifacts import ENGINE_DIR
from conch.repository.check import check_repository
from conch.repository.settings import ReleaseSettings
from conch.spec import ModelSpec
from conch.spec_trtllm import TensorRtLlm
from conch.trtllm.engine_match import check_spec, read_engine
from conch.trtllm.tensors import BACKEND_MODEL

TRITONSERVER = "tritonserver"
_SPARE_THREADS = 8


class Mode(str, Enum):
    """Who starts the ranks."""

    LEADER = "leader"
    ORCHESTRATOR = "orchestrator"


@dataclass(frozen=True)
class Launch:
    """What to run.

    Attributes:
        environment: variables beside those that are there.
        command: inside of the container.
        container: the same from outside.
    """

    environment: dict[str, str]
    command: list[str]
    container: list[str]


@dataclass(frozen=True)
class Ports:
    """Where rank 0 listens."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002


def checked_release(repository: Path) -> tuple[ModelSpec, TensorRtLlm]:
    """The spec of the release that a repository pins, if its files and its engine are whole and fit it.

    Raises:
        RepositoryError: they are not, or do not; names both sides.
        ServerError: a release of another runtime.
    """
    release = check_repository(repository)
    folder = repository / ENGINE.name / str(release.version)
    spec = ReleaseSettings.read(folder).spec
    settings = spec.engine.tensorrt_llm
    if settings is None:
        raise ServerError(
            f"{release.name} is of the runtime {spec.engine.runtime.value}, and needs no launch of its own",
            mend="Run make serve",
        )
    check_spec(read_engine(folder / ENGINE_DIR), settings)
    return spec, settings


def plan_launch(
    spec: ModelSpec, settings: TensorRtLlm, repository: Path, mode: Mode, hosts: list[str], ports: Ports, image: str
) -> Launch:
    """The commands for a release.

    Args:
        spec: of the release.
        settings: its section ``engine.tensorrt_llm``.
        repository: model repository on this machine.
        mode: who starts the ranks.
        hosts: machines, as mpirun takes them; empty: this one.
        ports: of rank 0.
        image: container to run, with Conch in it.

    Raises:
        ServerError: the ranks do not fit the mode or the machines.
    """
    nodes = settings.backend.num_nodes
    if mode is Mode.ORCHESTRATOR and (nodes > 1 or hosts):
        raise ServerError(
            f"orchestrator mode is for one machine, got {max(nodes, len(hosts))}", mend="Use leader mode for several"
        )
    if len(hosts) != (nodes if nodes > 1 else len(hosts)) or len(hosts) > nodes:
        raise ServerError(f"hosts must be {nodes}, as engine.tensorrt_llm.backend.num_nodes says, got {len(hosts)}")
    environment: dict[str, str] = {}
    if mode is Mode.ORCHESTRATOR:
        environment = {"TRTLLM_ORCHESTRATOR": "1"}
        command = ["mpirun", "--allow-run-as-root", "-n", "1", *_server(spec, settings, ports, rank=0)]
    else:
        command = ["mpirun", "--allow-run-as-root", *_placement(settings, hosts)]
        for rank in range(settings.world_size):
            command += [*([":"] if rank else []), "-n", "1", *_server(spec, settings, ports, rank)]
    return Launch(environment, command, _container(settings, repository, environment, command, ports, image))


def _placement(settings: TensorRtLlm, hosts: list[str]) -> list[str]:
    if not hosts:
        return []
    return ["--host", ",".join(f"{host}:{settings.gpus_per_node}" for host in hosts), "--map-by", "slot"]


def _server(spec: ModelSpec, settings: TensorRtLlm, ports: Ports, rank: int) -> list[str]:
    """One rank's tritonserver."""
    common = [
        TRITONSERVER,
        f"--model-repository={settings.served_repository}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        # Python models of two servers on one machine must not share memory of one name.
        f"--backend-config=python,shm-region-prefix-name=conch{rank}_",
        f"--load-model={BACKEND_MODEL}",
    ]
    if rank:
        return common  # its load ends when rank 0 ends, so it never listens
    twins = spec.serving.twins
    threads = max(UNARY_IN_FLIGHT if twins else 0, spec.engine.max_batch_size) + _SPARE_THREADS
    return [
        *common,
        f"--backend-config=python,thread-pool-size={threads}",
        *(f"--load-model={ensemble.name}" for ensemble in ensembles(twins)),
        f"--http-port={ports.http}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-port={ports.metrics}",
        "--log-format=ISO8601",
    ]


def _container(
    settings: TensorRtLlm, repository: Path, environment: dict[str, str], command: list[str], ports: Ports, image: str
) -> list[str]:
    several = settings.backend.num_nodes > 1  # MPI connects to ports of its own choice
    published = [] if several else [
        part for port in (ports.http, ports.grpc, ports.metrics) for part in ("--publish", f"127.0.0.1:{port}:{port}")
    ]  # fmt: skip
    variables = [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
    return [
        "docker", "run", "--rm", "--init", "--gpus", "all", "--ipc", "host", "--ulimit", "memlock=-1", "--ulimit",
        "stack=67108864", *(["--network", "host"] if several else published), *variables, "--volume",
        f"{repository.resolve()}:{settings.served_repository}:ro", image, *command,
    ]  # fmt: skip
