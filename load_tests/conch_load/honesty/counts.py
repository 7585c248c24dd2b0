"""Token counts of the server, compared with those of the model's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from conch_load.config import RunConfig
from conch_load.records import RequestRecord

# A text can be cut into tokens in more ways than one, and a model need not choose the tokenizer's: so many tokens, or
# such a share of them, may differ for one answer, and such a share in all.
ANSWER_TOKENS, ANSWER_SHARE, ALL_SHARE = 3, 0.1, 0.02


def check_counts(
    config: RunConfig, records: Sequence[RequestRecord], *, exact_prompts: bool
) -> tuple[dict[str, Any], list[str]]:
    """Figures, and the reasons why the run is invalid.

    Prompts: equal, where the tokenizer knows the template. Answers that were forced to a length and ended by it: the
    server's count is that length. Answers: the server's count and the tokenizer's of the text, within what two ways to
    cut a text differ.

    Args:
        exact_prompts: whether the tokenizer knows what the server puts around a prompt.
    """
    done = [r for r in records if r.error_code is None and r.final_ns is not None]
    prompts = [r for r in done if r.server_prompt_tokens is not None]
    answers = [r for r in done if r.server_output_tokens is not None and r.local_output_tokens is not None]
    wrong_prompts = [r for r in prompts if r.server_prompt_tokens != r.prompt_tokens] if exact_prompts else []
    forced = [r for r in answers if config.workload.force_output and r.finish_reason == "length"]
    wrong_forced = [r for r in forced if r.server_output_tokens != r.requested_tokens]
    wrong_answers = [r for r in answers if not _near(r.server_output_tokens or 0, r.local_output_tokens or 0)]
    server, local = (sum(getattr(r, name) or 0 for r in answers) for name in
                     ("server_output_tokens", "local_output_tokens"))  # fmt: skip
    figures = {
        "prompts_compared": len(prompts) if exact_prompts else 0, "prompts_wrong": len(wrong_prompts),
        "answers_compared": len(answers), "answers_wrong": len(wrong_answers), "forced_wrong": len(wrong_forced),
        "server_output_tokens": server, "local_output_tokens": local,
        "difference_share": round(abs(server - local) / max(server, local, 1), 5), "checked": config.check_tokens,
    }  # fmt: skip
    reasons = []
    if wrong_prompts:
        reasons.append(_told(wrong_prompts, len(prompts), "prompts", "prompt_tokens", "server_prompt_tokens"))
    if wrong_forced:
        reasons.append(_told(wrong_forced, len(forced), "answers of a forced length", "requested_tokens",
                             "server_output_tokens"))  # fmt: skip
    if wrong_answers:
        reasons.append(_told(wrong_answers, len(answers), "answers", "local_output_tokens", "server_output_tokens"))
    elif abs(server - local) > ALL_SHARE * max(server, local):
        reasons.append(f"the server counted {server} output tokens in all, the tokenizer {local}")
    return figures, reasons if config.check_tokens else []


def _near(server: int, local: int) -> bool:
    return abs(server - local) <= max(ANSWER_TOKENS, ANSWER_SHARE * max(server, local))


def _told(wrong: Sequence[RequestRecord], of: int, what: str, expected: str, got: str) -> str:
    first = wrong[0]
    return (
        f"the server's token counts of {len(wrong)} of {of} {what} are not the tokenizer's: request {first.index} has "
        f"{getattr(first, expected)}, the server says {getattr(first, got)}"
    )
