"""What every workload is: a function from an index to a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class WorkloadError(ValueError):
    """A workload that cannot be. The text names file, line, field, rule and value."""


@dataclass(frozen=True)
class Ask:
    """One request, before any front has made its own of it.

    Attributes:
        index: its place in the workload, from 0.
        text: a prompt taken as it is; None for a chat.
        messages: a chat, {role, content} each; None for a prompt.
        prompt_tokens: by the model's tokenizer, with its chat template around a chat.
        output_tokens: how many to ask for.
        conversation, turn: of a chat.
    """

    index: int
    text: str | None
    messages: tuple[Mapping[str, str], ...] | None
    prompt_tokens: int
    output_tokens: int
    conversation: int | None = None
    turn: int | None = None


class Workload(Protocol):
    """Seeded requests. ``ask`` gives the same for the same index, in any order, on any worker."""

    @property
    def times_ns(self) -> tuple[int, ...] | None:
        """When each request of a trace is due, from its first one; None where there are no times."""

    def ask(self, index: int) -> Ask:
        """The request at ``index``; any index >= 0."""

    def chain(self, number: int) -> Sequence[int]:
        """The indexes that one user of a closed loop sends one after the other: a conversation, or a single one."""

    def longest(self, count: int) -> tuple[int, int, int]:
        """Of the first ``count`` requests the one with the most tokens: (index, prompt tokens, output tokens).

        Lengths that must be rendered to be known (chat) are rendered for the last turns of the longest few.
        """

    def describe(self) -> Mapping[str, object]:
        """What goes into run.json."""


def check_context(workload: Workload, count: int, max_prompt: int | None, max_total: int | None) -> None:
    """Refuse a workload that the model's context cannot hold.

    Raises:
        WorkloadError: names the request, its length and the limit.
    """
    index, prompt, output = workload.longest(count)
    if max_prompt is not None and prompt > max_prompt:
        raise WorkloadError(f"request {index} of the workload has a prompt of {prompt} tokens, "
                            f"the model takes at most {max_prompt}")  # fmt: skip
    if max_total is not None and prompt + output > max_total:
        raise WorkloadError(
            f"request {index} of the workload needs {prompt} + {output} = {prompt + output} tokens, "
            f"the model's context has {max_total}"
        )
