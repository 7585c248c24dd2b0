"""Connections to the servers of the session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from server_processes import Server
    from tokenizers import Tokenizer


@pytest.fixture(scope="session")
def stub(server: Server) -> Iterator[Any]:
    """gRPC stub of the default server."""
    from triton_calls import grpc_stub

    with grpc_stub(server) as stub:
        yield stub


@pytest.fixture(scope="session")
def deterministic(make_server: Callable[[str], Server]) -> Server:
    """A server on which greedy answers do not depend on what else is in the batch."""
    return make_server("smollm2-135m-deterministic")


@pytest.fixture(scope="session")
def deterministic_stub(deterministic: Server) -> Iterator[Any]:
    """Its gRPC stub."""
    from triton_calls import grpc_stub

    with grpc_stub(deterministic) as stub:
        yield stub


@pytest.fixture(scope="session")
def tokenizer(server: Server) -> Tokenizer:
    """The model's own tokenizer, of the library that made it: an oracle for what ids mean."""
    from tokenizers import Tokenizer
    from triton_calls import version_folder

    from conch.text.files import TOKENIZER_FILE

    return Tokenizer.from_file(str(version_folder(server, "tokenizer") / TOKENIZER_FILE))
