"""Several runs together: latency against throughput, goodput against rate, and what one front costs over another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conch_load.analysis.comparison import KEYS, Change
from conch_load.analysis.comparison import load_of as same_load
from conch_load.analysis.repeated import compare_sides
from conch_load.analysis.summary import Summary, read_summary
from conch_load.records import REPORT_HTML_FILE, SUMMARY_FILE, BadRecordError
from conch_load.report import texts
from conch_load.report.comparison_text import change_texts

_FRONT_KEYS = ("ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "tpot_p99_ms", "e2e_p50_ms", "output_tokens_per_s")


@dataclass(frozen=True)
class Rung:
    """One run of several.

    Attributes:
        name: its folder, as seen from the parent's.
        load: users of a closed loop, or requests a second.
    """

    name: str
    load: float
    summary: Summary

    @property
    def load_text(self) -> str:
        """``16 users`` or ``4/s``."""
        if self.summary.open_loop:
            return f"{self.load:g}/s"
        return f"{self.load:g} user{'' if self.load == 1 else 's'}"


def rungs(parent: Path) -> list[Rung]:
    """All runs below a folder that have a summary, by load; those of a trace or of steps have no load and go last.

    Raises:
        BadRecordError: a summary is not one.
    """
    found = []
    for path in sorted(parent.rglob(SUMMARY_FILE)):
        folder = path.parent
        if folder == parent:
            continue
        summary = read_summary(folder)
        found.append(Rung(str(folder.relative_to(parent)), load_of(summary), summary))
    return sorted(found, key=lambda one: (one.summary.open_loop, one.load, one.name))


def load_of(summary: Summary) -> float:
    """Users, or requests a second: what was asked for, else what came."""
    told = summary.run.arrivals.get("rate_per_s" if summary.open_loop else "users")
    return float(told) if isinstance(told, (int, float)) else summary.rates["offered_per_s"].value


def check_rungs(found: Sequence[Rung], parent: Path) -> None:
    """Runs that can stand in one plot.

    Raises:
        BadRecordError: there are none, or of different workloads, or both of open and closed loops.
    """
    if not found:
        raise BadRecordError(f"{parent}: neither a run folder nor one of runs: there is no {SUMMARY_FILE} below")
    first = found[0].summary
    for one in found:
        if same_load(one.summary.run.workload) != same_load(first.run.workload):
            raise BadRecordError(f"{parent}: {found[0].name} and {one.name} have different workloads")
        if one.summary.open_loop != first.open_loop:
            raise BadRecordError(f"{parent}: {found[0].name} and {one.name} are of an open and of a closed loop")


def key_of(summary: Summary, metric: str) -> str:
    """From when due where there is a schedule."""
    corrected = f"{metric}_corrected_ms"
    return corrected if corrected in summary.metrics else f"{metric}_ms"


def fronts(found: Sequence[Rung]) -> list[str]:
    """Which there are."""
    return sorted({one.summary.run.front for one in found})


HEADS = ("run", "load", "tokens out /s", "requests /s", "TTFT p50, ms", "p95", "p99", "TPOT p50, ms", "p95", "p99",
         "within limits", "failed", "SLO")  # fmt: skip


def rows(found: Sequence[Rung]) -> list[list[texts.Cell]]:
    """The table: one row a run."""
    made = []
    for one in found:
        summary = one.summary
        share = summary.slo.good_share
        verdicts = [f"{row['name']} {row['outcome']}" for row in texts.objective_rows(summary)]
        cells = [texts.cell(summary.percentile(key_of(summary, metric), which))
                 for metric in ("ttft", "tpot") for which in (50, 95, 99)]  # fmt: skip
        made.append([
            texts.Cell(one.name + ("" if summary.valid else " (invalid)"), hint=f"{one.name}/{REPORT_HTML_FILE}"),
            texts.Cell(one.load_text),
            texts.cell(summary.rates["output_tokens_per_s"]), texts.cell(summary.rates["completed_per_s"]), *cells,
            texts.Cell(texts.NONE if share is None else f"{share.value:.1%}"),
            texts.Cell(f"{summary.counts.failed:,}"), texts.Cell("; ".join(verdicts) or texts.NONE),
        ])  # fmt: skip
    return made


def front_costs(found: Sequence[Rung]) -> list[tuple[str, list[tuple[str, ...]]]]:
    """At each load that more than one front was run at: (what is compared, rows of changes).

    Runs of the same front, target and model are repeats. What the others are compared with is the front
    ``triton-grpc``, or else the first run's. Invalid runs are left out.
    """
    made = []
    usable = [one for one in found if one.summary.valid]
    for load in sorted({one.load for one in usable}):
        here = [one for one in usable if one.load == load]
        sides: dict[_Side, list[Summary]] = {}
        for one in here:
            sides.setdefault(_side(one.summary), []).append(one.summary)
        base = next((side for side in sides if side[0] == "triton-grpc"), _side(here[0].summary))
        before = sides.pop(base)
        for side, after in sides.items():
            repeats = min(len(before), len(after))  # one run on each side, or several on each
            changes = compare_sides(before[:1], after[:1]) if repeats == 1 else compare_sides(before, after)
            kept = [one for key in KEYS if key in _FRONT_KEYS for one in changes if one.key == key]
            heading = f"{_beside(side, base)} beside {_beside(base, side)}, {here[0].load_text}"
            made.append((heading, [(*change_texts(one), _absolute(one)) for one in kept]))
    return made


_Side = tuple[str, str, str]  # front, target, model


def _side(summary: Summary) -> _Side:
    return summary.run.front, summary.run.target, summary.run.model


def _beside(side: _Side, other: _Side) -> str:
    """The front; where that is the same, or the model is another, what tells the two apart."""
    if side[0] != other[0] and side[2] == other[2]:
        return side[0]
    return f"{side[0]} ({side[2]} at {side[1]})"


def _absolute(change: Change) -> str:
    """What it costs in the figure's own unit."""
    if change.before is None or change.after is None:
        return texts.NONE
    moved = change.after.value - change.before.value
    return f"{'+' if moved >= 0 else '−'}{texts.number(abs(moved))} {'/s' if change.unit == '1/s' else change.unit}"


def markdown(found: Sequence[Rung], title: str) -> str:
    """The table, for a comment on a pull request."""
    first = found[0].summary
    lines = [f"## Load tests: {title}", "",
             f"{first.run.model} · {texts.workload_text(first.run.workload)} · {', '.join(fronts(found))}", "",
             "| " + " | ".join(HEADS) + " |", "|---" * len(HEADS) + "|"]  # fmt: skip
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows(found)]
    for heading, table in front_costs(found):
        lines += ["", f"**{heading}**", "", "| figure | before | after | change | 95 % interval | so | in all |",
                  "|---" * 7 + "|"]  # fmt: skip
        lines += ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([*lines, ""])
