"""Stages of a small release, and a look at what would have crashed Triton."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from triton_side import Stages


@pytest.fixture(autouse=True)
def _nothing_that_crashes_triton() -> Iterator[None]:
    import triton_python_backend_utils as pb_utils

    pb_utils.violations.clear()
    yield
    assert pb_utils.violations == []


@pytest.fixture(scope="session", autouse=True)
def _a_process_for_each_engine() -> Iterator[None]:
    """As in Triton, though all are in this one."""
    from conch.triton import metrics

    numbers = itertools.count(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "process", lambda: str(next(numbers)))
        yield


@pytest.fixture
def make_stages(tmp_path: Path) -> Iterator[Callable[..., Stages]]:
    """Factory: arguments of write_small_release -> stages, closed at the end."""
    from triton_side import Stages, write_small_release

    made: list[Stages] = []

    def make(*args: Any, **kwargs: Any) -> Stages:
        made.append(Stages(write_small_release(tmp_path / f"repository-{len(made)}", *args, **kwargs)))
        return made[-1]

    yield make
    for stages in made:
        stages.close()


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    """Stages of a release whose tokens are single bytes, for all tests of a module."""
    from triton_side import Stages, write_small_release

    stages = Stages(write_small_release(tmp_path_factory.mktemp("release") / "repository"))
    yield stages
    stages.close()
