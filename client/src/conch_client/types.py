"""What a client takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypedDict

from conch_client import _contract as contract


class Message(TypedDict):
    """One turn of a chat. The model's chat template says which roles and what content it takes."""

    role: str
    content: Any


class Parameters(contract.Parameters, total=False):
    """Keyword arguments of a generation: the controls, and four natural names of a guide.

    Attributes:
        json: True: the answer is JSON of any kind.
        json_schema: a schema that the answer follows, as JSON text or as what would be dumped to it.
        regex: a regular expression that the whole answer matches.
        grammar: an EBNF grammar that makes the answer.
    """

    json: bool
    json_schema: str | Mapping[str, Any] | bool
    regex: str
    grammar: str


@dataclass(frozen=True)
class PerfMetrics:
    """Times of an answer on the server, if return_perf_metrics.

    Attributes:
        arrival_time_ns: when the request reached the engine, nanoseconds since 1970, by the server's clock.
        queue_ms: from its arrival until it left the queue.
        first_token_ms: from its arrival to its first token; None: there was none.
        last_token_ms: from its arrival to its last token; None: there was none.
    """

    arrival_time_ns: int
    queue_ms: float | None
    first_token_ms: float | None
    last_token_ms: float | None


@dataclass(frozen=True)
class Answer:
    """One of the answers to a prompt.

    Attributes:
        text: the answer.
        finish_reason: stop, length or cancelled; None if the server did not say.
        num_output_tokens: its tokens; None if the server did not say.
        token_ids: if return_token_ids; of as many tokens as log_probs.
        log_probs: natural logarithm of each token's probability, if return_log_probs.
        cum_log_prob: their sum, if return_log_probs.
    """

    text: str
    finish_reason: str | None = None
    num_output_tokens: int | None = None
    token_ids: tuple[int, ...] | None = None
    log_probs: tuple[float, ...] | None = None
    cum_log_prob: float | None = None


class Chunk(NamedTuple):
    """One piece of a streamed answer.

    Attributes:
        text: the new text; pieces joined are the whole answer.
        finish_reason: stop, length or cancelled on the last chunk, None before.
        num_output_tokens: tokens of this chunk alone; None if the server did not say.
        num_input_tokens: tokens of the prompt; None if the server did not say.
        model_version: version that answers.
        token_ids, log_probs: of this chunk alone; None if not asked for.
        cum_log_prob: sum of the log probs of the answer so far; None if not asked for.
        perf_metrics: on the last chunk; None if not asked for.
        alternatives: the further answers of a request for many, which comes in one chunk.
    """

    text: str
    finish_reason: str | None = None
    num_output_tokens: int | None = None
    num_input_tokens: int | None = None
    model_version: str = ""
    token_ids: tuple[int, ...] | None = None
    log_probs: tuple[float, ...] | None = None
    cum_log_prob: float | None = None
    perf_metrics: PerfMetrics | None = None
    alternatives: tuple[Answer, ...] = ()


@dataclass(frozen=True)
class Completion:
    """A whole answer.

    Attributes:
        text: the answer; of several, the first.
        finish_reason: stop, length or cancelled; None if the server did not say.
        num_input_tokens, num_output_tokens: tokens of prompt and answer; None if the server did not say.
        request_id: the caller's, or the one that the client made.
        model_version: version that answered.
        token_ids, log_probs, cum_log_prob: as in Answer; None if not asked for.
        perf_metrics: times on the server; None if not asked for.
        alternatives: the further answers, if num_return_sequences or beam_width asked for them.
    """

    text: str
    finish_reason: str | None
    num_input_tokens: int | None
    num_output_tokens: int | None
    request_id: str
    model_version: str
    token_ids: tuple[int, ...] | None = None
    log_probs: tuple[float, ...] | None = None
    cum_log_prob: float | None = None
    perf_metrics: PerfMetrics | None = None
    alternatives: tuple[Answer, ...] = ()

    @property
    def sequences(self) -> tuple[Answer, ...]:
        """All answers; the best first if they are beams."""
        first = Answer(
            self.text, self.finish_reason, self.num_output_tokens, self.token_ids, self.log_probs, self.cum_log_prob
        )
        return (first, *self.alternatives)


@dataclass(frozen=True)
class ModelInfo:
    """One version of a model in the server's repository.

    Attributes:
        name, version: as in the repository; version is "" for a model that was never loaded.
        state: READY, UNAVAILABLE, LOADING or UNLOADING; "" for a model that was never loaded.
        reason: why it is unavailable.
    """

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True)
class Health:
    """How a server does.

    Attributes:
        live: the process answers.
        ready: what the server says of itself. False while any model loads, and after a load that failed, even though
            the loaded models go on serving; so ``ok`` does not look at it.
        models: ensemble -> may be asked now. The client's own model is always among them.
        detail: why the server is not live.
    """

    live: bool
    ready: bool
    models: dict[str, bool] = field(default_factory=dict)
    detail: str = ""

    @property
    def ok(self) -> bool:
        """Live, and each ensemble is ready."""
        return self.live and all(self.models.values())


@dataclass(frozen=True)
class Tls:
    """Files (PEM) for TLS.

    Attributes:
        ca_file: certificates to trust; default: the system's (gRPC: its own list).
        cert_file, key_file: the client's certificate and key, where the server asks for one.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
