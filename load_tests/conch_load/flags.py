"""The flags of a run: the same for the command line and for Locust's own (where its web page shows them as fields)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from conch_load.config import ARRIVALS, WORKLOADS, ConfigError, RunConfig, checked
from conch_load.records import FRONTS

# Flag -> where its value goes in RunConfig, and what it means.
_PLAIN = {
    "--name": ("name", "name of the run"),
    "--target": ("target", "host:port or URL of the server"),
    "--model": ("model", "model, as the server names it"),
    "--duration-s": ("duration_s", "seconds of the measured part"),
    "--warm-up-s": ("warm_up_s", "seconds before it that count for nothing"),
    "--grace-s": ("grace_s", "seconds that answers may still take after it"),
    "--timeout-s": ("timeout_s", "seconds that one request may take"),
    "--seed": ("seed", "same seed, same lengths, times and words"),
    "--salt": ("salt", "of each prompt's first words: no prefix cache has them (random; none: no salt)"),
    "--tokenizer": ("tokenizer", "tokenizer.json or its folder, for servers that are not Conch"),
    "--repository": ("repository", "Conch's model repository (its tokenizer, its context)"),
    "--context-tokens": ("context_tokens", "most tokens of prompt and answer together"),
    "--check-answers": ("check_answers", "greedy answers that are asked for again, alone, and compared"),
    "--metrics-url": ("metrics_url", "the server's metrics page; none: leave it (port 8002 beside the target)"),
    "--statistics-url": ("statistics_url", "Triton's HTTP port; none: leave it (port 8000 beside the target)"),
    "--max-loop-lag-ms": ("max_loop_lag_ms", "a generator later than this in more than 5 %% of the seconds is invalid"),
    "--max-cpu-share": ("max_cpu_share", "a worker busier than this, of one core, is invalid"),
    "--max-late-share": ("max_late_share", "open loop: more requests than this sent > 10 ms late is invalid"),
}
_WORKLOAD = {
    "--input-tokens": ("input_tokens", "64, uniform:32:128, normal:MEAN:SD or lognormal:MEAN:SD"),
    "--output-tokens": ("output_tokens", "the same, for the answers"),
    "--system-tokens": ("system_tokens", "chat: tokens of the system prompt"),
    "--shared-prompts": ("shared_prompts", "chat: how many different system prompts"),
    "--turns": ("turns", "chat: turns of a conversation"),
    "--path": ("path", "prompts: text or JSONL file; mooncake, burstgpt: the trace"),
}
_ARRIVALS = {
    "--rate": ("rate_per_s", "open loop: requests per second, all workers together"),
    "--burstiness": ("burstiness", "gamma: squared coefficient of variation of the gaps; 1 is Poisson"),
    "--speed": ("speed", "trace: times faster than recorded"),
    "--max-connections": ("max_connections", "open loop: most requests under way; others wait, late from when due"),
}


def add_flags(parser: Any) -> None:
    """Add the flags of a run to argparse's parser, or Locust's. Defaults are those of RunConfig: None here."""
    group = parser.add_argument_group("load test")
    group.add_argument("--front", choices=list(FRONTS), default=None, help="how the server is asked")
    group.add_argument("--workload", choices=list(WORKLOADS), default=None, help="what is asked")
    group.add_argument("--arrivals", choices=list(ARRIVALS), default=None,
                       help="when it is asked; closed: by users, each waiting for its answer")  # fmt: skip
    for table in (_PLAIN, _WORKLOAD, _ARRIVALS):
        for flag, (_, text) in table.items():
            group.add_argument(flag, default=None, help=text)
    group.add_argument("--steps", default=None, help="steps: RATE:SECONDS,RATE:SECONDS,...")
    group.add_argument("--slo", default=None, help="goals in ms: ttft_p99_ms=500,tpot_p99_ms=100")
    group.add_argument("--ramp-up-s", default=None,
                       help="closed loop: users start evenly within this time (half of the warm-up)")  # fmt: skip
    group.add_argument("--free-output", action="store_true", default=False,
                       help="let answers end by themselves instead of forcing their length")  # fmt: skip
    group.add_argument("--no-check-tokens", action="store_true", default=False,
                       help="do not fail a run whose token counts differ from the tokenizer's")  # fmt: skip


def config_of(options: Mapping[str, Any], users: int | None, **more: Any) -> RunConfig:
    """The run that flags ask for.

    Args:
        options: values of the flags of :func:`add_flags` by dest; None and "" are not given.
        users: of a closed loop; ignored for an open one only if the arrivals were said to be open.
        more: further fields of RunConfig.

    Raises:
        ConfigError: what they ask for cannot be.
    """
    values: dict[str, Any] = _taken(options, _PLAIN)
    if options.get("front"):
        values["front"] = options["front"]
    values["workload"] = {**_taken(options, _WORKLOAD), "force_output": not options.get("free_output")}
    if options.get("workload"):
        values["workload"]["kind"] = options["workload"]
    values["check_tokens"] = not options.get("no_check_tokens")
    values["arrivals"] = _arrivals(options, users)
    if options.get("slo"):
        values["slo_ms"] = _slo(options["slo"])
    return checked({**values, **more})


def _taken(options: Mapping[str, Any], table: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    found = {}
    for flag, (name, _) in table.items():
        value = options.get(flag.removeprefix("--").replace("-", "_"))
        if value not in (None, ""):
            found[name] = value
    return found


def _arrivals(options: Mapping[str, Any], users: int | None) -> dict[str, Any]:
    values = _taken(options, _ARRIVALS)
    if options.get("ramp_up_s") not in (None, ""):
        values["ramp_up_s"] = options["ramp_up_s"]
    if options.get("steps"):
        values["steps"] = _steps(options["steps"])
    kind = options.get("arrivals") or ("steps" if values.get("steps") else "poisson" if "rate_per_s" in values else "")
    values["kind"] = kind or "closed"
    if values["kind"] == "closed":
        values["users"] = 16 if users is None else users
    elif users is not None:
        values["users"] = users  # refused there, by its name
    return values


def _steps(text: str) -> list[tuple[str, ...]]:
    parts = [tuple(part.split(":")) for part in text.split(",") if part.strip()]
    if not parts or any(len(part) != 2 for part in parts):
        raise ConfigError(f"steps must be RATE:SECONDS,RATE:SECONDS,..., got {text!r}")
    return parts


def _slo(text: str) -> dict[str, float]:
    goals = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            goals[name.strip()] = float(value)
        except ValueError:
            raise ConfigError(f"slo must be NAME_MS=NUMBER,..., got {part!r}") from None
    return goals


def plain_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """A parser with the flags of a run; for drivers that make runs of their own, too."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    add_flags(parser)
    return parser
