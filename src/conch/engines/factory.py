"""From a spec to a running engine."""

from __future__ import annotations

from pathlib import Path

from conch.engines.base import Engine, TokenSink
from conch.engines.echo import EchoEngine
from conch.engines.process import ProcessEngine
from conch.spec import Engine as EngineSpec
from conch.spec import Runtime


def create_engine(spec: EngineSpec, engine_dir: Path, sink: TokenSink) -> Engine:
    """Start the engine that ``spec.runtime`` names.

    Args:
        spec: engine section of the spec.
        engine_dir: compiled engine.
        sink: where tokens go.

    Raises:
        RepositoryError: the engine cannot be loaded.
    """
    if spec.runtime is Runtime.ECHO:
        return EchoEngine(spec, sink)
    return ProcessEngine(engine_dir, spec, sink)
