"""From a spec to a running engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from conch.engines.base import Engine, TokenSink
from conch.engines.echo import EchoEngine
from conch.engines.guides import GuideChecks
from conch.engines.process import ProcessEngine
from conch.engines.queue import RequestQueue
from conch.spec import ModelSpec, Runtime


def create_engine(
    spec: ModelSpec, engine_dir: Path, sink: TokenSink, make: Callable[[TokenSink], Engine] | None = None
) -> RequestQueue | GuideChecks:
    """Start the engine that ``spec.engine.runtime`` names, with a line in front of it.

    Args:
        spec: of the release.
        engine_dir: compiled engine.
        sink: where tokens go.
        make: makes an engine that this room does not know, over its sink; None: there is none.

    Raises:
        RepositoryError: the engine cannot be loaded.
    """
    serving = spec.serving
    queue = RequestQueue(spec.engine.max_batch_size, serving.max_queue_size, serving.queue_timeout_ms / 1000, sink)
    if make is not None:
        queue.engine = make(queue)
    elif spec.engine.runtime is Runtime.ECHO:
        queue.engine = EchoEngine(spec.engine, queue)
    else:
        queue.engine = ProcessEngine(engine_dir, spec.engine, queue)
        return GuideChecks(queue, engine_dir, spec.engine.runtime)
    return queue
