"""What sends requests: one in each Locust worker (or in the only process)."""

from __future__ import annotations

import dataclasses
import gc
import json
import time
from typing import Any

import gevent
from gevent.event import Event
from gevent.pool import Group
from locust.env import Environment
from locust.exception import StopUser

from conch_load.config import RunConfig
from conch_load.honesty.alone import Sample, ask_alone
from conch_load.honesty.counts import asks_ids
from conch_load.honesty.probe import LATE_START_NS, Probe
from conch_load.machine import give_precedence_back, take_precedence
from conch_load.records import GeneratorSample, RequestRecord
from conch_load.users import messages
from conch_load.users.ahead import Ahead
from conch_load.users.base import Front, FrontError, make_front, send_within
from conch_load.users.exchange import Exchange
from conch_load.users.live import LiveBatch
from conch_load.users.places import Places
from conch_load.users.prepare import Prepared, prepare
from conch_load.workloads import WorkloadError

_FLUSH_S = 1.0


class Agent:
    """A worker's share of a run.

    Requests of a closed loop are taken by Locust's users, in chains (a conversation, or one request); requests of an
    open loop each get a greenlet of their own when they are due, however many are under way (with max_connections it
    waits for its turn). Of W workers, worker w
    has the chains, or the arrivals, w, w + W, w + 2W, ...

    Args:
        environment: Locust's, with its runner.
    """

    def __init__(self, environment: Environment) -> None:
        assert environment.runner is not None
        self._runner = environment.runner
        self._go, self._over = Event(), Event()
        self._front: Front | None = None
        self._open = Group()
        self._greenlets = Group()
        self._reset()
        self._runner.register_message(messages.PLAN, self._on_plan)
        self._runner.register_message(messages.GO, self._on_go)
        self._runner.register_message(messages.ALONE, self._on_alone)
        hooks: Any = environment.events  # without types
        hooks.test_stop.add_listener(self._on_test_stop)
        self._hooks = hooks

    def _reset(self) -> None:
        self._go.clear()
        self._over.clear()
        self._config: RunConfig | None = None
        self._front = None
        self._active: dict[int, tuple[Exchange, int | None, gevent.Greenlet]] = {}
        self._lines: list[str] = []
        self._samples: list[GeneratorSample] = []
        self._live = LiveBatch()
        self._sample = Sample()
        self._users = 0

    # --- what the controller says -------------------------------------------------------------------------------

    def _on_plan(self, environment: Environment, msg: Any, **_: Any) -> None:
        self._greenlets.kill(block=False)
        if self._front is not None:
            self._front.close()
        self._reset()
        self._greenlets.spawn(self._prepare, msg.data)

    def _prepare(self, plan: dict[str, Any]) -> None:
        self._worker, self._workers = plan["worker"], plan["workers"]
        self._run_id = plan["run_id"]
        config = RunConfig.model_validate_json(plan["config"])
        error = None
        try:
            self._front = make_front(config)
            self._front.connect()
            self._prepared: Prepared = prepare(config)
            self._config = config
            self._places = self._own_places(config)
            self._ahead = Ahead(self._prepared.workload, len(self._prepared.due_ns), self._worker, self._workers)
            self._ahead.make_first()
        except (FrontError, WorkloadError) as problem:
            error = str(problem)
        gc.collect()
        gc.freeze()  # what is there stays: no need to look at it again while the clock runs
        self._runner.send_message(messages.READY, {"worker": self._worker, "error": error})

    def _own_places(self, config: RunConfig) -> Places | None:
        """This worker's share of the connections; None: as many as it likes."""
        most = config.arrivals.max_connections
        return None if most is None else Places((most + self._workers - 1 - self._worker) // self._workers)

    def _on_go(self, environment: Environment, msg: Any, **_: Any) -> None:
        self._start_ns = messages.local_start_ns(msg.data)
        self._scheduling = take_precedence()
        self._probe = Probe(self._worker, lambda: len(self._active), self._samples.append)
        self._greenlets.spawn(self._probe.run, self._start_ns)
        self._greenlets.spawn(self._flush_for_ever)
        self._greenlets.spawn(self._ahead.make_rest)
        self._greenlets.spawn(self._run)

    def _on_alone(self, environment: Environment, msg: Any, **_: Any) -> None:
        self._greenlets.spawn(self._ask_alone)

    def _on_test_stop(self, **_: Any) -> None:
        """Locust stopped the test: by its page, by a signal, or because all is done."""
        give_precedence_back()
        self._go.clear()
        self._over.set()
        self._abandon()
        self._flush()

    # --- the run ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        assert self._config is not None
        self._sleep_until(0)
        self._go.set()
        if self._prepared.due_ns:
            self._dispatch()
        self._sleep_until(self._config.end_ns)
        self._over.set()
        give_up = self._config.end_ns + round(self._config.grace_s * 1e9)
        while (self._active or self._open) and self._now() < give_up:
            gevent.sleep(0.02)
        self._abandon()
        self._flush()
        give_precedence_back()
        self._runner.send_message(messages.DONE, {"worker": self._worker, "scheduling": self._scheduling})

    def _dispatch(self) -> None:
        due_ns = self._prepared.due_ns
        send = self._send if self._places is None else self._send_in_turn
        while (index := self._ahead.take_number()) < len(due_ns):
            self._sleep_until(due_ns[index])
            self._open.spawn(send, index, due_ns[index])

    def _send_in_turn(self, index: int, due_ns: int) -> None:
        """Wait for a connection; those that wait get one in the order in which they were due."""
        assert self._places is not None
        with self._places:
            self._send(index, due_ns)

    def user_begins(self) -> None:
        """Wait for the user's start. Locust starts its users in batches a second apart, so this spreads them."""
        self._go.wait()
        config = self._config
        assert config is not None
        number, self._users = self._users, self._users + 1
        if config.arrivals.users is not None:
            place = (number * self._workers + self._worker) / config.arrivals.users
            self._sleep_until(round(config.ramp_up_s * min(1.0, place) * 1e9))

    def user_turn(self) -> None:
        """What a Locust user does: one chain of requests.

        Raises:
            StopUser: the run is over, or its arrivals are open: those are no user's.
        """
        if self._prepared.due_ns:
            self._over.wait()
        if self._over.is_set():
            raise StopUser
        for index in self._prepared.workload.chain(self._ahead.take_number()):
            self._send(index, None)
            if self._over.is_set():
                raise StopUser

    def _send(self, index: int, due_ns: int | None) -> None:
        assert self._front is not None
        assert self._config is not None
        exchange = Exchange(self._ahead.take(index), f"{self._run_id}-{index}", asks_ids(self._config.front, index))
        self._active[id(exchange)] = (exchange, due_ns, gevent.getcurrent())
        try:
            send_within(self._front, exchange, self._config.timeout_s)
        except gevent.GreenletExit:
            exchange.final_ns = None
            raise
        finally:
            if self._active.pop(id(exchange), None):
                self._keep(exchange, due_ns)

    def _abandon(self) -> None:
        """What is under way now is recorded as not ended, and given up."""
        active, self._active = self._active, {}
        for exchange, due_ns, greenlet in active.values():
            if exchange.sent_ns:
                exchange.final_ns = None
                self._keep(exchange, due_ns)
            if greenlet is not gevent.getcurrent():
                greenlet.kill(block=False)
        self._open.kill(block=False)  # and those that wait for a connection: they were never sent

    # --- what is kept -------------------------------------------------------------------------------------------

    def _keep(self, exchange: Exchange, due_ns: int | None) -> None:
        assert self._config is not None
        sent = exchange.sent_ns - self._start_ns
        warm_up = (sent if due_ns is None else due_ns) < self._config.warm_up_ns
        record = exchange.record(
            start_ns=self._start_ns, due_ns=due_ns, front=self._config.front, worker=self._worker, warm_up=warm_up
        )
        if due_ns is not None and sent - due_ns > LATE_START_NS:
            self._probe.late_starts += 1
        self._lines.append(json.dumps(dataclasses.asdict(record), ensure_ascii=False, separators=(",", ":")))
        self._live.add(record)
        if not warm_up and record.error_code is None and record.final_ns is not None:
            self._sample.add(record)
        self._tell_locust(record)

    def _tell_locust(self, record: RequestRecord) -> None:
        """One event for each generation: every event counts in Locust's totals."""
        assert self._config is not None
        ended = record.final_ns if record.final_ns is not None else self._now()
        problem = None if record.error_code is None else f"{record.error_code}: {record.error}"
        if record.final_ns is None:
            problem = "unfinished: the run ended first"
        self._hooks.request.fire(
            request_type=record.front, name=f"{self._config.model}, {self._config.workload.kind}",
            response_time=(ended - record.sent_ns) / 1e6, response_length=len((record.text or "").encode()),
            exception=None if problem is None else RuntimeError(problem), context={},
        )  # fmt: skip

    def _flush_for_ever(self) -> None:
        while True:
            gevent.sleep(_FLUSH_S)
            self._flush()

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        samples = [dataclasses.asdict(sample) for sample in self._samples]
        self._samples.clear()
        live, self._live = self._live, LiveBatch()
        if lines or samples:
            self._runner.send_message(messages.RECORDS, {
                "worker": self._worker, "lines": lines, "samples": samples, "live": dataclasses.asdict(live),
            })  # fmt: skip

    def _ask_alone(self) -> None:
        assert self._config is not None
        assert self._front is not None
        found = ask_alone(self._config, self._prepared, self._front, self._sample, self._run_id)
        self._runner.send_message(messages.ALONE_DONE, {"worker": self._worker, "found": found})

    # --- time ---------------------------------------------------------------------------------------------------

    def _now(self) -> int:
        return time.monotonic_ns() - self._start_ns

    def _sleep_until(self, at_ns: int) -> None:
        while (left := at_ns - self._now()) > 0:
            gevent.sleep(left / 1e9)
