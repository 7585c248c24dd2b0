"""What ``make bench`` makes of its measurements, and how it ends when there is nothing to measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench
from benchmarks.agreement import Agreement, agreement


def result(streamed: float, added_ms: float, prefix_ratio: float) -> dict[str, Any]:
    return {
        "concurrency": {level: {"streamed_over_bare": {"median": streamed}} for level in ("1", "16", "64")},
        "idle_ttft_ms": {"added": {"median": added_ms}},
        "prefix_ttft_ms": {"first_over_again": {"median": prefix_ratio}},
    }


@pytest.mark.parametrize(
    ("figures", "met"),
    [
        ((0.92, 5.0, 10.0), [True, True, True, True, True]),
        ((0.87, 5.1, 9.9), [False, True, False, False, False]),
    ],
)
def test_each_figure_is_held_to_its_bar(figures: tuple[float, float, float], met: list[bool]) -> None:
    assert [is_met for _, is_met in bench.bars(result(*figures))] == met


def test_the_interval_of_a_median_is_of_order_statistics() -> None:
    # Of ten values the second and the ninth: 1 - 2 * 11/1024 = 97.9 %, and the third would leave 89 %.
    values = [float(v) for v in (9, 2, 4, 1, 10, 7, 3, 8, 6, 5)]
    assert bench.median_interval(values) == {"median": 5.5, "lower": 2.0, "upper": 9.0}
    assert bench.median_interval([3.0, 1.0, 2.0]) == {"median": 2.0, "lower": 1.0, "upper": 3.0}


def test_a_repository_that_is_none_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--repository", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("flags", [["--rounds", "0"], ["--rounds", "x"], ["--concurrency", "2"], ["--round-s", "1"]])
def test_flags_that_make_no_sense_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        bench.main(flags)
    assert flags[0] in capsys.readouterr().err


def test_answers_are_compared_alone_and_together() -> None:
    bare = {1: ["a", "b", "c"], 3: ["a", "b", "x"]}
    ensemble = {1: ["a", "y", "c"], 3: ["a", "z", "x"]}
    assert agreement(bare.__getitem__, ensemble.__getitem__, 3) == Agreement(3, bare=2, ensemble=1, alone=2)
