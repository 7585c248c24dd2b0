"""Triton's entry to the detokenizer: everything is in conch.triton.detokenizer_stage."""

from conch.contract import DETOKENIZER
from conch.triton.detokenizer_stage import DetokenizerStage
from conch.triton.load import load_stage


class TritonPythonModel:
    """One instance of the detokenizer."""

    def initialize(self, args):
        """Load the files of this version."""
        self._stage = load_stage(DetokenizerStage, DETOKENIZER, args)

    def execute(self, requests):
        """Answer each request; one bad request never fails the others."""
        return self._stage.execute(requests)
