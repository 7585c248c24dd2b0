"""What cores on an event loop have in common: a task for each request, which asks the engine to the end."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from conch.engines.base import Event, Failure, Report, StreamingCore
from conch.errors import ConchError, InternalError, InvalidArgumentError

_log = logging.getLogger(__name__)


class TaskCore(StreamingCore):
    """Requests under way, one task each. Made on the event loop that everything is on.

    Args:
        report: told of everything.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._tasks: dict[int, asyncio.Task[None]] = {}

    @abstractmethod
    def death(self, error: Exception) -> bool:
        """Whether an exception of a request's means that the engine will never answer again."""

    def ask(self, request_id: int, answers: AsyncGenerator[Sequence[Event], None]) -> None:
        """Report what an engine answers.

        Args:
            request_id: whose it is.
            answers: gives the request up when it is cancelled or closed; may raise anything.
        """
        self._tasks[request_id] = asyncio.get_running_loop().create_task(self._run(request_id, answers))

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return bool(self._tasks)

    def cancel(self, request_id: int) -> None:
        task = self._tasks.pop(request_id, None)
        if task is not None:
            task.cancel()

    async def give_all_up(self) -> None:
        """Cancel every request, and wait for that."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, request_id: int, answers: AsyncGenerator[Sequence[Event], None]) -> None:
        error: ConchError | None = None
        try:
            async with aclosing(answers):
                async for events in answers:
                    self._report.events(events)
        except ConchError as ours:
            error = ours
        except Exception as theirs:
            if self.death(theirs):
                self._report.broken(f"{type(theirs).__name__}: {first_line(theirs)}")
            else:
                error = meaning(theirs)
        finally:
            if self._tasks.get(request_id) is asyncio.current_task():
                del self._tasks[request_id]
        if error is not None:
            self._report.events([Failure(request_id, error)])


def meaning(error: Exception) -> ConchError:
    """What an engine's exception is for a client: a ValueError is about what was asked for."""
    if isinstance(error, ValueError):
        return refused(error)
    _log.error("the engine failed to answer a request", exc_info=error)
    return InternalError("the engine failed while generating; the cause is in the server's log")


def refused(error: Exception) -> InvalidArgumentError:
    """The error for a request that the engine does not take."""
    return InvalidArgumentError(f"refused by the engine: {first_line(error)}")


def first_line(error: Exception) -> str:
    """What an exception says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
