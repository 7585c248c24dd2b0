"""From the flat values of a response to its answers, whatever carried them; and what a stream has brought so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from conch_client import _contract as contract
from conch_client.errors import InternalError
from conch_client.types import Answer, Chunk, Completion, PerfMetrics

_NS_PER_MS = 1e6


def chunk_of_values(values: Mapping[str, Sequence[Any]], model_version: str) -> Chunk:
    """One response.

    Args:
        values: output -> its elements, flat: one for each sequence, or for token_ids and output_log_probs as many for
            each sequence as the longest has tokens.
        model_version: version that answers.

    Raises:
        InternalError: the outputs do not fit each other.
    """
    texts = values[contract.TEXT_OUTPUT]
    answers = [_answer(values, index, len(texts)) for index in range(len(texts))] or [Answer("")]
    first, inputs = answers[0], values.get(contract.NUM_INPUT_TOKENS)
    return Chunk(
        first.text, first.finish_reason, first.num_output_tokens, inputs[0] if inputs else None, model_version,
        first.token_ids, first.log_probs, first.cum_log_prob, _perf_metrics(values), tuple(answers[1:]),
    )  # fmt: skip


def _answer(values: Mapping[str, Sequence[Any]], index: int, count: int) -> Answer:
    def of(name: str) -> Any:
        found = values.get(name)
        if found is None:
            return None
        if len(found) != count:
            raise InternalError(f"the server sent {len(found)} {name} for {count} answers")
        return found[index]

    num_output_tokens = of(contract.NUM_OUTPUT_TOKENS)

    def row(name: str) -> tuple[Any, ...] | None:
        found = values.get(name)
        if found is None:
            return None
        longest, rest = divmod(len(found), count)
        if rest:
            raise InternalError(f"the server sent {len(found)} {name} for {count} answers")
        mine = tuple(found[index * longest : (index + 1) * longest])
        # Of several answers the shorter ones are filled up.
        return mine if count == 1 or num_output_tokens is None else mine[:num_output_tokens]

    return Answer(
        values[contract.TEXT_OUTPUT][index], of(contract.FINISH_REASON) or None, num_output_tokens,
        row(contract.TOKEN_IDS), row(contract.OUTPUT_LOG_PROBS), of(contract.CUM_LOG_PROBS),
    )  # fmt: skip


def _perf_metrics(values: Mapping[str, Sequence[Any]]) -> PerfMetrics | None:
    times = [values.get(name) for name in contract.PERF_TIMES]
    if not all(times):
        return None
    arrival, *later = (int(time[0]) for time in times if time)
    queue, first, last = ((time - arrival) / _NS_PER_MS if time else None for time in later)
    return PerfMetrics(arrival, queue, first, last)


class Collector:
    """The chunks of an answer, put together."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._texts: list[str] = []
        self._token_ids: list[int] | None = None
        self._log_probs: list[float] | None = None
        self._num_output_tokens: int | None = None
        self._num_input_tokens: int | None = None
        self._finish_reason: str | None = None
        self._last = Chunk("")

    @property
    def begun(self) -> bool:
        """A chunk has come."""
        return bool(self._texts)

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._texts)

    def add(self, chunk: Chunk) -> None:
        """Take the next chunk."""
        self._texts.append(chunk.text)
        self._last = chunk
        if chunk.num_output_tokens is not None:
            self._num_output_tokens = (self._num_output_tokens or 0) + chunk.num_output_tokens
        if chunk.num_input_tokens is not None:
            self._num_input_tokens = chunk.num_input_tokens
        if chunk.finish_reason is not None:
            self._finish_reason = chunk.finish_reason
        if chunk.token_ids is not None:
            self._token_ids = self._token_ids or []
            self._token_ids += chunk.token_ids
        if chunk.log_probs is not None:
            self._log_probs = self._log_probs or []
            self._log_probs += chunk.log_probs

    @property
    def completion(self) -> Completion:
        """The answer so far, with all that is known of it."""
        return Completion(
            text=self.text,
            finish_reason=self._finish_reason,
            num_input_tokens=self._num_input_tokens,
            num_output_tokens=self._num_output_tokens,
            request_id=self._request_id,
            model_version=self._last.model_version,
            token_ids=None if self._token_ids is None else tuple(self._token_ids),
            log_probs=None if self._log_probs is None else tuple(self._log_probs),
            cum_log_prob=self._last.cum_log_prob,
            perf_metrics=self._last.perf_metrics,
            alternatives=self._last.alternatives,
        )
