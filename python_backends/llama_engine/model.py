"""Triton's entry to the engine: everything is in conch.triton.engine_stage."""

from conch.contract import ENGINE
from conch.triton.engine_stage import EngineStage
from conch.triton.load import load_stage


class TritonPythonModel:
    """The one instance of the engine: batching happens inside it."""

    def initialize(self, args):
        """Load the engine of this version."""
        self._stage = load_stage(EngineStage, ENGINE, args)

    def execute(self, requests):
        """Take requests in; tokens are sent as they come."""
        return self._stage.execute(requests)

    def finalize(self):
        """Stop the engine."""
        self._stage.close()
