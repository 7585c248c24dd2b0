"""Token counts of the server, compared with those of the model's tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from conch_load.config import TRITON_FRONTS, RunConfig
from conch_load.records import RequestRecord

# Each so many-th request of a run asks Triton for the token ids as well: there the count of an answer is known exactly.
IDS_EVERY = 16
# Elsewhere the text is all there is. A text can be cut into tokens in more ways than one, and a model need not choose
# the tokenizer's: a word said again and again may take half as many. So an answer is off when it differs by more than
# ANSWER_TOKENS and ANSWER_SHARE; so many answers may be off, and all together may differ by so much.
ANSWER_TOKENS, ANSWER_SHARE, OFF_SHARE, ALL_SHARE = 3, 0.1, 0.1, 0.05
# Another cut differs from answer to answer; a server that counts wrongly differs by the same each time. One token may
# be a special one that has no text.
SAME_SHARE, SAME_AT_LEAST, SPECIAL = 0.9, 8, 1


def asks_ids(front: str, index: int) -> bool:
    """Whether a request asks for the token ids of its answer."""
    return front in TRITON_FRONTS and index % IDS_EVERY == 0


def check_counts(
    config: RunConfig, records: Sequence[RequestRecord], *, exact_prompts: bool
) -> tuple[dict[str, Any], list[str]]:
    """Figures, and the reasons why the run is invalid.

    Prompts: equal, where the tokenizer knows the template; else those of completions differ all by the same, which is
    the special tokens that the server adds (figure ``prompts_offset``). Answers that were forced to a length and ended
    by it: the server's count is that length. Answers that came with their token ids: equal. All others: the
    tokenizer's count of the text is near, for most of them and for all together, and does not differ by the same
    number in nearly all. Answers that were forced to a length and ended before it are a warning: a server may not know
    how.

    Args:
        exact_prompts: whether the tokenizer knows what the server puts around a prompt.
    """
    done = [r for r in records if r.error_code is None and r.final_ns is not None]
    plain = config.workload.kind in ("fixed", "distribution")  # those that are always completions
    prompts = [r for r in done if r.server_prompt_tokens is not None and (exact_prompts or plain)]
    offset = 0 if exact_prompts else _usual([(r.server_prompt_tokens or 0) - r.prompt_tokens for r in prompts])[0]
    answers = [r for r in done if r.server_output_tokens is not None and r.local_output_tokens is not None]
    forced = [r for r in answers if config.workload.force_output and r.finish_reason == "length"]
    with_ids = [r for r in answers if asks_ids(r.front, r.index)]
    texts = [r for r in answers if not asks_ids(r.front, r.index)]
    wrong_prompts = [r for r in prompts if (r.server_prompt_tokens or 0) - r.prompt_tokens != offset]
    wrong_forced = [r for r in forced if r.server_output_tokens != r.requested_tokens]
    wrong_ids = [r for r in with_ids if r.server_output_tokens != r.local_output_tokens]
    off = [r for r in texts if not _near(r.server_output_tokens or 0, r.local_output_tokens or 0)]
    server, local = (sum(getattr(r, name) or 0 for r in texts) for name in
                     ("server_output_tokens", "local_output_tokens"))  # fmt: skip
    usual, usual_times = _usual([(r.server_output_tokens or 0) - (r.local_output_tokens or 0) for r in texts])
    asked = [r for r in done if config.workload.force_output and r.server_output_tokens is not None]
    short = [r for r in asked if (r.server_output_tokens or 0) < r.requested_tokens]
    figures: dict[str, Any] = {
        "prompts_compared": len(prompts), "prompts_wrong": len(wrong_prompts), "prompts_offset": offset,
        "forced_short": len(short),
        "forced_compared": len(forced), "forced_wrong": len(wrong_forced),
        "ids_compared": len(with_ids), "ids_wrong": len(wrong_ids), "texts_compared": len(texts),
        "texts_off": len(off), "texts_server_tokens": server, "texts_local_tokens": local,
        "texts_difference_share": round(abs(server - local) / max(server, local, 1), 5),
        "checked": config.check_tokens,
    }  # fmt: skip
    reasons = [
        _told(wrong, len(of), what, expected, got)
        for wrong, of, what, expected, got in (
            (wrong_prompts, prompts, "prompts", "prompt_tokens", "server_prompt_tokens"),
            (wrong_forced, forced, "answers of a forced length", "requested_tokens", "server_output_tokens"),
            (wrong_ids, with_ids, "answers with token ids", "local_output_tokens", "server_output_tokens"),
            (off if len(off) > OFF_SHARE * len(texts) else [], texts, "texts", "local_output_tokens",
             "server_output_tokens"),
        ) if wrong
    ]  # fmt: skip
    # A token an answer may be one that has no text: a special one.
    if abs(server - local) > max(ALL_SHARE * max(server, local), len(texts)):
        reasons.append(f"the server counted {server} output tokens in all, the tokenizer {local}")
    elif abs(usual) > SPECIAL and len(texts) >= SAME_AT_LEAST and usual_times >= SAME_SHARE * len(texts):
        reasons.append(f"the server counted {usual:+} tokens in {usual_times} of {len(texts)} answers beside the "
                       "tokenizer: the same each time")  # fmt: skip
    if short:
        figures["warnings"] = [
            f"{len(short)} of {len(asked)} answers are shorter than the length they were forced to (request "
            f"{short[0].index}: {short[0].server_output_tokens} of {short[0].requested_tokens} tokens): does the "
            "server know ignore_eos and min_tokens?"
        ]
    return figures, reasons if config.check_tokens else []


def _usual(differences: Sequence[int]) -> tuple[int, int]:
    """The difference that is there most often, and how often."""
    return Counter(differences).most_common(1)[0] if differences else (0, 0)


def _near(server: int, local: int) -> bool:
    return abs(server - local) <= max(ANSWER_TOKENS, ANSWER_SHARE * max(server, local))


def _told(wrong: Sequence[RequestRecord], of: int, what: str, expected: str, got: str) -> str:
    first = wrong[0]
    return (
        f"the server's token counts of {len(wrong)} of {of} {what} are not the tokenizer's: request {first.index} has "
        f"{getattr(first, expected)}, the server says {getattr(first, got)}"
    )
