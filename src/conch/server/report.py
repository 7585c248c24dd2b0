"""What the commands of the server room print."""

from __future__ import annotations

import json
import os
import sys

from conch.contract import ENSEMBLE, MAX_TOKENS, TEXT_INPUT
from conch.errors import ConchError
from conch.server.settings import Settings
from conch.server.state import RunDir, State


def say(line: str) -> None:
    """Print a line; a reader that went away must not end a server."""
    try:
        print(line, flush=True)
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 - the documented way out of a closed pipe


def complain(error: ConchError) -> None:
    """Print an error and its mend, on stderr."""
    print(f"error: {error.message}", file=sys.stderr)
    if error.mend:
        print(f"  {error.mend}", file=sys.stderr)
    sys.stderr.flush()


def announce(state: State, elapsed_s: float) -> None:
    """Say that a server is ready, where it is, and what to do next."""
    settings = state.settings
    say(f"ready after {elapsed_s:.1f} s: {state.release_name}, release {state.release_version}")
    for line in addresses(settings):
        say(line)
    body = json.dumps({TEXT_INPUT.name: "The capital of France is", MAX_TOKENS.name: 16})
    say(f"try:  curl -s {http_url(settings)}/v2/models/{ENSEMBLE.name}/generate -d '{body}'")
    say('next: make ask Q="What is the capital of France?"')


def http_url(settings: Settings) -> str:
    """Where HTTP is, from this machine."""
    return f"http://{settings.connect_host}:{settings.http_port}"


def addresses(settings: Settings) -> list[str]:
    """Where everything is, one line each."""
    return [
        f"  HTTP     {http_url(settings)}",
        f"  gRPC     {settings.connect_host}:{settings.grpc_port}",
        f"  metrics  http://{settings.connect_host}:{settings.metrics_port}/metrics",
        f"  log      {RunDir(settings.run_dir).triton_log}",
    ]
