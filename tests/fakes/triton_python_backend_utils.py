"""Triton's Python backend API, as far as Conch uses it, for stages that run outside of Triton.

It behaves as Triton 2.51 does where that is known: BYTES tensors arrive as bytes, a sender takes nothing after FINAL,
a stage that is not decoupled has no sender. Where the real one crashes the server, ``violations`` says so: whoever
drives a stage with this module must look there at the end. The members are those of
typings/triton_python_backend_utils.pyi, and the second half of this module, which plays Triton.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1

violations: list[str] = []
# What /metrics would show: (name, labels) -> value; of a histogram its sum, and in ``observed`` how many values.
# With metrics_on false there is no such thing.
series: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
observed: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
metrics_on = True
# Models that a stage can ask: (name, version) -> what answers a request: one response, or a list of a decoupled model.
served: dict[tuple[str, int], Callable[[InferenceRequest], Any]] = {}
bls_can_cancel = False  # whether what such a model answers has a method cancel
_DTYPES = (np.bool_, np.int32, np.int64, np.uint32, np.uint64, np.float32, np.object_)


class TritonError:
    """An error with a code."""

    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        if not isinstance(message, str) or code not in range(8):
            raise TypeError("TritonError(message: str, code: int)")
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class TritonModelException(Exception):
    """What initialize raises to refuse a load."""


class Tensor:
    """A named array."""

    def __init__(self, name: str, array: NDArray[Any]) -> None:
        if not isinstance(array, np.ndarray) or array.dtype.type not in _DTYPES:
            raise TypeError(f"tensor {name} has no dtype that Triton knows: {getattr(array, 'dtype', type(array))}")
        if array.dtype == np.object_:
            array = _as_bytes(name, array)
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> NDArray[Any]:
        return self._array


def _as_bytes(name: str, array: NDArray[Any]) -> NDArray[Any]:
    made = np.empty(array.shape, dtype=np.object_)
    for index, item in np.ndenumerate(array):
        if not isinstance(item, (str, bytes)):
            raise TypeError(f"tensor {name} holds a {type(item).__name__}, and must hold bytes or str")
        made[index] = item.encode() if isinstance(item, str) else item
    return made


class InferenceResponse:
    """Tensors, or an error."""

    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        if not all(isinstance(tensor, Tensor) for tensor in output_tensors):
            raise TypeError("output_tensors must be a sequence of Tensor")
        self._tensors, self._error = list(output_tensors), error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError:
        assert self._error is not None
        return self._error


class ResponseSender:
    """Takes the responses of one decoupled request; any thread may send."""

    def __init__(self) -> None:
        self.responses: list[InferenceResponse] = []
        self.finals = 0
        self.done = threading.Event()
        self.cancelled = threading.Event()
        self.on_send: Callable[[ResponseSender], None] | None = None
        self._asking = 0
        self._state = threading.Lock()

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        final = flags == TRITONSERVER_RESPONSE_COMPLETE_FINAL
        with self._state:
            if flags not in (0, TRITONSERVER_RESPONSE_COMPLETE_FINAL):
                raise RuntimeError(f"unable to send response: unsupported flag {flags}")
            if response is None and not final:
                raise RuntimeError("unable to send response: flags must be FINAL where there is no response")
            if self.finals:
                violations.append("a response was sent after the FINAL one")
                raise RuntimeError("unable to send response: the response sender has been closed")
            if final and self._asking:
                violations.append("FINAL was sent while is_cancelled() was under way: the real server crashes")
            if response is None:
                violations.append("a FINAL flag without content: common gRPC clients would see an empty response")
            else:
                self.responses.append(response)
            self.finals += final
        if self.on_send is not None:
            self.on_send(self)
        if final:
            self.done.set()

    def is_cancelled(self) -> bool:
        with self._state:
            if self.finals:
                violations.append("is_cancelled() after the FINAL response: the real server crashes")
                raise RuntimeError("the response factory is gone")
            self._asking += 1
        time.sleep(0.0005)  # a round trip to another process
        with self._state:
            self._asking -= 1
        return self.cancelled.is_set()


class InferenceRequest:
    """A request, as a stage gets it."""

    def __init__(
        self,
        inputs: Sequence[Tensor],
        parameters: Mapping[str, Any] | None = None,
        request_id: str = "",
        sender: ResponseSender | None = None,
        requested_output_names: Sequence[str] = (),
        model_name: str = "",
        model_version: int = -1,
    ) -> None:
        self._model = (model_name, model_version)
        self._inputs, self._request_id, self._sender = list(inputs), request_id, sender
        self.cancelled = threading.Event()  # by who asked with it
        self._parameters = json.dumps(parameters) if parameters else ""
        self._requested = set(requested_output_names)

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def request_id(self) -> str:
        return self._request_id

    def parameters(self) -> str:
        return self._parameters

    def requested_output_names(self) -> set[str]:
        return self._requested

    def get_response_sender(self) -> ResponseSender:
        if self._sender is None:
            raise RuntimeError("'get_response_sender' function must be called only when the model is decoupled")
        return self._sender

    def exec(self, *, decoupled: bool = False) -> Any:
        """Ask another model: the one that ``served`` holds under its name and version. An error loses its code."""
        if self._model not in served:
            error = TritonError(f"model {self._model} is not ready", TritonError.UNAVAILABLE)
            return [InferenceResponse(error=error)] if decoupled else InferenceResponse(error=error)
        answer = served[self._model](self)
        if isinstance(answer, InferenceResponse) == decoupled:
            raise TritonModelException("decoupled of exec must be that of the model")
        if not decoupled:
            return _without_code(answer)
        return CancellableResponses(self, answer) if bls_can_cancel else map(_without_code, answer)

    def is_cancelled(self) -> bool:
        return self._sender is not None and self._sender.is_cancelled()


class CancellableResponses:
    """Responses to ``exec(decoupled=True)`` of Triton 2.57 and later."""

    def __init__(self, request: InferenceRequest, answer: Iterable[InferenceResponse]) -> None:
        self._request, self._answer = request, map(_without_code, answer)

    def __iter__(self) -> Iterator[InferenceResponse]:
        return self._answer

    def cancel(self) -> None:
        self._request.cancelled.set()


def _without_code(response: InferenceResponse) -> InferenceResponse:
    if response.has_error():
        response._error = TritonError(response.error().message(), TritonError.INTERNAL)
    return response


class MetricKind:
    """Kind of a metric."""


class Metric:
    """One number in Triton's registry."""

    def __init__(self, kind: MetricKind, key: tuple[str, tuple[tuple[str, str], ...]]) -> None:
        if key in series:
            violations.append(f"{key} is there already: the real server frees it when the first of them goes")
        series[key] = 0.0
        self._kind, self._key, self._user = kind, key, threading.Lock()

    def increment(self, value: float) -> None:
        if self._kind is MetricFamily.HISTOGRAM:
            raise TritonModelException("a histogram does not support increment")
        if value < 0 and self._kind is MetricFamily.COUNTER:
            raise TritonModelException("a counter can only be incremented by non-negative values")
        self._change(value)

    def set(self, value: float) -> None:
        if self._kind is not MetricFamily.GAUGE:
            raise TritonModelException("only a gauge supports set")
        self._change(value - series[self._key])

    def observe(self, value: float) -> None:
        if self._kind is not MetricFamily.HISTOGRAM:
            raise TritonModelException("only a histogram supports observe")
        self._change(value)
        observed[self._key] = observed.get(self._key, 0) + 1

    def value(self) -> float:
        return series[self._key]

    def _change(self, by: float) -> None:
        if not self._user.acquire(blocking=False):
            violations.append("two threads used a metric at the same time: the real server crashes")
            return
        try:
            series[self._key] += by
        finally:
            self._user.release()


