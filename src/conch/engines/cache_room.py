"""What the KV cache of OpenVINO GenAI holds, beside what is asked of it: how large it is, is known once it is there.

The pipeline lets a request that is too large wait for room until it is the only one, and gives it up then: to whoever
sent it that would look as if the server were busy, and worth a retry.
"""

from __future__ import annotations

from conch.contract import MAX_TOKENS
from conch.engines.base import GenerationRequest
from conch.errors import InvalidArgumentError, RepositoryError
from conch.spec import Engine as EngineSpec


def require_cache(spec: EngineSpec, cache_tokens: int) -> None:
    """Refuse a cache that is smaller than the longest request that the spec promises.

    A spec without max_seq_len promises nothing: then each request is looked at by itself.

    Args:
        cache_tokens: tokens that fit; 0: not known.

    Raises:
        RepositoryError: it is.
    """
    if cache_tokens and spec.max_seq_len is not None and spec.max_seq_len > cache_tokens:
        raise RepositoryError(
            f"engine.max_seq_len must be at most {cache_tokens}, the tokens that engine.kv_cache_gib "
            f"{spec.kv_cache_gib} holds of this model, got {spec.max_seq_len}",
            mend="Raise engine.kv_cache_gib or lower engine.max_seq_len, and build again",
        )


def require_room(request: GenerationRequest, spec: EngineSpec, cache_tokens: int) -> None:
    """Refuse a request that does not fit into an empty cache.

    Args:
        cache_tokens: tokens that fit; 0: not known.

    Raises:
        InvalidArgumentError: it does not; holds both numbers.
    """
    params, prompt = request.params, len(request.input_ids)
    answers = params.num_sequences if params.beam_width == 1 else 1  # beams share what they have in common
    needed = prompt + answers * params.max_tokens
    if cache_tokens and needed > cache_tokens:
        times = f"{answers} answers of " if answers > 1 else ""
        raise InvalidArgumentError(
            f"prompt and {MAX_TOKENS.name} together must be at most {cache_tokens} tokens, what the KV cache of "
            f"{spec.kv_cache_gib} GiB holds, got {needed} ({prompt} of the prompt, {times}{params.max_tokens})"
        )
