"""Triton's entry to the step from unsigned to signed: everything is in conch.triton.unsigned_stage."""

from conch.contract import UNSIGNED
from conch.triton.load import load_stage
from conch.triton.unsigned_stage import UnsignedStage


class TritonPythonModel:
    """One instance of the step."""

    def initialize(self, args):
        """Check that config.pbtxt fits; there are no files to load."""
        self._stage = load_stage(UnsignedStage, UNSIGNED, args)

    def execute(self, requests):
        """Answer each request; one bad request never fails the others."""
        return self._stage.execute(requests)
