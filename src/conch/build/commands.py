"""The commands fetch, build and check. What they need is imported when it is needed: Ctrl-C counts from the start."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from conch.errors import ConchError

if TYPE_CHECKING:
    from conch.build.pipeline import BuildOptions
    from conch.spec import ModelSpec

EXIT_ERROR, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 130, 143
_DEFAULT_SPEC = "build_scripts/specs/smollm2-135m.yaml"
_DEFAULT_REPOSITORY = "model_repository"
_DEFAULT_CACHE = ".cache"
_GPU_IMAGE = "conch:gpu"  # of make image-gpu


class _TerminatedError(BaseException):
    """SIGTERM: ends like Ctrl-C, so that staging folders go."""


def fetch_command(arguments: list[str] | None = None) -> int:
    """``build_scripts/fetch.py``; returns the exit status."""
    parser = _parser("Fetch the model of a spec into the cache.")
    _add_spec(parser)
    return _run(lambda: _fetch(parser.parse_args(arguments)))


def build_command(arguments: list[str] | None = None) -> int:
    """``build_scripts/build.py``; returns the exit status."""
    parser = _parser("Fetch and compile the model of a spec, write it into the model repository, and check that.")
    _add_spec(parser)
    _add_repository(parser)
    parser.add_argument("--version", type=_version, help="number of the release (default: the next free one)")
    parser.add_argument(
        "--export-python", type=Path, help="Python of the export environment (default: .venv-export/bin/python)"
    )
    return _run(lambda: _build(parser.parse_args(arguments)))


def check_command(arguments: list[str] | None = None) -> int:
    """``build_scripts/check.py``; returns the exit status."""
    parser = _parser("Check every file of the release that the model repository serves.")
    _add_repository(parser)
    return _run(lambda: _check(parser.parse_args(arguments)))


def _parser(description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(description=description, allow_abbrev=False)


def _add_spec(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--spec", type=Path, required=True, help="YAML file, see build_scripts/specs")
    parser.add_argument(
        "--cache", type=Path, default=Path(_DEFAULT_CACHE), help="what builds keep (default: %(default)s)"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing")


def _add_repository(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--repository", type=Path, default=Path(_DEFAULT_REPOSITORY), help="model repository (default: %(default)s)"
    )


def _version(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got {text!r}")
    return int(text)


def _fetch(options: argparse.Namespace) -> int:
    from conch.build.pipeline import fetch_model
    from conch.build.plan import plan_fetch
    from conch.build.progress import Progress
    from conch.spec import load_spec

    spec = load_spec(options.spec)
    if options.dry_run:
        print("\n".join(plan_fetch(spec, _build_options(options))))
        return 0
    fetch_model(spec, _build_options(options), Progress())
    print(f"next: {sys.executable} build_scripts/build.py --spec {shlex.quote(str(options.spec))}")
    return 0


def _build(options: argparse.Namespace) -> int:
    from conch.build.pipeline import build_release
    from conch.build.plan import plan_build
    from conch.build.progress import Progress
    from conch.spec import load_spec

    spec = load_spec(options.spec)
    if options.dry_run:
        print("\n".join(plan_build(spec, _build_options(options))))
        return 0
    build_release(spec, _build_options(options), Progress())
    print(f"next: {_serve_line(spec, options)}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from conch.repository.check import check_repository

    release = check_repository(options.repository)
    print(f"{options.repository} is whole: {release.name}, version {release.version}")
    return 0


def _build_options(options: argparse.Namespace) -> BuildOptions:
    from conch.build.pipeline import BuildOptions

    given: dict[str, Any] = {
        name: getattr(options, name) for name in ("repository", "cache", "version", "export_python") if name in options
    }
    return BuildOptions(**given)


def _serve_line(spec: ModelSpec, options: argparse.Namespace) -> str:
    """The command that serves what this build wrote."""
    if spec.engine.tensorrt_llm is None:
        return f"make serve{_make_variables(options)}"
    launch = [sys.executable, "build_scripts/launch.py", "--repository", str(options.repository), "--image", _GPU_IMAGE]
    return f"{shlex.join(launch)}, which says how to serve it; make image-gpu makes the image"


def _make_variables(options: argparse.Namespace) -> str:
    """What ``make serve`` must be told where this build was not its default one."""
    told = ""
    if options.spec != Path(_DEFAULT_SPEC):
        told += f" SPEC={shlex.quote(str(options.spec))}"
    if options.repository != Path(_DEFAULT_REPOSITORY):
        told += f" REPOSITORY={shlex.quote(str(options.repository))}"
    return told


def _run(command: Callable[[], int]) -> int:
    """Run a command; every end that is not a success is a line or two, and an exit status."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return command()
    except KeyboardInterrupt:
        _complain("interrupted: nothing half-built is left; run the same command to go on")
        return EXIT_INTERRUPTED
    except _TerminatedError:
        _complain("terminated: nothing half-built is left; run the same command to go on")
        return EXIT_TERMINATED
    except ConchError as error:
        _complain(f"error: {error.message}")
        if error.mend:
            _complain(error.mend)
        return EXIT_ERROR
    except ModuleNotFoundError as error:
        _complain(f"error: the package {error.name} is not installed in {sys.executable}")
        _complain("Run make setup, and use .venv/bin/python")
        return EXIT_ERROR
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _complain(f"error: {where}{error.strerror or error}")
        return EXIT_ERROR


def _terminate(*_: object) -> NoReturn:
    raise _TerminatedError


def _complain(line: str) -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    print(line, file=sys.stderr)
