"""Triton's entry to the tokenizer: everything is in conch.triton.tokenizer_stage."""

from conch.contract import TOKENIZER
from conch.triton.load import load_stage
from conch.triton.tokenizer_stage import TokenizerStage


class TritonPythonModel:
    """One instance of the tokenizer."""

    def initialize(self, args):
        """Load the files of this version."""
        self._stage = load_stage(TokenizerStage, TOKENIZER, args)

    def execute(self, requests):
        """Answer each request; one bad request never fails the others."""
        return self._stage.execute(requests)
