"""Fixtures for every test. Nothing is imported or started before a test asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from server_processes import Server


@pytest.fixture(scope="session")
def make_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """Factory: the name of a spec in build_scripts/specs -> a real server of it, the same one for the same name."""
    from server_processes import DEFAULT_SPEC, SWAPPED, SWAPPED_TOO, build_repository, running_server

    servers: dict[str, Server] = {}
    with ExitStack() as stack:

        def make(spec: str) -> Server:
            if spec in SWAPPED_TOO and DEFAULT_SPEC.endswith(SWAPPED):
                spec += SWAPPED
            if spec not in servers:
                run_dir = tmp_path_factory.mktemp(f"run-{spec}")
                servers[spec] = stack.enter_context(running_server(build_repository(spec), run_dir))
            return servers[spec]

        yield make


@pytest.fixture(scope="session")
def server(make_server: Callable[[str], Server]) -> Server:
    """A real tritonserver with the default model, for all tests of the session; leave it as it was."""
    from server_processes import DEFAULT_SPEC

    return make_server(DEFAULT_SPEC)
