"""TensorRT-LLM 1.2.1 as far as Conch uses it, typed, without a model. The real one was never run here.

Names are those of tensorrt_llm/llmapi/__init__.py, llm.py, llm_args.py, sampling_params.py and executor/result.py, read
at commits of the time of 1.2 (4c05a748, a98a9061, a678b91a, 5ca85aff of NVIDIA/TensorRT-LLM).
"""

from __future__ import annotations

from tensorrt_llm.llmapi import LLM, SamplingParams

__version__ = "1.2.1"
__all__ = ["LLM", "SamplingParams"]
