"""Fixtures for every test. Nothing is imported or started before a test asks for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from server_processes import Server

# Another one, smollm2-135m-swapped say, to run the end-to-end tests on.
DEFAULT_SPEC = os.environ.get("CONCH_TEST_SPEC", "smollm2-135m")


@pytest.fixture(scope="session")
def make_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """Factory: the name of a spec in build_scripts/specs -> a real server of it, the same one for the same name."""
    from server_processes import build_repository, running_server

    servers: dict[str, Server] = {}
    with ExitStack() as stack:

        def make(spec: str = DEFAULT_SPEC) -> Server:
            if spec not in servers:
                run_dir = tmp_path_factory.mktemp(f"run-{spec}")
                servers[spec] = stack.enter_context(running_server(build_repository(spec), run_dir))
            return servers[spec]

        yield make


@pytest.fixture(scope="session")
def server(make_server: Callable[[str], Server]) -> Server:
    """A real tritonserver with the default model, for all tests of the session; leave it as it was."""
    return make_server(DEFAULT_SPEC)