class MetricFamily:
    """Metrics of one name. They go when it goes, not when they do."""

    COUNTER, GAUGE, HISTOGRAM = MetricKind(), MetricKind(), MetricKind()
    _kinds: ClassVar[dict[str, MetricKind]] = {}

    def __init__(self, *, name: str, description: str, kind: MetricKind) -> None:
        if not metrics_on:
            raise TritonModelException("metrics are not supported")
        if self._kinds.setdefault(name, kind) is not kind:
            raise TritonModelException("Family name already exists with different type")
        self._name, self._kind = name, kind
        self._keys: list[tuple[str, tuple[tuple[str, str], ...]]] = []

    def Metric(self, *, labels: dict[str, str], buckets: Sequence[float] | None = None) -> Metric:
        if (buckets is not None) != (self._kind is MetricFamily.HISTOGRAM):
            raise TritonModelException("buckets are for histograms, and they need them")
        key = (self._name, tuple(sorted(labels.items())))
        self._keys.append(key)
        return Metric(self._kind, key)

    def __del__(self) -> None:
        for key in getattr(self, "_keys", ()):
            series.pop(key, None)
            observed.pop(key, None)


class Logger:
    """Triton's log; nobody reads it here."""

    @staticmethod
    def log_info(message: str) -> None: ...

    @staticmethod
    def log_warn(message: str) -> None: ...

    @staticmethod
    def log_error(message: str) -> None: ...

    @staticmethod
    def log_verbose(message: str) -> None: ...


def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None:
    """The first input of that name."""
    return next((tensor for tensor in request.inputs() if tensor.name() == name), None)
