"""What all four clients share: arguments and defaults; and the calls of those for threads in terms of a transport."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from conch_client import _contract as contract
from conch_client.address import Address, metrics_address
from conch_client.errors import (
    ConchClientError,
    DeadlineExceededError,
    PermissionDeniedError,
    UnavailableError,
)
from conch_client.metrics import Metrics, fetch_metrics
from conch_client.request import Request, build_request, build_stop, check_headers, check_model
from conch_client.retry import Deadline, Retry
from conch_client.streams import Stream
from conch_client.transport import Transport
from conch_client.types import Completion, Health, Message, ModelInfo

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from conch_client.types import Parameters

DEFAULT_TIMEOUT_S = 600.0

# How long a request to end another one may take, and how long closing a client waits for those on their way.
STOP_TIMEOUT_S, STOP_WAIT_S = 5.0, 1.0


class Settings:
    """What every client knows, and how its arguments become a request."""

    def __init__(
        self,
        address: Address,
        model: str,
        version: str | int | None,
        timeout_s: float | None,
        retry: Retry | None,
        metrics_url: str | None,
    ) -> None:
        check_model(model)
        Deadline(timeout_s)  # a bad default is an error here, not at the first request
        self.address = address
        self.model = model
        self.version = version
        self._timeout_s = timeout_s
        self._retry = retry or Retry()
        self._metrics_address = metrics_address(metrics_url, address)

    def _deadline(self, timeout_s: float | None) -> Deadline:
        return Deadline(self._timeout_s if timeout_s is None else timeout_s)

    def _build(
        self, stream: bool, prompt: str | None, messages: Sequence[Message] | None, model: str | None,
        version: str | int | None, request_id: str | None, parameters: Mapping[str, Any],
    ) -> Request:  # fmt: skip
        return build_request(
            prompt=prompt,
            messages=messages,
            model=self.model if model is None else model,
            version=self._version(model, version),
            request_id=request_id,
            stream=stream,
            parameters=parameters,
        )

    def _build_stop(self, request_id: str, model: str | None, version: str | int | None) -> Request:
        return build_stop(self.model if model is None else model, self._version(model, version), request_id)

    def _version(self, model: str | None, version: str | int | None) -> str | int | None:
        # A version belongs to a model: the default one does not go with another model.
        return self.version if version is None and model in (None, self.model) else version

    def _with_mine(self, names: Sequence[str]) -> list[str]:
        return [*names, *({self.model} - set(names))]


def as_models(name: str, versions: Sequence[str]) -> list[ModelInfo]:
    """The versions of a model that may be asked, or one line that says there are none."""
    return [ModelInfo(name, version, "READY", "") for version in versions] or [ModelInfo(name, "", "UNAVAILABLE", "")]


class SyncClient(Settings):
    """The calls of Client and HttpClient. Safe to share between threads."""

    def __init__(self, transport: Transport, address: Address, **settings: Any) -> None:
        super().__init__(address, **settings)
        self._transport = transport
        self._stops: set[threading.Thread] = set()

    def generate(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        model: str | None = None,
        version: str | int | None = None,
        request_id: str | None = None,
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        **parameters: Unpack[Parameters],
    ) -> Completion:
        """Ask and wait for the whole answer.

        Args:
            prompt: text, taken as it is. Exactly one of this and messages.
            messages: chat; the model's chat template makes the prompt of it.
            model, version: other than the client's.
            request_id: to find the request in the server's log; made if not given.
            timeout_s: for all tries together; default: the client's, math.inf for none.
            headers: for this request alone (gRPC: metadata).
            parameters: the controls of the request, see ``conch_client.Parameters``; None leaves one out.

        Raises:
            TypeError: a parameter that does not exist.
            ConchClientError: whatever else goes wrong; one class per code.
        """
        request = self._build(False, prompt, messages, model, version, request_id, parameters)
        with self._open(request, False, timeout_s, headers) as stream:
            for _ in stream:
                pass
        return stream.completion

    def stream(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Message] | None = None,
        model: str | None = None,
        version: str | int | None = None,
        request_id: str | None = None,
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        **parameters: Unpack[Parameters],
    ) -> Stream:
        """Ask and read the answer as it comes. Arguments and errors as for generate.

        Returns:
            Chunks. The request goes out with the first read; close the stream, or read it to its end.
        """
        request = self._build(True, prompt, messages, model, version, request_id, parameters)
        return self._open(request, True, timeout_s, headers)

    def _open(
        self, request: Request, stream: bool, timeout_s: float | None, headers: Mapping[str, str] | None
    ) -> Stream:
        deadline, checked, transport = self._deadline(timeout_s), check_headers(headers), self._transport
        return Stream(
            lambda: transport.open(request, deadline, checked, stream), request, deadline, self._retry,
            None if stream or not request.own_id else lambda: self._stop_later(request, headers),
        )  # fmt: skip

    def _stop_later(self, request: Request, headers: Mapping[str, str] | None) -> None:
        """End what nobody waits for any more. A server notices by itself that a stream was left, but not a whole."""

        def stop() -> None:
            with suppress(ConchClientError):
                self._stop(build_stop(request.model, request.version, request.request_id), STOP_TIMEOUT_S, headers)
            self._stops.discard(thread)

        thread = threading.Thread(target=stop, name="conch-stop", daemon=True)
        self._stops.add(thread)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is about to end
            self._stops.discard(thread)

    def _stop(self, request: Request, timeout_s: float | None, headers: Mapping[str, str] | None) -> None:
        with self._open(request, False, timeout_s, headers) as answer:
            for _ in answer:
                pass

    def cancel(
        self,
        request_id: str,
        *,
        model: str | None = None,
        version: str | int | None = None,
        timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """End the requests in flight that have an id, whoever sent them.

        They get what is there and the finish_reason ``cancelled``. For an id that nobody has, nothing happens. Give
        each request an id of its own, or none: then the client makes one.

        Raises:
            ConchClientError: what goes wrong; one class per code.
        """
        self._stop(self._build_stop(request_id, model, version), timeout_s, headers)

    def models(self, *, timeout_s: float | None = None) -> list[ModelInfo]:
        """Every version of every model in the server's repository.

        A Conch server shows its repository to administrators alone. For others the list holds the models of a Conch
        release and the client's own: the versions that may be asked, or one line that says UNAVAILABLE.
        """
        deadline = self._deadline(timeout_s)
        try:
            return self._transport.index(deadline)
        except PermissionDeniedError:
            known = [m for name in self._with_mine(contract.MODELS) for m in self._loaded(name, deadline)]
            twins = [m for name in contract.TWINS for m in self._loaded(name, deadline)]
            return [*known, *(m for m in twins if m.version and m.name != self.model)]

    def _loaded(self, name: str, deadline: Deadline) -> list[ModelInfo]:
        if not self._transport.model_ready(name, "", deadline):
            return as_models(name, ())
        return as_models(name, self._transport.versions(name, deadline))

    def health(self, *, timeout_s: float | None = 5.0) -> Health:
        """How the server does. One that cannot be reached is not live; that is no error."""
        deadline = self._deadline(timeout_s)
        try:
            live = self._transport.server_live(deadline)
            ready = self._transport.server_ready(deadline)
            names = self._with_mine(contract.ENSEMBLES)
            return Health(live, ready, {name: self._transport.model_ready(name, "", deadline) for name in names})
        except (UnavailableError, DeadlineExceededError) as error:
            return Health(False, False, detail=error.message)

    def metrics(self, *, timeout_s: float | None = None) -> Metrics:
        """What the metrics port says."""
        return fetch_metrics(self._metrics_address, self._deadline(timeout_s))

    def close(self) -> None:
        """Close the connections."""
        end_s = time.monotonic() + STOP_WAIT_S
        for thread in list(self._stops):
            thread.join(max(0.0, end_s - time.monotonic()))
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
