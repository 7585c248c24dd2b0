"""The result of a search as JSON and as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from conch_load.analysis.early_stopping import early_stopping
from conch_load.analysis.slo import objectives
from conch_load.search.slo_search import Plan, Result
from conch_load.search.threshold import LEVEL

RESULT_FILE = "slo.json"
SCHEMA_VERSION = 1


def pooled(result: Result, slo_ms: Mapping[str, float]) -> list[dict[str, Any]]:
    """For each limit: the late requests of all runs at the rate that was found, and MLPerf's verdict on them."""
    if result.rate_per_s is None:
        return []
    told = []
    for one in objectives(slo_ms):
        counts = [trial.late[one.name] for trial in result.at(result.rate_per_s) if one.name in trial.late]
        if not counts or one.percentile is None:
            continue
        late, requests = (sum(pair[i] for pair in counts) for i in range(2))
        verdict = early_stopping(requests, late, one.percentile)
        told.append({"name": one.name, "limit_ms": one.limit_ms, "requests": requests, "late": late,
                     "outcome": verdict.outcome, "needs": verdict.needs})  # fmt: skip
    return told


def rates_at(result: Result) -> dict[str, float]:
    """Mean of each rate (tokens/s and so on) over the runs at the rate that was found."""
    runs = [] if result.rate_per_s is None else result.at(result.rate_per_s)
    names = set.intersection(*(set(one.rates) for one in runs)) if runs else set()
    return {name: sum(one.rates[name] for one in runs) / len(runs) for name in sorted(names)}


def as_json(result: Result, slo_ms: Mapping[str, float], plan: Plan, run: Mapping[str, Any]) -> dict[str, Any]:
    """All of it.

    Args:
        result: of the search.
        slo_ms: its limits.
        plan: how it was searched.
        run: what every run had in common.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "slo_ms": dict(slo_ms),
        "outcome": result.outcome,
        "reason": result.reason,
        "rate_per_s": result.rate_per_s,
        "low_per_s": result.low_per_s,
        "high_per_s": result.high_per_s,
        "level": LEVEL,
        "rates": rates_at(result),
        "pooled": pooled(result, slo_ms),
        "trials": [dataclasses.asdict(one) for one in result.trials],
        "plan": dataclasses.asdict(plan),
        "run": dict(run),
    }


def headline(told: Mapping[str, Any]) -> str:
    """The result in a sentence."""
    limits = ", ".join(f"{name} {value:g}" for name, value in told["slo_ms"].items())
    rate, low, high = told["rate_per_s"], told["low_per_s"], told["high_per_s"]
    if told["outcome"] == "unmet":
        return f"Nothing meets {limits}: {told['reason']}"
    if rate is None:
        return f"No rate was found at which {limits} holds: {told['reason']}"
    interval = f"{low:.3g} to {high:.3g}" if high is not None else f"{low:.3g} or more"
    text = f"{limits} holds up to {rate:.4g} requests/s ({interval} with {told['level']:.0%} probability)"
    together = [one["name"] for one in told["pooled"] if one["outcome"] == "missed"]
    if together:
        text += f"; most runs at that rate hold, but taken together they miss {', '.join(together)}"
    return text if told["outcome"] == "found" else f"{text}. {told['outcome'].replace('_', ' ')}: {told['reason']}"


def as_text(told: Mapping[str, Any]) -> str:
    """For a terminal: each rate with its runs, then the result."""
    rows: dict[float, list[str]] = {}
    for one in told["trials"]:
        mark = {True: "holds", False: "misses", None: "cannot tell"}[one["holds"]]
        observed = ", ".join(f"{name} {value:.4g}" for name, value in one["observed_ms"].items())
        invalid = " (invalid)" if one["invalid"] else ""
        rows.setdefault(one["rate_per_s"] or 0.0, []).append(f"{mark}{invalid} {observed}")
    lines = [
        f"  {'alone' if rate == 0 else f'{rate:.4g}/s':>9}  {'; '.join(one.strip() for one in rows[rate])}"
        for rate in sorted(rows)
    ]
    for one in told["pooled"]:
        share = one["late"] / one["requests"] if one["requests"] else 0.0
        verdict = {"holds": "shown to hold", "missed": "shown to be missed"}.get(
            one["outcome"], f"not shown either way; {one['needs']} requests would show that it holds"
        )
        lines.append(f"  {one['name']} {one['limit_ms']:g} at {told['rate_per_s']:.4g}/s, all runs: {one['late']} of "
                     f"{one['requests']} requests late ({share:.2%}): {verdict} (99 % confidence)")  # fmt: skip
    if "output_tokens_per_s" in told["rates"]:
        lines.append(f"  tokens out at that rate: {told['rates']['output_tokens_per_s']:.4g}/s")
    return "\n".join(["runs, by rate:", *lines, "", headline(told)])
