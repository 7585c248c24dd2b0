"""Requests are made before it is their turn, in a bounded number, each once, and by whoever is first."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import gevent
import pytest
from conch_load.users import ahead as ahead_module
from conch_load.users.ahead import Ahead
from conch_load.workloads import Ask


class Counted:
    """Notes what it was asked for; a request takes ``takes_s``."""

    times_ns = None

    def __init__(self, turns: int = 1, takes_s: float = 0.0) -> None:
        self.turns, self.takes_s = turns, takes_s
        self.asked: list[int] = []

    def ask(self, index: int) -> Ask:
        self.asked.append(index)
        time.sleep(self.takes_s)
        return Ask(index, str(index), None, 1, 1)

    def chain(self, number: int) -> Sequence[int]:
        return range(number * self.turns, (number + 1) * self.turns)

    def longest(self, count: int) -> tuple[int, int, int]:
        return 0, 1, 1

    def describe(self) -> Mapping[str, object]:
        return {}


@pytest.mark.parametrize(("arrivals", "turns"), [(1000, 1), (0, 3)])
def test_no_more_is_made_than_may_be_kept_and_each_once(
    arrivals: int, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead_module, "_LONG_NS", 10**12)  # no threads: on a busy machine any request may take long
    workload = Counted(turns)
    ahead = Ahead(workload, arrivals, 1, 2, most=20)
    ahead.make_first()
    assert len(workload.asked) == 10
    rest = gevent.spawn(ahead.make_rest)
    taken = []
    for _ in range(30):
        chain = workload.chain(ahead.take_number()) if not arrivals else [ahead.take_number()]
        taken += [ahead.take(index).index for index in chain]
        gevent.sleep(0)
        assert len(workload.asked) <= len(taken) + 10
    rest.kill()
    numbers = range(1, 60, 2)
    assert taken == [index for number in numbers for index in ([number] if arrivals else workload.chain(number))]
    assert len(set(workload.asked)) == len(workload.asked)


def test_all_arrivals_are_made_and_then_it_ends() -> None:
    workload = Counted()
    ahead = Ahead(workload, 7, 0, 2)
    ahead.make_first()
    ahead.make_rest()
    assert workload.asked == [0, 2, 4, 6]


def test_who_takes_faster_than_requests_are_made_gets_them_all_the_same_and_the_loop_goes_on() -> None:
    workload = Counted(takes_s=0.1)
    ahead = Ahead(workload, 40, 0, 1, most=1)
    ahead.make_first()
    rest = gevent.spawn(ahead.make_rest)
    gevent.sleep(0.2)
    assert [ahead.take(ahead.take_number()).index for _ in range(3)] == [0, 1, 2]
    began = time.monotonic()
    gevent.sleep(0.001)  # while one is made in a thread
    assert time.monotonic() - began < 0.08
    gevent.sleep(0.3)
    assert ahead.take(ahead.take_number()).index == 3
    rest.kill()
    assert len(ahead._made) <= 1
