"""Each test that takes `asker` runs four times: gRPC and HTTP, with threads and with asyncio."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from askers import KINDS, Asker


@pytest.fixture(params=list(KINDS))
def asker(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client of each kind with a server of its own; `.plans` says what the server does."""
    server = KINDS[request.param][1]()
    asker = Asker(request.param, server.url)
    asker.server = server
    asker.plans = server.plans
    yield asker
    server.close()
