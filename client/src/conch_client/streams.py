"""Streamed answers: iterators that are context managers too, retry before the first chunk and always close."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Protocol

from conch_client.answers import Collector
from conch_client.errors import CancelledError, ConchClientError, DeadlineExceededError, InternalError
from conch_client.request import Request
from conch_client.retry import Deadline, Retry
from conch_client.types import Chunk, Completion


class Call(Protocol):
    """One try of a request, over some transport."""

    def __next__(self) -> Chunk:
        """Next chunk; StopIteration at the end.

        Raises:
            ConchClientError: what the server or the connection says.
        """
        ...

    def cancel(self) -> None:
        """Give it up: the server is told, and a read that waits ends. From any thread; never raises."""
        ...

    def close(self) -> None:
        """Free it, cancelled if not at its end. By the thread that reads; never raises."""
        ...


class AsyncCall(Protocol):
    """One try of a request, over some asyncio transport."""

    async def __anext__(self) -> Chunk:
        """Next chunk; StopAsyncIteration at the end. Raises as Call does."""
        ...

    def close(self) -> None:
        """Free it, cancelled if not at its end. Never raises."""
        ...


class _Collected:
    """What a stream has brought so far.

    Args:
        request: what was asked.
        deadline: for all tries together.
        retry: when to try again.
        give_up: called when an answer is left before its end; None: the server notices by itself.
    """

    def __init__(
        self, request: Request, deadline: Deadline, retry: Retry, give_up: Callable[[], None] | None = None
    ) -> None:
        self._request = request
        self._deadline = deadline
        self._retry = retry
        self._give_up = give_up
        self._collected = Collector(request.request_id)
        self._cancelled = False
        self._done = False
        self._asked = False  # the server may know of it
        self._ended = False  # the server has nothing more to say

    @property
    def request_id(self) -> str:
        """The caller's, or the one that the client made."""
        return self._request.request_id

    @property
    def is_cancelled(self) -> bool:
        """The caller gave it up with cancel()."""
        return self._cancelled

    @property
    def text(self) -> str:
        """The answer, or what has come of it yet."""
        return self._collected.text

    @property
    def completion(self) -> Completion:
        """The answer with all that is known of it, or what has come of it yet."""
        return self._collected.completion

    def _record(self, chunk: Chunk) -> Chunk:
        self._collected.add(chunk)
        return chunk

    def _check_end(self) -> None:
        if not self._collected.begun:
            raise InternalError("the server ended the answer without a single response", request_id=self.request_id)

    def _note_end(self, error: Exception) -> None:
        """Whether an answer that ended so may go on being computed: only if the time was up, or it was cancelled."""
        self._ended = not isinstance(error, (DeadlineExceededError, CancelledError))

    def _left(self, call: Call | AsyncCall | None) -> None:
        if call is not None:
            call.close()
        give_up, self._give_up = self._give_up, None
        if give_up is not None and self._asked and not self._ended:
            give_up()

    def _stopped(self) -> CancelledError:
        return CancelledError("cancelled by the caller", request_id=self.request_id)

    def _named(self, error: ConchClientError) -> ConchClientError:
        if error.request_id is None:
            error.request_id = self.request_id
        return error


