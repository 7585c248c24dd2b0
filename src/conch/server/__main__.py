"""Command line of the server room: ``python -m conch.server serve|up|down|status|logs``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from conch import contract
from conch.errors import ConchError, InvalidArgumentError
from conch.server import background, commands
from conch.server import settings as defaults
from conch.server.report import complain

EXIT_USAGE, EXIT_INTERRUPTED = 2, 130

_EPILOG = f"""\
environment:
  {contract.HOST_VARIABLE:<18}  IPv4 address to listen on; default {contract.DEFAULT_HOST}
  {contract.HTTP_PORT_VARIABLE:<18}  default {contract.DEFAULT_HTTP_PORT}
  {contract.GRPC_PORT_VARIABLE:<18}  default {contract.DEFAULT_GRPC_PORT}
  {contract.METRICS_PORT_VARIABLE:<18}  default {contract.DEFAULT_METRICS_PORT}

exit codes:
  0  done; for serve: stopped when asked; for status: up and ready
  1  failed, or for serve: the server broke and could not be repaired
  2  wrong flags or environment
  3  status: down
  4  status: there, but not ready
  130  interrupted before it was ready
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        its exit code; see --help.
    """
    arguments = _parser().parse_args(argv)
    try:
        settings = defaults.settings_from_environment(
            os.environ,
            repository=arguments.repository,
            run_dir=arguments.run_dir,
            drain_timeout_s=arguments.drain_timeout_s,
            start_timeout_s=arguments.start_timeout_s,
            probe_interval_s=arguments.probe_interval_s,
            hang_timeout_s=arguments.hang_timeout_s,
        )
        if arguments.command == "status":
            return commands.status(settings, as_json=arguments.json)
        if arguments.command == "logs":
            return commands.logs(settings, lines=arguments.lines, follow=arguments.follow)
        if arguments.command == "serve":
            return commands.serve(settings, log_to_stdout=arguments.log_to_stdout)
        return (background.up if arguments.command == "up" else background.down)(settings)
    except ConchError as error:
        complain(error)
        return EXIT_USAGE if isinstance(error, InvalidArgumentError) else 1
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        complain(ConchError(f"{error.strerror or error}{where}"))
        return 1
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m conch.server",
        description="Serve a model repository with the tritonserver that nvidia-pytriton carries.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands_ = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in (
        ("serve", "serve in the foreground until SIGTERM or Ctrl-C"),
        ("up", "start in the background; returns when ready"),
        ("down", "stop what up or serve started: drain, then kill"),
        ("status", "is it up, where, since when, each model's readiness"),
        ("logs", "the end of Triton's log"),
    ):
        command = commands_.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        _add_common(command)
        if name == "serve":
            command.add_argument(
                "--log-to-stdout", action="store_true", help="print Triton's log, too, and keep its file small"
            )
        if name == "status":
            command.add_argument("--json", action="store_true", help="for programs")
        if name == "logs":
            command.add_argument("--lines", type=_count, default=40, metavar="N", help="how many; default 40")
            command.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    return parser


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--repository", type=Path, default=defaults.DEFAULT_REPOSITORY, help=f"default {defaults.DEFAULT_REPOSITORY}"
    )
    command.add_argument(
        "--run-dir",
        type=Path,
        default=defaults.DEFAULT_RUN_DIR,
        help=f"pid file, state, admin key, logs; default {defaults.DEFAULT_RUN_DIR}",
    )
    for flag, default, what in (
        ("--drain-timeout-s", defaults.DEFAULT_DRAIN_TIMEOUT_S, "how long requests in flight may take after a stop"),
        ("--start-timeout-s", defaults.DEFAULT_START_TIMEOUT_S, "how long the models may take to load"),
        ("--probe-interval-s", defaults.DEFAULT_PROBE_INTERVAL_S, "how often every part is asked whether it answers"),
        ("--hang-timeout-s", defaults.DEFAULT_HANG_TIMEOUT_S, "how long one may be silent; then all starts anew"),
    ):
        command.add_argument(flag, type=_seconds, default=default, metavar="S", help=f"{what}; default {default}")


def _seconds(text: str) -> int:
    return _whole(text, 1, 86_400)


def _count(text: str) -> int:
    return _whole(text, 0, 1_000_000)


def _whole(text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and low <= int(text) <= high):
        raise argparse.ArgumentTypeError(f"must be a whole number in [{low}, {high}], got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
