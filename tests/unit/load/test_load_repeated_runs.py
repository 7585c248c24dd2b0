"""Repeated runs on both sides: what varies from run to run is in the intervals."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
from conch_load import compare, gate
from conch_load.analysis.repeated import compare_sides
from conch_load.analysis.summarize import summarize
from conch_load.analysis.summary import Summary
from simulated_runs import RUN, open_loop, write_folder

NAMED = dataclasses.replace(RUN, duration_s=25.0)


def run_of(folder: Path, seed: int, gap_ms: float) -> Summary:
    write_folder(folder, open_loop(20, 25, seed=seed, slots=12, gap_ms=gap_ms),
                 dataclasses.replace(NAMED, name=folder.name, seed=seed))  # fmt: skip
    return summarize(folder)


def noisy(parent: Path, seed: int, count: int, gap_ms: float, spread: float = 0.05) -> list[Summary]:
    """Runs on a machine that is by some per cent faster or slower from run to run."""
    rng = random.Random(seed)
    return [run_of(parent / str(place), 1000 * seed + place, gap_ms * rng.lognormvariate(0, spread))
            for place in range(count)]  # fmt: skip


def tpot(before: list[Summary], after: list[Summary]) -> str:
    return next(one.outcome for one in compare_sides(before, after) if one.key == "tpot_p50_ms")


def test_what_varies_between_runs_is_no_difference_when_runs_are_repeated(tmp_path: Path) -> None:
    sides = [noisy(tmp_path / str(seed), seed, 3, 20) for seed in range(6)]
    single = [tpot(one[:1], other[:1]) for one, other in zip(sides[::2], sides[1::2], strict=True)]
    repeated = [tpot(one, other) for one, other in zip(sides[::2], sides[1::2], strict=True)]
    assert set(single) != {"no difference shown"}  # one run each takes the machine's mood for a change
    assert set(repeated) == {"no difference shown"}


def test_a_real_difference_shows_over_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noisy(tmp_path / "before", 1, 5, 20)
    noisy(tmp_path / "after", 2, 5, 32)
    folders = [str(tmp_path / "before"), str(tmp_path / "after")]
    assert compare.main(folders) == 0
    said = capsys.readouterr().out
    assert "worse: TPOT, p50" in said
    assert "5 runs before and 5 after" in said
    assert gate.main([folders[1], "--baseline", folders[0]]) == gate.REGRESSED
    assert gate.main([folders[0], "--baseline", folders[0]]) == gate.PASSED


def test_one_run_against_several_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noisy(tmp_path / "several", 1, 2, 20)
    run_of(tmp_path / "one", 5, 20)
    assert compare.main([str(tmp_path / "one"), str(tmp_path / "several")]) == 2
    assert "one run cannot be compared with several" in capsys.readouterr().err
    assert gate.main([str(tmp_path / "one"), "--baseline", str(tmp_path / "several")]) == 2


def test_page_of_repeated_runs(tmp_path: Path) -> None:
    noisy(tmp_path / "before", 1, 2, 20)
    noisy(tmp_path / "after", 2, 2, 20)
    page = tmp_path / "compare.html"
    assert compare.main([str(tmp_path / "before"), str(tmp_path / "after"), "--html", str(page)]) == 0
    assert page.read_text(encoding="utf-8").count("<svg") == 1
