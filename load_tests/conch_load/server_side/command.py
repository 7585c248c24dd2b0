"""The server's side of a run, or of any moment: ``python -m conch_load.server_side``."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from conch import command_line
from conch.errors import InvalidArgumentError, NotFoundError
from conch_load.records import BadRecordError
from conch_load.server_side.render import as_text
from conch_load.server_side.samples import read
from conch_load.server_side.summary import of_recording, summarize
from conch_load.server_side.watch import INTERVAL_S, Sources, Watch, here


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what a server did; returns the exit status."""
    options = _parser().parse_args(arguments)
    return command_line.run(lambda: _run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m conch_load.server_side", allow_abbrev=False,
        description="Queue, prefill, decode, KV cache, batch size and the time of each model: of a run folder, or of a "
        "server that is watched for a while, whoever sends it requests.",
    )  # fmt: skip
    parser.add_argument("folder", type=Path, nargs="?", help="a run folder; without one a server is watched")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to watch (10)")
    parser.add_argument("--interval-s", type=float, default=INTERVAL_S, help=f"between samples ({INTERVAL_S:g})")
    parser.add_argument("--metrics-url", help="http://127.0.0.1:8002/metrics, unless told otherwise")
    parser.add_argument("--statistics-url", help="Triton's HTTP port: http://127.0.0.1:8000; 'none' for other servers")
    parser.add_argument("--model", default="ensemble", help="the model that clients ask (ensemble)")
    parser.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _run(options: argparse.Namespace) -> int:
    try:
        told = _of_folder(options.folder) if options.folder else _watched(options)
    except BadRecordError as error:
        raise InvalidArgumentError(str(error)) from error
    print(json.dumps(told, indent=2, ensure_ascii=False) if options.json else as_text(told))
    return 0


def _of_folder(folder: Path) -> dict[str, object]:
    told = summarize(folder)
    if told is None:
        raise NotFoundError(f"{folder} has no samples of a server", mend="It must be a run folder with a server.jsonl.")
    return told


def _watched(options: argparse.Namespace) -> dict[str, object]:
    for name in ("seconds", "interval_s"):
        if not 0 < getattr(options, name) < 1e6:
            raise InvalidArgumentError(f"{name} must be above 0, got {getattr(options, name):g}")
    usual = here(options.model)
    statistics = options.statistics_url or usual.statistics_url
    sources = Sources(options.metrics_url or usual.metrics_url, None if statistics == "none" else statistics,
                      options.model)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        started_ns = time.time_ns()
        with Watch(Path(folder), sources, options.interval_s):
            time.sleep(options.seconds)
        return of_recording(read(Path(folder), started_ns))
