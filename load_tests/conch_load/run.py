"""Make a run: Locust in a child process, since it patches the standard library of the process it is in."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import conch_load
from conch_load.config import RunConfig
from conch_load.folders import check_free
from conch_load.honesty.finish import finish
from conch_load.records import (
    GENERATOR_FILE,
    REQUESTS_FILE,
    RUN_FILE,
    SERVER_FILE,
    RunInfo,
    read_requests,
    read_run,
    write_run,
)
from conch_load.server_side import Sources, Watch, sources_of
from conch_load.users.prepare import prepare

LOCUSTFILE = Path(conch_load.__file__).resolve().parents[1] / "locustfile.py"
REFUSED = 3  # exit code: nothing was run
_START_S = 120  # for workers to connect and the first requests to be made
_PREPARED_TIMES = 4  # a workload may take so many times longer to be read by workers than it took here


class RunError(Exception):
    """Nothing was run. The text is for a person."""


def run(config: RunConfig, folder: Path) -> RunInfo:
    """Make a run and note down what honesty finds.

    Args:
        config: what is asked for.
        folder: gets the files of conch_load.records; made if missing. When nothing was run it is as it was before.

    Returns:
        What ``run.json`` says at the end. ``invalid`` is not empty when the figures must not be used: also when Locust
        broke off and left records.

    Raises:
        RunError: no server, no such model, or Locust failed: nothing was measured.
        WorkloadError: the workload cannot be: see conch_load.workloads.
        ConfigError: the folder holds something.
    """
    check_free(folder)
    began = time.monotonic()
    prepare(config)  # says what is wrong at once, and in this process
    start_s = _START_S + _PREPARED_TIMES * (time.monotonic() - began)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with Watch(folder, server_sources(config)):
            said = _locust(command(config, folder), config, start_s)
        _check_ran(folder, said)
    except RunError:
        for name in (RUN_FILE, REQUESTS_FILE, GENERATOR_FILE, SERVER_FILE):
            (folder / name).unlink(missing_ok=True)  # so that the same line can be given again
        if made:
            folder.rmdir()
        raise
    return finish(folder)


def _check_ran(folder: Path, said: str) -> None:
    if not (folder / RUN_FILE).is_file():
        raise RunError(f"Locust ended without a run: {said or 'it said nothing'}")
    info = read_run(folder)
    if info.ended_ns is None:
        reason = next((text.removeprefix("not run: ") for text in info.invalid), "") or said or "Locust said nothing"
        last_ns = _last_record_ns(folder)
        if last_ns is None:
            raise RunError(reason)
        reason = f"Locust ended before the run did, and left the records of {last_ns / 1e9:.1f} s: {reason}"
        write_run(folder, dataclasses.replace(info, ended_ns=last_ns, invalid=(*info.invalid, reason)))


def _last_record_ns(folder: Path) -> int | None:
    """When the last request that was written down ended; None where there is none. A line that was not written to its
    end is taken away: that is how a process that is killed leaves a file."""
    for name in (REQUESTS_FILE, GENERATOR_FILE):
        path = folder / name
        if path.is_file():
            whole, end, _ = path.read_bytes().rpartition(b"\n")
            path.write_bytes(whole + end)
    path = folder / REQUESTS_FILE
    ends = [one.final_ns or one.sent_ns for one in read_requests(folder)] if path.is_file() else []
    return max(ends, default=None)


def server_sources(config: RunConfig) -> Sources:
    """Where the server's own figures are."""
    usual = sources_of(config.front, config.target, config.model)
    metrics, statistics = config.metrics_url or usual.metrics_url, config.statistics_url or usual.statistics_url
    return Sources(None if metrics == "none" else metrics, None if statistics == "none" else statistics, config.model)


def command(config: RunConfig, folder: Path) -> list[str]:
    """The command line of Locust for a headless run."""
    users = config.arrivals.users or config.processes
    line = [
        sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary", "--loglevel", "WARNING",
        "--exit-code-on-error", "0", "--users", str(users), "--spawn-rate", str(min(users, 100 * config.processes)),
        "--conch-config", config.model_dump_json(), "--out", str(folder),
    ]  # fmt: skip
    host, _, port = config.master_bind.rpartition(":")
    if config.expect_workers:
        line += ["--master", "--expect-workers", str(config.expect_workers)]
    elif config.workers > 1:
        line += ["--processes", str(config.workers)]
    if config.processes > 1 or config.expect_workers:
        port = str(_free_port(host)) if port == "0" else port
        line += ["--master-bind-host", host, "--master-bind-port", port]
        if not config.expect_workers:
            line += ["--master-port", port, "--master-host", host]
        line += ["--expect-workers-max-wait", str(_START_S)]
    return line


def _locust(line: list[str], config: RunConfig, start_s: float) -> str:
    """Run it; what it said about errors. ``start_s`` is how long it may take until the clock runs."""
    most = start_s + config.warm_up_s + config.duration_s + config.grace_s + config.timeout_s + 180
    child = subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "LOCUST_WAIT_FOR_WORKERS_REPORT_AFTER_RAMP_UP": "0.1"},
    )  # fmt: skip
    try:
        _, said = child.communicate(timeout=most)
    except subprocess.TimeoutExpired:
        _end(child)
        return f"it did not end within {most:.0f} s"
    except BaseException:
        _end(child)
        raise
    lines = [line for line in said.splitlines() if line.strip()]
    return "\n".join(lines[-12:])


def _end(child: subprocess.Popen[str]) -> None:
    os.killpg(child.pid, signal.SIGTERM)
    try:
        child.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _free_port(host: str) -> int:
    with socket.socket() as one:
        one.bind((host if host not in ("", "*") else "", 0))
        port: int = one.getsockname()[1]
        return port


def with_arrivals(config: RunConfig, **arrivals: object) -> RunConfig:
    """The same run with other arrivals; for searches and sweeps. Checked as any config."""
    return RunConfig.model_validate({**config.model_dump(), "arrivals": arrivals})


__all__ = ["REFUSED", "RunError", "command", "run", "server_sources", "with_arrivals"]
