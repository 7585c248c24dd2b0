"""Requests are made before it is their turn, in a bounded number, each once, and by whoever is first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import gevent
import pytest
from conch_load.users.ahead import Ahead
from conch_load.workloads import Ask


class Counted:
    """Notes what it was asked for."""

    times_ns = None

    def __init__(self, turns: int = 1) -> None:
        self.turns = turns
        self.asked: list[int] = []

    def ask(self, index: int) -> Ask:
        self.asked.append(index)
        return Ask(index, str(index), None, 1, 1)

    def chain(self, number: int) -> Sequence[int]:
        return range(number * self.turns, (number + 1) * self.turns)

    def longest(self, count: int) -> tuple[int, int, int]:
        return 0, 1, 1

    def describe(self) -> Mapping[str, object]:
        return {}


@pytest.mark.parametrize(("arrivals", "turns"), [(1000, 1), (0, 3)])
def test_no_more_is_made_than_may_be_kept_and_each_once(arrivals: int, turns: int) -> None:
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


def test_who_takes_faster_than_requests_are_made_gets_them_all_the_same() -> None:
    workload = Counted()
    ahead = Ahead(workload, 40, 0, 1, most=2)
    ahead.make_first()
    assert [ahead.take(ahead.take_number()).index for _ in range(5)] == [0, 1, 2, 3, 4]
    rest = gevent.spawn(ahead.make_rest)
    gevent.sleep(0.01)
    rest.kill()
    assert workload.asked == [0, 1, 2, 3, 4, 5, 6]  # and none that was taken is made again
