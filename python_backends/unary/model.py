"""Triton's entry to the model that answers once: everything is in conch.triton.unary_stage."""

from conch.contract import UNARY
from conch.triton.load import load_stage
from conch.triton.unary_stage import UnaryStage


class TritonPythonModel:
    """The one instance: many requests are under way in it."""

    def initialize(self, args):
        """Read the limits of this version."""
        self._stage = load_stage(UnaryStage, UNARY, args)

    def execute(self, requests):
        """Take requests in; answers are sent as they are complete."""
        return self._stage.execute(requests)

    def finalize(self):
        """End what is under way."""
        self._stage.close()
