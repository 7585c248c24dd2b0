"""From columns to the parts of a summary."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from conch_load.analysis.columns import UNFINISHED, Booleans, Columns
from conch_load.analysis.definitions import METRICS, PERCENTILES, STALL_FACTOR
from conch_load.analysis.early_stopping import early_stopping
from conch_load.analysis.intervals import (
    RATE_SLICES,
    Estimate,
    Floats,
    Integers,
    batch_error,
    mean,
    nearest_rank,
    needed,
    percentile,
    rate,
    wilson,
)
from conch_load.analysis.slo import Objective, figure, good, late, limits_of_each
from conch_load.analysis.summary import (
    Counts,
    Distribution,
    ErrorCount,
    GeneratorPart,
    Little,
    ObjectiveFigure,
    PercentileFigure,
    Quantity,
    SloPart,
    Stalls,
    Window,
)
from conch_load.records import GeneratorSample

CUT = "cut"
_LITTLE_TOLERANCE = 0.10


def quantity(estimate: Estimate) -> Quantity:
    """As it stands in a summary."""
    return Quantity(**asdict(estimate))


def distribution(values: Floats, owners: Integers | None = None,
                 extra: Sequence[float] = ()) -> Distribution | None:  # fmt: skip
    """The figures of one metric; None when there is no value.

    Args:
        values: in the order of the requests' starts; shape (n,).
        owners: see intervals.percentile.
        extra: percentiles besides the usual ones.
    """
    if not len(values):
        return None
    ordered = np.sort(values)
    found = {}
    for which in sorted({*PERCENTILES, *extra}):
        one = percentile(values, which, owners, ordered)
        found[f"p{which:g}"] = PercentileFigure(
            value=one.value, low=one.low, high=one.high, independent_low=one.independent[0],
            independent_high=one.independent[1], design_effect=one.design_effect, needs=one.needs,
        )  # fmt: skip
    return Distribution(
        count=len(values), mean=quantity(mean(values, owners)), deviation=float(values.std()),
        lowest=float(ordered[0]), highest=float(ordered[-1]), percentiles=found,
    )  # fmt: skip


def metrics(columns: Columns, measured: Booleans, extra: Sequence[float]) -> dict[str, Distribution]:
    """All metrics of the measured requests that succeeded."""
    chosen = measured & columns.ok
    found: dict[str, Distribution | None] = {}
    for name in METRICS:
        if name == "gap_ms":
            gaps, owners = columns.gaps_of(chosen)
            found[name] = distribution(gaps, _dense(owners), extra)
            continue
        values: Floats = getattr(columns, name)[chosen]
        found[name] = distribution(values[~np.isnan(values)], None, extra)
    return {name: one for name, one in found.items() if one is not None}


def _dense(owners: Integers) -> Integers:
    """Owners numbered anew, without those that have no value."""
    return np.unique(owners, return_inverse=True)[1].astype(np.int64)


def stalls(columns: Columns, measured: Booleans) -> Stalls | None:
    """How often an answer stood still."""
    gaps, owners = columns.gaps_of(measured & columns.ok)
    if not len(gaps):
        return None
    threshold_ms = STALL_FACTOR * float(np.median(gaps))
    over = gaps > threshold_ms
    return Stalls(
        threshold_ms=threshold_ms, gaps=len(gaps), stalls=int(over.sum()), share=float(over.mean()),
        requests_with_one=len(np.unique(owners[over])) / len(np.unique(owners)),
    )  # fmt: skip


def rates(columns: Columns, measured: Booleans, window: Window, met: Booleans | None) -> dict[str, Quantity]:
    """What went through, a second; goodput only where there are limits."""
    span = (window.start_s, window.end_s)

    def per_s(at_s: Floats, weights: Floats | None = None) -> Quantity:
        slices, _ = np.histogram(at_s, bins=RATE_SLICES, range=span, weights=weights)
        return quantity(rate(slices.astype(np.float64), window.length_s / RATE_SLICES))

    ok, sent = columns.ok, columns.ok[columns.chunk_owner]
    found = {
        "offered_per_s": Quantity(value=float(measured.sum()) / window.length_s),
        "completed_per_s": per_s(columns.final_s[ok]),
        "output_tokens_per_s": per_s(columns.chunk_s[sent], columns.chunk_amount[sent]),
        "input_tokens_per_s": per_s(columns.first_s[ok], columns.prompt_tokens[ok]),
    }
    if met is not None:
        kept = measured & met
        found["goodput_per_s"] = per_s(columns.start_s[kept])
        found["goodput_tokens_per_s"] = per_s(columns.start_s[kept], columns.output_tokens[kept])
    return found


def counts(columns: Columns, measured: Booleans, before: Booleans) -> Counts:
    """What became of the requests."""
    total = int(measured.sum())
    codes = Counter(str(code) for code in columns.code[measured] if code)
    chosen = measured & columns.ok

    def number(flags: Booleans) -> int:
        return int((flags & chosen).sum())

    return Counts(
        records=len(columns), before_window=int(before.sum()), measured=total, succeeded=int(chosen.sum()),
        failed=sum(codes.values()), cut_streams=codes[CUT], unfinished=codes[UNFINISHED],
        errors={
            code: ErrorCount(count=count, share=count / total, first_message=columns.first_errors.get(code, ""))
            for code, count in codes.most_common()
        },
        finish_reasons=dict(Counter(str(one) for one in columns.finish_reason[chosen] if one).most_common()),
        tokens_counted_by=dict(Counter(str(one) for one in columns.counted_by[chosen]).most_common()),
        output_tokens_compared=number(columns.output_compared), output_tokens_differ=number(columns.output_differs),
        prompt_tokens_compared=number(columns.prompt_compared), prompt_tokens_differ=number(columns.prompt_differs),
    )  # fmt: skip


def slo(columns: Columns, measured: Booleans, all_objectives: tuple[Objective, ...]) -> SloPart:
    """The verdict on each limit, and how many requests met all of them."""
    if not all_objectives:
        return SloPart(objectives=[], limits_of_each_ms={}, good=0, good_share=None)
    total = int(measured.sum())
    met = good(columns, all_objectives)[measured]
    effect = _design_effect(met)
    share = wilson(met.sum() / effect, total / effect) if total else None
    return SloPart(
        objectives=[_objective(columns, measured, one) for one in all_objectives],
        limits_of_each_ms=limits_of_each(all_objectives), good=int(met.sum()),
        good_share=None if share is None else quantity(share),
    )  # fmt: skip


def _objective(columns: Columns, measured: Booleans, objective: Objective) -> ObjectiveFigure:
    over = late(columns, objective)[measured]
    total, number = len(over), int(over.sum())
    found = ObjectiveFigure(
        name=objective.name, metric=objective.metric, percentile=objective.percentile, limit_ms=objective.limit_ms,
        from_due=bool(columns.scheduled[measured].any()), requests=total, late=number, observed_ms=None, outcome=None,
        outcome_if_dependent=None, needs=None,
    )  # fmt: skip
    if objective.percentile is None or not total:
        return found
    values = figure(columns, objective.metric)[measured]
    ordered = np.sort(np.where(np.isnan(values), math.inf, values))
    observed = nearest_rank(ordered, objective.percentile / 100)
    shown = total >= needed(objective.percentile) and math.isfinite(observed)
    verdict = early_stopping(total, number, objective.percentile)
    effect = _design_effect(over)
    careful = early_stopping(math.floor(total / effect), math.ceil(number / effect), objective.percentile)
    return found.model_copy(update={
        "observed_ms": observed if shown else None, "outcome": verdict.outcome, "needs": verdict.needs,
        "outcome_if_dependent": careful.outcome,
    })  # fmt: skip


def _design_effect(flags: Booleans) -> float:
    """How many requests weigh as one, for a share; 1 at least."""
    share = float(flags.mean()) if len(flags) else 0.0
    error = batch_error(flags.astype(np.float64)) if 0 < share < 1 else None
    return 1.0 if error is None else max(1.0, error**2 * len(flags) / (share * (1 - share)))


def little(columns: Columns, measured: Booleans, window: Window, samples: Sequence[GeneratorSample]) -> Little:
    """Compare the three numbers in flight."""
    ends = np.where(np.isnan(columns.final_s), window.end_s, columns.final_s)
    inside = np.clip(np.minimum(ends, window.end_s) - np.maximum(columns.sent_s, window.start_s), 0, None)
    recorded = float(inside.sum()) / window.length_s
    ended = measured & ~np.isnan(columns.final_s)
    spent_s = float((columns.final_s - columns.sent_s)[ended].mean()) if ended.any() else None
    chosen = within(samples, window)
    by_worker: dict[int, list[int]] = {}
    for sample in chosen:
        by_worker.setdefault(sample.worker, []).append(sample.in_flight)
    sampled = sum(float(np.mean(one)) for one in by_worker.values()) if len(chosen) >= 10 else None
    spread = max((float(np.std(one)) / math.sqrt(len(one)) for one in by_worker.values()), default=0.0)
    tolerance = _LITTLE_TOLERANCE * max(recorded, 1.0) + 3 * spread * max(1, len(by_worker))
    return Little(
        sampled_in_flight=sampled, recorded_in_flight=recorded,
        rate_times_time=None if spent_s is None else float(measured.sum()) / window.length_s * spent_s,
        consistent=None if sampled is None else abs(sampled - recorded) <= tolerance,
    )  # fmt: skip


def within(samples: Sequence[GeneratorSample], window: Window) -> list[GeneratorSample]:
    """Those of the window."""
    return [one for one in samples if window.start_s <= one.at_ns / 1e9 <= window.end_s]


def generator(samples: Sequence[GeneratorSample]) -> GeneratorPart | None:
    """How the generator was doing; None without samples."""
    if not samples:
        return None
    lags = np.sort([one.loop_lag_ms for one in samples])
    cpu = np.array([one.cpu_share for one in samples])
    return GeneratorPart(
        samples=len(samples), loop_lag_p50_ms=nearest_rank(lags, 0.5), loop_lag_p99_ms=nearest_rank(lags, 0.99),
        loop_lag_highest_ms=float(lags[-1]), cpu_share_mean=float(cpu.mean()), cpu_share_highest=float(cpu.max()),
        late_starts=sum(one.late_starts for one in samples),
    )  # fmt: skip
