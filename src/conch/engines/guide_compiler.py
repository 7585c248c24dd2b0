"""Compiles guides, beside the engine that serves: what a request's answer must be, as OpenVINO GenAI takes it."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from conch import contract
from conch.engines.bad_words import bad_words_grammar
from conch.engines.guide_model import GuideVocabulary
from conch.errors import InvalidArgumentError
from conch.sampling import Guide, SamplingParams

_MAX_REASON_CHARS = 300
_MAX_ENUM = 1000
_DATA_KEYS = ("const", "default", "enum", "examples")  # what they hold is no schema
# Of xgrammar's messages: time, file and line, and the condition in its C++ code.
_NOISE = re.compile(r"^(\[[\d:]+\] )?(\S+\.(cc|cpp|h):\d+:? )?(Check failed: \(.*?\) is false: )?")


def guide_of(params: SamplingParams) -> Guide | None:
    """What the answer must be: the request's guide, or the grammar of its bad words.

    Raises:
        InvalidArgumentError: too many bad words.
    """
    if params.bad_words:
        return Guide("ebnf_grammar", bad_words_grammar(params.bad_words))
    return params.guide


def refusal(params: SamplingParams, reason: str) -> InvalidArgumentError:
    """The error for a guide that does not compile."""
    if params.guide is None:
        return InvalidArgumentError(f"{contract.BAD_WORDS.name} cannot be honoured: {reason}")
    name = contract.GUIDED_DECODING_GUIDE.name
    return InvalidArgumentError(f"{name} cannot be compiled as {params.guide.type}: {reason}")


def structured_output(guide: Guide) -> Any:
    """An openvino_genai.StructuredOutputConfig."""
    from openvino_genai import StructuredOutputConfig

    if guide.type == "json":
        return StructuredOutputConfig(json_schema="{}")
    if guide.type == "json_schema":
        return StructuredOutputConfig(json_schema=with_exact_integers(guide.text))
    option = {"regex": "regex", "ebnf_grammar": "grammar"}[guide.type]
    return StructuredOutputConfig(**{option: guide.text})


def with_exact_integers(schema: str) -> str:
    """A JSON schema with every small range of integers written out as an enum.

    xgrammar 0.1.31 takes some ranges for others: 0 to 120 lets 129 in, 1 to 150 leaves 1 out.
    """
    try:
        parsed = json.loads(schema)
        exact = _exact(parsed)
        return schema if exact == parsed else json.dumps(exact)
    except (ValueError, RecursionError):  # the compiler says what is wrong with it
        return schema


def _exact(node: Any) -> Any:
    if isinstance(node, list):
        return [_exact(item) for item in node]
    if not isinstance(node, dict):
        return node
    low, high = node.get("minimum"), node.get("maximum")
    if node.get("type") == "integer" and type(low) is int and type(high) is int and 0 <= high - low < _MAX_ENUM:
        return {"enum": list(range(low, high + 1))}
    return {key: value if key in _DATA_KEYS else _exact(value) for key, value in node.items()}


def plain_reason(error: BaseException) -> str:
    """What xgrammar says of a guide, in one line, without where in its code it says so."""
    lines = [line.strip() for line in str(error).splitlines()]
    text = " ".join(line for line in lines if line and not line.startswith(("Exception from", "Check '")))
    text = _NOISE.sub("", text, count=1).split(" The JSON string is:")[0]
    return text[:_MAX_REASON_CHARS].strip() or "it is not understood"


class GuideCompiler:
    """Compiles guides by answering a request that has them, over a model of nothing.

    ``compile`` does not keep Python's global lock while it works, unlike the step of a pipeline.

    Args:
        vocabulary: of ``tokenizer``.
        tokenizer: of GuideVocabulary.open_tokenizer; keeps what was compiled, for every pipeline that has it.

    Raises:
        RepositoryError: it cannot be loaded.
    """

    def __init__(self, vocabulary: GuideVocabulary, tokenizer: Any) -> None:
        self._end_id = vocabulary.end_id
        self._pipeline = vocabulary.open_pipeline(tokenizer)
        self._other = GuideVocabulary((b"a", b""), 1).open_pipeline(tokenizer)  # of another size

    def compile(self, guide: Guide, max_tokens: int = 1) -> list[int]:
        """Compile a guide.

        Returns:
            An answer that it allows: at each place the first of all ids that may follow, up to max_tokens of them. An
            id that adds nothing to a text stands for a place where nothing may follow.

        Raises:
            RuntimeError: it cannot be compiled.
        """
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = max_tokens
        config.eos_token_id = self._end_id
        config.stop_token_ids = {self._end_id}
        config.structured_output_config = structured_output(guide)
        return _generate(self._pipeline, config)

    def forget(self) -> None:
        """Give back the memory of all that the tokenizer keeps; not while any other thread computes with it.

        A tokenizer begins anew when a pipeline uses it whose model has another number of ids.
        """
        import openvino_genai

        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = 1
        config.ignore_eos = True
        for pipeline in (self._other, self._pipeline):
            _generate(pipeline, config)


def _generate(pipeline: Any, config: Any) -> list[int]:
    import openvino

    prompt = openvino.Tensor(np.zeros((1, 1), dtype=np.int64))
    (answer,) = pipeline.generate([prompt], [config])
    ids: list[int] = answer.m_generation_ids[0]
    return ids
