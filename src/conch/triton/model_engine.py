"""An engine that is another model of the same server: Triton's backend ``tensorrtllm`` over a compiled engine.

One thread for each request under way asks the model and hands on what comes; the model batches. It tells neither why
an answer ended nor, before the next response, that one was the last. So the end is seen in the tokens: as many as were
asked for, or one that ends the answer.

A model that says nothing any more holds those threads, and nothing can take them back: Triton's API waits without a
limit. So they are let go of. A request that has heard nothing for too long ends with an error, and what is done about
it is done a limited number of times.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Mapping
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
from conch.trtllm.requests import ASKED, Piece, check_request, comes_in_pieces, read_pieces, request_arrays, stop_arrays
from conch.trtllm.tensors import BACKEND_MODEL

_log = logging.getLogger(__name__)
_STOP_AGAIN_S = 0.1
_LOOK_S = 1.0  # pause between looks for requests that hear nothing, at most
_CLOSE_S = 5.0  # longest wait for what was stopped, before the process goes
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
        responses: of the model, once it is asked.
        begun: there was a response.
        silent_s: since the last one, or since the request came.
        stopping: a thread ends it.
        over: the model has sent its last response.
    """

    request: GenerationRequest
    name: str
    given_up: bool = False
    output_tokens: dict[int, int] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)
    responses: bls.Responses | None = None
    begun: bool = False
    silent_s: float = 0.0
    stopping: bool = False
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def steps(self) -> int:
        """Most steps of the model until the next response: one, or all, where the answers come whole."""
        return 1 if comes_in_pieces(self.request.params) else self.request.params.max_tokens


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
        self._step_timeout_s = spec.engine.step_timeout_s
        self._lock = threading.Lock()  # of _live, _closed, and what was heard
        self._deliver = threading.Lock()  # one thread at a time in the sink
        self._live: dict[int, _Ask] = {}
        self._emptied = threading.Condition(self._lock)
        self._silent_s = 0.0  # since the last response to anyone
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="model-engine-watch", daemon=True)
        self._watcher.start()

    def submit(self, request: GenerationRequest) -> None:
        check_request(request.params, self._settings)
        ask = _Ask(request, f"{os.getpid()}-{request.request_id}")
        with self._lock:
            if self._closed.is_set():
                raise UnavailableError("the engine is shutting down")
            self._start(self._run, ask)
            self._live[request.request_id] = ask

    def cancel(self, request_id: int) -> None:
        with self._lock:
            ask = self._live.get(request_id)
        if ask is not None:
            ask.given_up = True
            self._stop(ask)

    def close(self) -> None:
        with self._lock:
            self._closed.set()
            live = list(self._live.values())
        for ask in live:
            self._fail(ask, UnavailableError("the engine is shutting down"))
            self._stop(ask)
        self._watcher.join()
        with self._lock:
            self._emptied.wait_for(lambda: not self._live, _CLOSE_S)
            left = len(self._live)
        if left:
            _log.error("%d requests to the model %s have not ended within %g s", left, BACKEND_MODEL, _CLOSE_S)

    def _start(self, run: Callable[[_Ask], None], ask: _Ask) -> None:
        """A thread for an ask. A daemon: the process must be able to end while the model holds it."""
        threading.Thread(target=run, args=(ask,), name=f"model-engine-{ask.name}", daemon=True).start()

    # --- on a request's thread ---------------------------------------------------------------------------------------

    def _run(self, ask: _Ask) -> None:
        try:
            if not ask.given_up:
                arrays = request_arrays(ask.request.input_ids, ask.request.params)
                ask.responses = bls.Responses(self._request(arrays, ask.name))
                for response in ask.responses:
                    with self._lock:
                        ask.begun, ask.silent_s, self._silent_s = True, 0.0, 0.0
                    self._take(ask, response)
                self._end(ask)
        except Exception as error:
            self._fail(ask, as_conch_error(error))
        finally:
            ask.over.set()
            self._forget(ask)

    def _forget(self, ask: _Ask) -> None:
        with self._lock:
            self._live.pop(ask.request.request_id, None)
            self._emptied.notify_all()

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

    def _request(self, arrays: Mapping[str, NDArray[Any]], name: str) -> pb_utils.InferenceRequest:
        return pb_utils.InferenceRequest(
            model_name=BACKEND_MODEL,
            model_version=self._version,
            requested_output_names=ASKED,
            inputs=[pb_utils.Tensor(tensor, array) for tensor, array in arrays.items()],
            request_id=name,
        )

    # --- on threads of their own -------------------------------------------------------------------------------------

    def _stop(self, ask: _Ask) -> None:
        """End what was given up, on a thread: a model that says nothing answers no stop either."""
        with self._lock:
            if ask.stopping or ask.over.is_set():
                return
            ask.stopping = True
        self._start(self._stop_until_over, ask)

    def _stop_until_over(self, ask: _Ask) -> None:
        """Again and again, since a stop that comes before its request stops nothing; but not for ever."""
        for _ in range(math.ceil(self._step_timeout_s / _STOP_AGAIN_S)):
            try:
                if ask.responses is not None:
                    ask.responses.cancel()
                for _response in bls.stream(self._request(stop_arrays(), ask.name)):
                    pass
            except Exception:
                _log.exception("a request could not be stopped")
            if ask.over.wait(_STOP_AGAIN_S):
                return
        _log.error("a request to the model %s was stopped, and has not ended: its thread is left", BACKEND_MODEL)
        self._forget(ask)

    def _watch(self) -> None:
        """End what hears nothing. Looks are counted, not time: the model is not to blame for a stop of this process."""
        look_s = min(_LOOK_S, self._step_timeout_s / 4)
        while not self._closed.wait(look_s):
            with self._lock:
                self._silent_s += look_s
                for ask in self._live.values():
                    ask.silent_s += look_s
                silent = [(ask, self._silence_s(ask)) for ask in self._live.values()]
            for ask, silent_s in silent:
                if silent_s >= self._step_timeout_s * ask.steps and not ask.given_up:
                    self._fail(ask, UnavailableError(f"the engine has sent nothing for {silent_s:g} s"))
                    self._stop(ask)

    def _silence_s(self, ask: _Ask) -> float:
        """The model may hold a request back for want of room: one that has not begun waits while others hear of it."""
        return ask.silent_s if ask.begun else min(ask.silent_s, self._silent_s)


def _backend_error(text: str, guide: Guide | None) -> ConchError:
    """The backend has one code for everything; its words tell more."""
    if guide is not None and any(word in text.lower() for word in _OF_A_GUIDE):
        return InvalidArgumentError(
            f"{GUIDED_DECODING_GUIDE.name} cannot be compiled as {guide.type}: the engine says: {text}"
        )
    if any(word in text.lower() for word in _NO_ROOM):
        return UnavailableError(f"the engine cannot take the request now: {text}")
    return InternalError(f"the engine failed: {text}")
