"""vLLM 0.24.0 as far as Conch uses it, typed, without a model.

Names, parameters and defaults are those of vLLM 0.24.0; tests/unit/test_engines_async.py compares them with what was
recorded from the real package (tests/reference/vllm_0_24.json). A test says what AsyncLLM answers.
"""

from __future__ import annotations

from typing import TypedDict

from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import SamplingParams

__version__ = "0.24.0"
__all__ = ["CompletionOutput", "RequestOutput", "SamplingParams", "TokensPrompt"]


class TokensPrompt(TypedDict):
    """A prompt of token ids."""

    prompt_token_ids: list[int]
