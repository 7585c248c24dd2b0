"""What leads a run: in Locust's master, or beside the agent in the only process. It alone writes the run folder."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import gevent
from locust.env import Environment
from locust.runners import STATE_MISSING, STATE_RUNNING, MasterRunner

from conch_load.config import ConfigError, RunConfig
from conch_load.machine import host_facts, versions
from conch_load.records import GENERATOR_FILE, REQUESTS_FILE, RunInfo, write_run
from conch_load.users import messages
from conch_load.users.children import ServerWatch, finish
from conch_load.users.live import Live

_LEAD_S = 0.5  # from the last worker's readiness to the run's start: every worker must have heard of it
_ALONE_WAIT_S = 120
_LOOK_S = 0.5  # at which workers are still there
# Locust misses a worker whose loop is held up for four seconds, and takes it back; one that reads its files often is.
_PATIENCE_S, _PREPARING_PATIENCE_S = 2.0, 90.0
_DONE_WAIT_S = 15  # from the last moment at which a worker may still wait for answers
log = logging.getLogger("conch_load")


class Controller:
    """Starts a run when Locust starts a test, and ends the test when the run is over.

    Args:
        environment: Locust's, with its runner.
        config_of: the run that Locust's options ask for.
        folder_of: where its files go.
        headless: whether to quit when it is over; else Locust's page stays.
        driven: whether who started Locust watches the server and makes the report; else both are done here, in
            processes of their own, and a headless Locust exits with the report's code.
    """

    def __init__(
        self, environment: Environment, config_of: Callable[[], RunConfig], folder_of: Callable[[RunConfig], Path],
        *, headless: bool, driven: bool,
    ) -> None:  # fmt: skip
        self._environment, self._headless, self._driven = environment, headless, driven
        self._config_of, self._folder_of = config_of, folder_of
        assert environment.runner is not None
        self._runner = environment.runner
        self._running, self._stopped, self._second = False, True, 0
        self._alone: dict[str, Any] = {}
        self._files: dict[str, TextIO] = {}
        self._watch: ServerWatch | None = None
        self.live = Live()
        self.folder: Path | None = None
        for name, listener in (
            (messages.READY, self._on_ready), (messages.RECORDS, self._on_records), (messages.DONE, self._on_done),
            (messages.ALONE_DONE, self._on_alone_done),
        ):  # fmt: skip
            self._runner.register_message(name, listener)
        hooks: Any = environment.events  # without types
        hooks.test_start.add_listener(self._on_test_start)
        hooks.test_stop.add_listener(self._on_test_stop)

    @property
    def second(self) -> int:
        """Of the run, now; 0 before it begins."""
        return max(0, (time.monotonic_ns() - self._start["monotonic_ns"]) // 10**9) if self._running else self._second

    # --- the run's stations -------------------------------------------------------------------------------------

    def _on_test_start(self, **_: Any) -> None:
        self.live = Live()
        self._second, self._waiting, self._stopped = 0, set[int](), False
        self._leaving, self._alone, self._missing = False, {}, dict[int, float]()
        self.folder = None  # what is refused leaves the folder of the run before as it is
        try:
            self._config = config = self._config_of()
            self.folder = self._folder_of(config)
        except ConfigError as error:
            self._refuse(str(error))
            return
        self._clients = clients = self._present()
        self._waiting = set(range(len(clients)))
        self.live.title, self.live.state = _title(config), "preparing"
        self._info = self._first_info(config, len(clients))
        self.folder.mkdir(parents=True, exist_ok=True)
        write_run(self.folder, self._info)
        self._watch = None if self._driven else ServerWatch(self.folder)
        for name in (REQUESTS_FILE, GENERATOR_FILE):
            self._files[name] = (self.folder / name).open("w", encoding="utf-8")
        for worker, client in enumerate(clients):
            plan = {"config": config.model_dump_json(), "worker": worker, "workers": len(clients),
                    "run_id": f"load-{self._info.started_unix_ns:x}"}  # fmt: skip
            self._runner.send_message(messages.PLAN, plan, client)
        gevent.spawn(self._look_after_workers, self._waiting)

    def _on_ready(self, environment: Environment, msg: Any, **_: Any) -> None:
        if msg.data["error"]:
            if not self._stopped:
                self._refuse(msg.data["error"])
            return
        self._waiting.discard(msg.data["worker"])
        if self._waiting:
            return
        self._waiting.update(range(self._info.workers))
        self._start = messages.start_in(_LEAD_S)
        self._info = dataclasses.replace(self._info, started_unix_ns=self._start["unix_ns"])
        write_run(self._folder(), self._info)
        self._running, self.live.state = True, "running"
        self._runner.send_message(messages.GO, self._start)

    def _on_records(self, environment: Environment, msg: Any, **_: Any) -> None:
        data = msg.data
        if not self._files:
            return
        self._files[REQUESTS_FILE].writelines(line + "\n" for line in data["lines"])
        for sample in data["samples"]:
            self._files[GENERATOR_FILE].write(json.dumps(sample, separators=(",", ":")) + "\n")
        for file in self._files.values():
            file.flush()  # what is there is there, whatever becomes of this process
        self.live.take(self.second, data["worker"], data["live"], data["samples"])

    def _on_done(self, environment: Environment, msg: Any, **_: Any) -> None:
        self._waiting.discard(msg.data["worker"])
        host = {**self._info.host, "generator_scheduling": msg.data["scheduling"]}
        self._info = dataclasses.replace(self._info, host=host)
        self._go_on_when_done()

    def _go_on_when_done(self) -> None:
        if self._waiting or not self._running:
            return
        self._mark_end()
        present = self._present()
        if self._config.check_answers and present:
            self.live.state = "comparing answers"
            self._runner.send_message(messages.ALONE, None, present[0])
            gevent.spawn_later(_ALONE_WAIT_S, self._give_up_alone, self._info.started_unix_ns)
        else:
            gevent.spawn(self._leave)

    def _give_up_alone(self, run: int) -> None:
        if self._info.started_unix_ns == run and not self._stopped:
            self._alone = {"errors": [f"the answers alone were not there within {_ALONE_WAIT_S} s"], "asked": 0}
            self._leave()

    def _on_alone_done(self, environment: Environment, msg: Any, **_: Any) -> None:
        self._alone = msg.data["found"]
        gevent.spawn(self._leave)

    def _leave(self) -> None:
        """End Locust's test; what follows is in test_stop."""
        self._leaving = True
        if self._headless:
            self._runner.quit()
            return
        # A master that is stopped while it still counts its users takes itself for running afterwards.
        for _ in range(60):
            if self._runner.state == STATE_RUNNING:
                break
            gevent.sleep(0.05)
        self._runner.stop()

    def _on_test_stop(self, **_: Any) -> None:
        if self._stopped or self.folder is None:
            return
        self._stopped = True
        if self._running:
            self._note_lost(0)
            self._mark_end()
            if self._waiting:
                self._mark_invalid("the run was stopped before its end")
        if self._headless and not self._leaving:  # Locust stops a test, and stays, when its last worker is lost
            gevent.spawn(self._leave)
        if isinstance(self._runner, MasterRunner) and not self._headless:
            gevent.spawn(self._finish)
        else:
            self._finish()

    def _finish(self) -> None:
        if isinstance(self._runner, MasterRunner) and self._waiting:
            gevent.sleep(1.0)  # the last records of workers that were stopped
        for file in self._files.values():
            file.close()
        self._files = {}
        checks = {"answers": dict(self._alone)} if self._alone else {}
        write_run(self._folder(), dataclasses.replace(self._info, checks=checks))
        watch, self._watch = self._watch, None
        if watch is None:
            return
        refused = self.live.state == "refused"
        if not refused:
            self.live.state = "analysing"
        if self._headless:
            self._analyse(self._folder(), watch, refused)
        else:
            gevent.spawn(self._analyse, self._folder(), watch, refused)

    def _analyse(self, folder: Path, watch: ServerWatch, refused: bool) -> None:
        watch.end()
        if refused:
            return
        code = finish(folder)
        self._environment.process_exit_code = code
        self.live.state = {0: "finished", 4: "finished, INVALID"}.get(code, f"the analysis failed (exit code {code})")

    # --- workers that are lost ------------------------------------------------------------------------------------

    def _present(self) -> list[str | None]:
        """Locust's names of the workers that are there; None is this process."""
        if not isinstance(self._runner, MasterRunner):
            return [None]
        return sorted(client.id for client in self._runner.clients.values() if client.state != STATE_MISSING)

    def _look_after_workers(self, waiting: set[int]) -> None:
        """Until all are done, or another run has begun. Else a run would wait for ever for a worker that is gone."""
        until = self._config.end_ns / 1e9 + self._config.grace_s + _DONE_WAIT_S
        while self._waiting is waiting and not self._stopped:
            gevent.sleep(_LOOK_S)
            if self._waiting is not waiting or self._stopped:
                return
            self._note_lost(_PATIENCE_S if self._running else _PREPARING_PATIENCE_S)
            if self._running and waiting and self.second > until:
                self._mark_invalid(f"{_workers(waiting)} did not say within {_DONE_WAIT_S} s after the end that "
                                   "all was done: what was under way there is not in the records")  # fmt: skip
                waiting.clear()
            self._go_on_when_done()

    def _note_lost(self, patience_s: float) -> None:
        """Wait no more for workers that Locust has missed for so long, and say so."""
        present, now = self._present(), time.monotonic()
        missing = {worker for worker in self._waiting if self._clients[worker] not in present}
        self._missing = {worker: self._missing.get(worker, now) for worker in missing}
        lost = {worker for worker, since in self._missing.items() if now - since >= patience_s}
        if not lost:
            return
        if not self._running:
            self._refuse(f"{_workers(lost)} was lost before the run began")
            self._waiting.clear()
            return
        self._waiting.difference_update(lost)
        self._mark_invalid(f"{_workers(lost)} was lost by {self.second} s: what it had under way, and was yet to send, "
                           "is not in the records")  # fmt: skip

    # --- parts --------------------------------------------------------------------------------------------------

    def _refuse(self, reason: str) -> None:
        log.error("error: %s", reason)
        self.live.state, self._stopped = "refused", False
        self.live.title = reason
        self._environment.process_exit_code = 3
        if self.folder is not None and self._files:
            self._info = dataclasses.replace(self._info, invalid=(f"not run: {reason}",))
        gevent.spawn(self._leave)

    def _mark_end(self) -> None:
        if self._running:
            self._second, self._running = self.second, False
            ended = time.monotonic_ns() - self._start["monotonic_ns"]
            self._info = dataclasses.replace(self._info, ended_ns=ended)

    def _mark_invalid(self, reason: str) -> None:
        log.error("invalid: %s", reason)
        self._info = dataclasses.replace(self._info, invalid=(*self._info.invalid, reason))

    def _folder(self) -> Path:
        assert self.folder is not None
        return self.folder

    def _first_info(self, config: RunConfig, workers: int) -> RunInfo:
        settings: Mapping[str, Any] = config.model_dump(mode="json")
        arrivals = {k: v for k, v in settings["arrivals"].items() if v not in (None, [])}
        return RunInfo(
            name=config.name, started_unix_ns=time.time_ns(), front=config.front,
            target=f"{config.target} {config.model}", model=config.model, workload=settings["workload"],
            arrivals={**arrivals, "seed": config.seed}, duration_s=config.duration_s, workers=workers,
            seed=config.seed, slo_ms=config.slo_ms, versions=versions(), host=host_facts(),
            warm_up_s=config.warm_up_s, settings=settings,
        )  # fmt: skip


def _workers(numbers: set[int]) -> str:
    return f"worker {', '.join(str(one) for one in sorted(numbers))}"


def _title(config: RunConfig) -> str:
    arrivals = config.arrivals
    how = f"{arrivals.users} users" if arrivals.kind == "closed" else arrivals.kind
    if arrivals.rate_per_s is not None:
        how += f" {arrivals.rate_per_s:g}/s"
    return f"{config.front} {config.target} {config.model}, {config.workload.kind}, {how}"