class Stream(_Collected):
    """Chunks of an answer. The request goes out with the first read; use it in a ``with`` block, or read to the end.

    Reading raises ConchClientError for whatever goes wrong, also in the middle of an answer. After ``close()``
    iteration ends; after ``cancel()``, which any thread may call, it raises CancelledError.
    """

    def __init__(
        self, open_call: Callable[[], Call], request: Request, deadline: Deadline, retry: Retry,
        give_up: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(request, deadline, retry, give_up)
        self._open_call = open_call
        self._call: Call | None = None
        self._woken = threading.Event()

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Chunk:
        if self._done:
            raise StopIteration
        try:
            chunk = next(self._call) if self._call is not None else self._first()
        except StopIteration as end:
            self._note_end(end)
            self.close()
            if self._cancelled:
                raise self._stopped() from None
            self._check_end()
            raise
        except ConchClientError as error:
            self._note_end(error)
            self.close()
            raise (self._stopped() if self._cancelled else self._named(error)) from error.__cause__
        except BaseException:
            self.close()
            raise
        return self._record(chunk)

    def _first(self) -> Chunk:
        attempt = 1
        while True:
            if self._cancelled:  # before the first read, or while we waited for the next try
                raise self._stopped()
            try:
                self._asked = True
                self._call = self._open_call()
                if self._cancelled:  # while there was no call to cancel
                    raise self._stopped()
                return next(self._call)
            except ConchClientError as error:
                delay_s = self._deadline.delay_before_retry_s(error, attempt, self._retry)
                if delay_s is None or self._cancelled:
                    raise
                if self._call is not None:
                    self._call.close()
                self._woken.wait(delay_s)
                attempt += 1

    def cancel(self) -> None:
        """Give the answer up, from any thread: the server stops, and reading raises CancelledError."""
        if self._done:
            return
        self._cancelled = True
        self._woken.set()
        call = self._call
        if call is not None:
            call.cancel()

    def close(self) -> None:
        """Stop reading. What the server has not sent yet it need not generate. By the thread that reads."""
        self._done = True
        call, self._call = self._call, None
        self._left(call)

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_call", None) is not None:
            self.close()


class AsyncStream(_Collected):
    """As Stream, for asyncio. Cancelling the task that reads cancels the request."""

    def __init__(
        self, open_call: Callable[[], Awaitable[AsyncCall]], request: Request, deadline: Deadline, retry: Retry,
        give_up: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(request, deadline, retry, give_up)
        self._open_call = open_call
        self._call: AsyncCall | None = None
        self._reader: asyncio.Task[object] | None = None

    def __aiter__(self) -> AsyncStream:
        return self

    async def __anext__(self) -> Chunk:
        if self._done:
            raise StopAsyncIteration
        if self._cancelled:
            self.close()
            raise self._stopped()
        self._reader = asyncio.current_task()
        try:
            chunk = await (self._call.__anext__() if self._call is not None else self._first())
        except StopAsyncIteration as end:
            self._note_end(end)
            self.close()
            self._check_end()
            raise
        except ConchClientError as error:
            self._note_end(error)
            self.close()
            raise (self._stopped() if self._cancelled else self._named(error)) from error.__cause__
        except asyncio.CancelledError:
            self.close()
            if self._cancelled and self._ours_alone():
                raise self._stopped() from None
            raise
        except BaseException:
            self.close()
            raise
        finally:
            self._reader = None
        return self._record(chunk)

    def _ours_alone(self) -> bool:
        """Take back the cancel of the reading task; False if somebody else cancelled it too."""
        if sys.version_info < (3, 11) or self._reader is None:
            return True
        return self._reader.uncancel() == 0

    async def _first(self) -> Chunk:
        attempt = 1
        while True:
            try:
                self._asked = True
                self._call = await self._open_call()
                return await self._call.__anext__()
            except ConchClientError as error:
                delay_s = self._deadline.delay_before_retry_s(error, attempt, self._retry)
                if delay_s is None:
                    raise
                if self._call is not None:
                    self._call.close()
                await asyncio.sleep(delay_s)
                attempt += 1

    def cancel(self) -> None:
        """Give the answer up, from any task of the same loop: reading raises CancelledError."""
        if self._done or self._cancelled:
            return
        self._cancelled = True
        if self._reader is not None:
            self._reader.cancel()
        elif self._call is not None:
            self._call.close()

    def close(self) -> None:
        """Stop reading. What the server has not sent yet it need not generate."""
        self._done = True
        call, self._call = self._call, None
        self._left(call)

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_call", None) is not None:
            self.close()
