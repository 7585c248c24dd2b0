"""A request in Triton's tensors, and what an answer's piece says: the same for gRPC and HTTP."""

from __future__ import annotations

from conch_client.request import Request, build_request
from conch_client.types import Chunk

from conch.contract import MAX_TOKENS, MIN_TOKENS, RETURN_TOKEN_IDS
from conch_load.config import RunConfig
from conch_load.users.exchange import Exchange


def request_of(exchange: Exchange, config: RunConfig, stream: bool) -> Request:
    """The request: greedy, of an exact length where the workload says so."""
    ask = exchange.ask
    parameters: dict[str, object] = {MAX_TOKENS.public.name: ask.output_tokens}
    if config.workload.force_output:
        parameters[MIN_TOKENS.public.name] = ask.output_tokens
    if exchange.want_ids:
        parameters[RETURN_TOKEN_IDS.public.name] = True
    return build_request(
        prompt=ask.text, messages=ask.messages, model=config.model, version=None, request_id=exchange.request_id,
        stream=stream, parameters=parameters,
    )  # fmt: skip


def take(exchange: Exchange, chunk: Chunk, at_ns: int) -> None:
    """Note a piece of an answer down."""
    if chunk.text or chunk.num_output_tokens:
        exchange.chunk(at_ns, chunk.text, chunk.num_output_tokens)
    if chunk.num_input_tokens is not None:
        exchange.prompt_tokens = chunk.num_input_tokens
    if chunk.finish_reason:
        exchange.finish_reason = chunk.finish_reason
    if chunk.token_ids is not None:
        exchange.token_ids = [*(exchange.token_ids or []), *chunk.token_ids]
