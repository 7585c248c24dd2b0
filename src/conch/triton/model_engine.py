"""An engine that is another model of the same server: Triton's backend ``tensorrtllm`` over a compiled engine.

One thread for each request under way asks the model and hands on what comes; the model batches. It tells neither why
an answer ended nor, before the next response, that one was the last. So the end is seen in the tokens: as many as were
asked for, or one that ends the answer.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from conch.contract import GUIDED_DECODING_GUIDE
from conch.engines.base import Engine, GenerationRequest, Tokens, TokenSink
from conch.errors import ConchError, InternalError, InvalidArgumentError, UnavailableError
from conch.sampling import Guide
from conch.spec import ModelSpec
from conch.triton import bls
from conch.triton.guard import as_conch_error
from conch.trtllm.requests import ASKED, Piece, check_request, read_pieces, request_arrays, stop_arrays
from conch.trtllm.tensors import BACKEND_MODEL

_log = logging.getLogger(__name__)
_STOP_AGAIN_S = 0.1
# In the text of an error: the request was refused for want of room, and may succeed later; a guide is no good.
_OF_A_GUIDE = ("grammar", "guide", "schema", "regex", "json")
_NO_ROOM = ("queue size", "max_queue_size", "is not ready", "unavailable")


@dataclass(eq=False)
class _Ask:
    """A request under way.

    Attributes:
        request: what was asked.
        name: request id towards the model; the only one of its kind.
        given_up: nothing more is handed on.
        output_tokens: so far, for each answer.
        ended: answers that have ended.
    """

    request: GenerationRequest
    name: str
    given_up: bool = False
    output_tokens: dict[int, int] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)


class ModelEngine(Engine):
    """See the module.

    Args:
        spec: of the release, of the runtime tensorrtllm.
        version: of the model to ask.
        sink: where tokens go; it is called by one thread at a time.
    """

    def __init__(self, spec: ModelSpec, version: int, sink: TokenSink) -> None:
        assert spec.engine.tensorrt_llm is not None
        self._settings, self._version, self._sink = spec.engine.tensorrt_llm, version, sink
        self._lock = threading.Lock()  # of _live and _closed
        self._deliver = threading.Lock()  # one thread at a time in the sink
        self._live: dict[int, _Ask] = {}
        self._closed = threading.Event()
        self._stops = threading.Event()
        self._pool = ThreadPoolExecutor(spec.engine.max_batch_size, thread_name_prefix="model-engine")
        self._stopper = threading.Thread(target=self._stop_given_up, name="model-engine-stop", daemon=True)
        self._stopper.start()

    def submit(self, request: GenerationRequest) -> None:
        check_request(request.params, self._settings)
        ask = _Ask(request, f"{os.getpid()}-{request.request_id}")
        with self._lock:
            if self._closed.is_set():
                raise UnavailableError("the engine is shutting down")
            self._live[request.request_id] = ask
        self._pool.submit(self._run, ask)

    def cancel(self, request_id: int) -> None:
        with self._lock:
            ask = self._live.get(request_id)
            if ask is None:
                return
            ask.given_up = True
        self._stops.set()

    def close(self) -> None:
        with self._lock:
            self._closed.set()
            live = list(self._live.values())
        for ask in live:
            self._fail(ask, UnavailableError("the engine is shutting down"))
        self._stops.set()
        self._pool.shutdown(cancel_futures=True)
        with self._lock:
            self._live.clear()  # of those whose turn never came
        self._stops.set()
        self._stopper.join()

    # --- on a request's thread ---------------------------------------------------------------------------------------

    def _run(self, ask: _Ask) -> None:
        try:
            if not ask.given_up:
                for response in self._exec(request_arrays(ask.request.input_ids, ask.request.params), ask.name):
                    self._take(ask, response)
                self._end(ask)
        except Exception as error:
            self._fail(ask, as_conch_error(error))
        finally:
            with self._lock:
                self._live.pop(ask.request.request_id, None)

    def _take(self, ask: _Ask, response: pb_utils.InferenceResponse) -> None:
        if response.has_error():
            raise _backend_error(response.error().message(), ask.request.params.guide)
        arrays = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
        for piece in read_pieces(arrays, ask.request.params):
            self._hand_on(ask, piece)

    def _hand_on(self, ask: _Ask, piece: Piece) -> None:
        params, sequence = ask.request.params, piece.sequence
        if sequence in ask.ended:
            return
        count = ask.output_tokens.get(sequence, 0) + len(piece.ids)
        ask.output_tokens[sequence] = count
        reason = None
        if piece.ids and piece.ids[-1] in params.end_ids:
            reason = "stop"
        elif count >= params.max_tokens:
            reason = "length"
        elif params.num_sequences > 1 or params.beam_width > 1:  # whole, and shorter: it ended by itself
            reason = "stop"
        if reason is not None:
            ask.ended.add(sequence)
        if piece.ids or reason is not None:
            self._tell(ask, Tokens(ask.request.request_id, piece.ids, reason, piece.log_probs, sequence))

    def _end(self, ask: _Ask) -> None:
        """The model has sent its last response: what has not ended ended by itself, without a token that says so."""
        for sequence in range(ask.request.params.num_sequences):
            if sequence not in ask.ended:
                self._tell(ask, Tokens(ask.request.request_id, [], "stop", [], sequence))

    def _tell(self, ask: _Ask, event: Tokens) -> None:
        with self._deliver:
            if not ask.given_up:
                self._sink.tokens(event)
                self._sink.step_done()

    def _fail(self, ask: _Ask, error: ConchError) -> None:
        with self._deliver:
            if not ask.given_up:
                ask.given_up = True
                self._sink.failed(ask.request.request_id, error)
                self._sink.step_done()

    def _exec(self, arrays: Mapping[str, NDArray[Any]], name: str) -> Iterable[pb_utils.InferenceResponse]:
        request = pb_utils.InferenceRequest(
            model_name=BACKEND_MODEL,
            model_version=self._version,
            requested_output_names=ASKED,
            inputs=[pb_utils.Tensor(tensor, array) for tensor, array in arrays.items()],
            request_id=name,
        )
        return bls.stream(request)

    # --- on a thread of its own --------------------------------------------------------------------------------------

    def _stop_given_up(self) -> None:
        """End what was given up; again and again, since a stop that comes before its request stops nothing."""
        while True:
            self._stops.wait()
            with self._lock:
                given_up = [ask for ask in self._live.values() if ask.given_up]
                if not given_up:
                    if self._closed.is_set():
                        return
                    self._stops.clear()
                    continue
            for ask in given_up:
                try:
                    for _ in self._exec(stop_arrays(), ask.name):
                        pass
                except Exception:
                    _log.exception("a request could not be stopped")
            threading.Event().wait(_STOP_AGAIN_S)


def _backend_error(text: str, guide: Guide | None) -> ConchError:
    """The backend has one code for everything; its words tell more."""
    if guide is not None and any(word in text.lower() for word in _OF_A_GUIDE):
        return InvalidArgumentError(
            f"{GUIDED_DECODING_GUIDE.name} cannot be compiled as {guide.type}: the engine says: {text}"
        )
    if any(word in text.lower() for word in _NO_ROOM):
        return UnavailableError(f"the engine cannot take the request now: {text}")
    return InternalError(f"the engine failed: {text}")
