"""One answer to one request, for whoever cannot read a stream: HTTP infer, unary gRPC.

Triton refuses these two for every model that may send several responses, and so for every ensemble with the engine in
it. This model is not one of them: it asks the three stages in their order, as the ensembles do, and sends what came.
It waits in threads, one for each request under way; they do nothing else, the engine batches the requests. Requests
beyond those wait in a line as the engine's, with the same limits and the same words.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

from conch.contract import (
    DETOKENIZER,
    ENGINE,
    ENSEMBLE,
    INPUT_IDS,
    INPUT_LENGTHS,
    PRIORITY,
    SEND_RECEIPTS,
    STOP,
    STREAM,
    TIMEOUT_MS,
    TOKENIZER,
    UNARY,
    UNARY_IN_FLIGHT,
    ModelContract,
)
from conch.engines.base import Engine, GenerationRequest, Tokens, TokenSink
from conch.engines.queue import RequestQueue
from conch.errors import CancelledError, ConchError, DeadlineExceededError, InvalidArgumentError
from conch.repository.settings import ReleaseSettings
from conch.sampling import Limits, resolve
from conch.triton import bls, codec
from conch.triton.guard import as_conch_error

_log = logging.getLogger(__name__)
_TICK_S = 0.1
_POLLS_PER_TICK = 10  # asking whether a client has gone is a round trip to Triton's process
_REPORTED = {t.name for t in UNARY.outputs}


class _Refused(Exception):
    """A stage answered with an error; holds its text."""


@dataclass(eq=False)
class _Ask:
    """A request under way.

    Attributes:
        number: of it, in the line.
        sender: for its answer.
        client_id: request id of the client; may be empty, or not be the only one of its kind.
        engine_id: request id towards the engine; the only one of its kind.
        arrays: its inputs.
        given_up: nobody waits for it any more.
        life: held while Triton is asked whether it was cancelled, and while the answer is sent: the question reads what
            the answer frees.
    """

    number: int
    sender: pb_utils.ResponseSender
    client_id: str
    engine_id: str
    arrays: codec.Arrays
    began: float = field(default_factory=time.monotonic)
    at_engine: bool = False
    given_up: bool = False
    closed: bool = False
    life: threading.Lock = field(default_factory=threading.Lock)

    def send(self, response: pb_utils.InferenceResponse) -> None:
        """Send the answer, unless there was one."""
        try:
            with self.life:
                if not self.closed:
                    self.closed = True
                    self.sender.send(response, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except Exception:
            _log.exception("an answer could not be sent")


class _Threads(Engine):
    """What the line is in front of.

    Args:
        answer: called on a thread with the number of a request whose turn it is.
    """

    def __init__(self, answer: Callable[[int], None]) -> None:
        self._answer = answer
        self._pool = ThreadPoolExecutor(UNARY_IN_FLIGHT, thread_name_prefix="unary")

    def submit(self, request: GenerationRequest) -> None:
        self._pool.submit(self._answer, request.request_id)

    def cancel(self, request_id: int) -> None:
        """Nothing: who ends a request early sees to it."""
        return

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class UnaryStage(TokenSink):
    """The model of one version. Of what the line tells a sink it hears only what ended there.

    Args:
        folder: version folder in the repository.

    Raises:
        RepositoryError: a file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        settings = ReleaseSettings.read(folder)
        serving = settings.spec.serving
        self._limits = settings.limits
        self._version = int(folder.name)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._open: dict[int, _Ask] = {}
        self._closed = threading.Event()
        self._line = RequestQueue(UNARY_IN_FLIGHT, serving.max_queue_size, serving.queue_timeout_ms / 1000, self)
        self._line.engine = _Threads(self._answer)
        self._watch = threading.Thread(target=self._watch_all, name="cancel-watch", daemon=True)
        self._watch.start()

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[None]:
        """Take requests in; the answer goes through each request's response sender.

        Response: TEXT_OUTPUT (rows * sequences,), and what conch.contract.UNARY lists as optional.

        Returns:
            None for each: so Triton knows that the answer comes later.
        """
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._take(request, sender)
            except Exception as error:
                response = codec.error_response(as_conch_error(error))
                sender.send(response, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return [None] * len(requests)

    def close(self) -> None:
        """End; Triton calls this when no request is under way."""
        self._closed.set()
        self._line.close()
        self._watch.join()

    def failed(self, request_id: int, error: ConchError) -> None:
        """A request has waited in vain, or for too long."""
        with self._lock:
            ask = self._open.pop(request_id, None)
        if ask is not None:
            ask.given_up = True
            ask.send(codec.error_response(error))

    def _take(self, request: pb_utils.InferenceRequest, sender: pb_utils.ResponseSender) -> None:
        codec.refuse_unknown_parameters(request, UNARY)
        # Copied: the memory behind them is Triton's, and the request waits in another thread.
        arrays = {name: array.copy() for name, array in codec.read_arrays(request).items()}
        if STREAM.name in arrays and arrays[STREAM.name].any():
            raise InvalidArgumentError(
                f"{STREAM.name} must be false: {UNARY.name} answers once; {ENSEMBLE.name} is for streams"
            )
        client_id, number = request.request_id(), next(self._numbers)
        if STOP.name in arrays and arrays[STOP.name].any():
            self._stop(client_id)
            engine_id = client_id  # the engine ends those that reached it in other ways
        else:
            engine_id = f"{UNARY.name}-{os.getpid()}-{number}"
        with self._lock:
            self._open[number] = _Ask(number, sender, client_id, engine_id, arrays)
        try:
            self._line.submit(_place(number, arrays, self._limits))
        except Exception:
            with self._lock:
                del self._open[number]
            raise

    def _stop(self, client_id: str) -> None:
        with self._lock:
            for ask in self._open.values():
                ask.given_up |= bool(client_id) and ask.client_id == client_id

    def _answer(self, number: int) -> None:
        with self._lock:
            ask = self._open.get(number)
        if ask is None:  # ended between its turn and here
            return
        tensors: list[pb_utils.Tensor] = []  # held: sending frees those that were not asked for, without Python's lock
        answered = False
        try:
            tensors = self._generate(ask)
            response = pb_utils.InferenceResponse(tensors)
            answered = True
        except _Refused as refused:
            response = codec.passed_on(str(refused))
        except Exception as error:
            response = codec.error_response(as_conch_error(error))
        ask.send(response)
        with self._lock:
            self._open.pop(number, None)
        if answered:
            self._line.tokens(Tokens(number, [], "stop"))
        else:
            self._line.cancel(number)

    def _generate(self, ask: _Ask) -> list[pb_utils.Tensor]:
        if ask.given_up:
            raise _before_its_turn()
        self._take_waiting_off(ask)
        inputs = [pb_utils.Tensor(name, array) for name, array in ask.arrays.items()]
        # Without receipts: no client's stream is behind this answer, and a stop is sent if it shall end early.
        prompts = [t for t in _tensors(self._request(TOKENIZER, inputs).exec()) if t.name() != SEND_RECEIPTS.name]
        ask.at_engine = True
        tokens = _only(bls.stream(self._request(ENGINE, prompts, ask.engine_id)))
        decodable = {t.name for t in DETOKENIZER.inputs}
        texts = _tensors(self._request(DETOKENIZER, [t for t in tokens if t.name() in decodable]).exec())
        # The text first: some clients take the first output without a look at its name.
        return [*texts, *(t for t in tokens if t.name() in _REPORTED)]

    def _take_waiting_off(self, ask: _Ask) -> None:
        """Shorten timeout_ms by the time that the request has waited here: the engine counts from its own door."""
        limits = ask.arrays.get(TIMEOUT_MS.name)
        waited_ms = int((time.monotonic() - ask.began) * 1000)
        if limits is None or waited_ms == 0 or not limits.size or limits.min() < 1:  # the tokenizer refuses that one
            return
        if limits.min() <= waited_ms:
            raise DeadlineExceededError(f"{TIMEOUT_MS.name} passed before the engine could begin, got {limits.min()}")
        ask.arrays[TIMEOUT_MS.name] = (limits - waited_ms).astype(np.int32)

    def _request(
        self, stage: ModelContract, tensors: Sequence[pb_utils.Tensor], request_id: str = ""
    ) -> pb_utils.InferenceRequest:
        return pb_utils.InferenceRequest(
            model_name=stage.name,
            model_version=self._version,
            requested_output_names=[t.name for t in stage.outputs],
            inputs=tensors,
            request_id=request_id,
        )

    # --- on the watch's thread ---------------------------------------------------------------------------------------

    def _watch_all(self) -> None:
        parent = os.getppid()
        turn: list[_Ask] = []
        while not self._closed.wait(_TICK_S):
            if os.getppid() != parent:  # Triton was killed: the threads would wait for ever
                os._exit(1)
            if not turn:
                with self._lock:
                    turn = list(self._open.values())
            now, turn = turn[:_POLLS_PER_TICK], turn[_POLLS_PER_TICK:]
            for ask in now:
                try:
                    self._look_after(ask)
                except Exception:
                    _log.exception("a request could not be asked whether it was cancelled")

    def _look_after(self, ask: _Ask) -> None:
        with ask.life:
            if ask.closed:
                return
            ask.given_up = ask.given_up or ask.sender.is_cancelled()
        if ask.given_up and not ask.at_engine:
            self._line.refuse(ask.number, _before_its_turn())
        elif ask.given_up:
            # Again and again until it has ended: one that comes before the request itself stops nothing.
            stop = [
                codec.tensor(INPUT_IDS, [0], (1, 1)),
                codec.tensor(INPUT_LENGTHS, 1, (1, 1)),
                codec.tensor(STOP.engine, True, (1, 1)),
            ]
            for _ in bls.stream(self._request(ENGINE, stop, ask.engine_id)):
                pass


def _before_its_turn() -> CancelledError:
    return CancelledError("the request was cancelled before its turn came")


def _place(number: int, arrays: codec.Arrays, limits: Limits) -> GenerationRequest:
    """What the line goes by, of a request that the tokenizer has not looked at yet: the least of its rows."""
    least = {t.name: int(arrays[t.name].min()) for t in (PRIORITY, TIMEOUT_MS) if arrays.get(t.name, np.empty(0)).size}
    if least.get(TIMEOUT_MS.name, 1) < 1:
        del least[TIMEOUT_MS.name]  # the tokenizer refuses it
    return GenerationRequest(number, (), resolve(least, 1, limits))


def _tensors(response: pb_utils.InferenceResponse) -> list[pb_utils.Tensor]:
    if response.has_error():
        raise _Refused(response.error().message())
    return list(response.output_tensors())


def _only(responses: Iterable[pb_utils.InferenceResponse]) -> list[pb_utils.Tensor]:
    """Tensors of the one response that has any; Triton may send an empty one for the FINAL flag."""
    found: list[pb_utils.Tensor] = []
    for response in responses:
        found = _tensors(response) or found
    return found
