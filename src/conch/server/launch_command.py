"""The command ``build_scripts/launch.py``: checks a release against this machine, and prints or runs what starts it."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from conch.contract import ENGINE
from conch.errors import ConchError, ServerError
from conch.repository.artifacts import ENGINE_DIR
from conch.repository.check import check_repository
from conch.server.launch import Launch, Mode, Ports, checked_release, plan_launch
from conch.server.report import complain
from conch.spec_trtllm import TensorRtLlm
from conch.trtllm.engine_match import check_host, check_version, read_engine
from conch.trtllm.host import find_host, found_here, found_in_image


def launch_command(argv: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        spec, settings = checked_release(arguments.repository)
        image = arguments.image or settings.container
        unchecked = _check_versions(settings, image, arguments.run)
        if not arguments.dry_run:
            release = check_repository(arguments.repository)
            engine = read_engine(arguments.repository / ENGINE.name / str(release.version) / ENGINE_DIR)
            check_host(engine, find_host(), settings.backend.num_nodes)
        ports = Ports(arguments.http_port, arguments.grpc_port, arguments.metrics_port)
        launch = plan_launch(
            spec, settings, arguments.repository, Mode(arguments.mode), arguments.host, ports, image
        )
    except ConchError as error:
        complain(error)
        return 1
    print(f"# {spec.name}: {settings.world_size} ranks, TensorRT-LLM {settings.version}")
    if unchecked:
        print(f"# not checked, since it cannot be known here: the version of TensorRT-LLM in {unchecked}")
    if settings.backend.num_nodes > 1:
        print("# on every machine the same image and repository; mpirun on the first one, inside of its container")
    print("# in the container")
    print(" ".join([*(f"{n}={v}" for n, v in launch.environment.items()), shlex.join(launch.command)]))
    if arguments.run:
        return _become(launch)
    print("# from outside")
    print(shlex.join(launch.container))
    return 0


def _check_versions(settings: TensorRtLlm, image: str, run: bool) -> str:
    """Compare the engine's version of TensorRT-LLM with what would load it: what is here, and the image.

    The engine has the spec's, which checked_release has seen to.

    Returns:
        What could not be asked for its version; empty where all could.

    Raises:
        RepositoryError: another version; names both sides.
    """
    here = found_here()
    sides = {"this environment": here} if run or here is not None else {}
    if not run:
        sides[image] = found_in_image(image)
    for found in sides.values():
        if found is not None:
            check_version(settings.version, found, settings.container)
    return " and ".join(name for name, found in sides.items() if found is None)


def _become(launch: Launch) -> int:
    """Run the command in the place of this process, so that signals reach it; returns only where that fails."""
    sys.stdout.flush()
    try:
        os.execvpe(launch.command[0], launch.command, {**os.environ, **launch.environment})
    except OSError as error:
        complain(ServerError(f"{launch.command[0]} cannot be run: {error.strerror}", mend="Use the container"))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Check a release of the runtime tensorrtllm against this machine, and print or run what starts it.",
        allow_abbrev=False,
    )
    parser.add_argument("--repository", type=Path, default=Path("model_repository"), help="default: %(default)s")
    parser.add_argument("--mode", choices=[mode.value for mode in Mode], default=Mode.LEADER.value,
                        help="who starts the ranks: mpirun, or one tritonserver; default: %(default)s")  # fmt: skip
    parser.add_argument("--host", action="append", default=[], help="a machine; several times for several")
    parser.add_argument("--image", help="container with Conch in it; default: the spec's, which has none")
    parser.add_argument("--http-port", type=int, default=Ports.http, help="default: %(default)s")
    parser.add_argument("--grpc-port", type=int, default=Ports.grpc, help="default: %(default)s")
    parser.add_argument("--metrics-port", type=int, default=Ports.metrics, help="default: %(default)s")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="print the commands without a look at this machine's GPUs")
    what.add_argument("--run", action="store_true", help="run the first one, for inside of the container")
    return parser
