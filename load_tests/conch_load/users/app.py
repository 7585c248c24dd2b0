"""Locust with this package in it: its flags, listeners and page. The locustfile imports it and says no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import locust.stats
from locust import User, events, task
from locust.runners import MasterRunner, WorkerRunner

from conch_load.config import ConfigError, RunConfig, checked
from conch_load.flags import add_flags, config_of
from conch_load.folders import REPORTS, check_free, stamped
from conch_load.users.agent import Agent
from conch_load.users.controller import Controller
from conch_load.users.page import add_page

_agents: dict[int, Agent] = {}


def bucket(response_time_ms: float) -> float:
    """Locust rounds to 1, 10 or 100 ms; this is to 10 µs below 100 ms, 100 µs below 10 s, 1 ms above: one in a thousand
    at worst, and a bounded number of buckets. The report is made from the exact stamps in any case."""
    digits = 2 if response_time_ms < 100 else 1 if response_time_ms < 10_000 else 0
    return round(response_time_ms, digits)


class Generation(User):
    """A user of a closed loop: asks, reads the answer to its end, asks again. Open arrivals need no user's patience;
    there Locust's users only stand for its workers."""

    def on_start(self) -> None:
        _agents[id(self.environment)].user_begins()

    @task
    def generate(self) -> None:
        _agents[id(self.environment)].user_turn()


def _add_flags(parser: Any, **_: Any) -> None:
    add_flags(parser)
    # Of `python -m conch_load`: the whole run as JSON, and where its files go. Not for the page.
    parser.add_argument("--conch-config", default=None, include_in_web_ui=False, help="the run, as JSON")
    parser.add_argument("--out", default=None, include_in_web_ui=False, help="folder of the run's files")


def _init(environment: Any, runner: Any, web_ui: Any, **_: Any) -> None:
    stats: Any = locust.stats  # which says that a bucket is a whole number
    stats.bucket_response_time = bucket
    if not isinstance(runner, MasterRunner):
        _agents[id(environment)] = Agent(environment)
    if isinstance(runner, WorkerRunner):
        return
    options = environment.parsed_options
    headless = bool(options.headless)
    controller = Controller(
        environment, lambda: _config(options, environment), lambda config: _folder(options, config, headless),
        headless=headless, driven=bool(options.conch_config),
    )
    if web_ui:
        add_page(web_ui, lambda: controller)


def _config(options: Any, environment: Any) -> RunConfig:
    if options.conch_config:
        return checked(json.loads(options.conch_config))
    values = dict(vars(options))
    if not values.get("target") and environment.host:
        values["target"] = environment.host  # the Host field of Locust's page
    is_open = values.get("arrivals") not in (None, "", "closed") or values.get("rate") or values.get("steps")
    users = getattr(options, "users", None) or options.num_users  # by its page, by its command line
    try:
        return config_of(values, None if is_open else users)
    except ConfigError as error:
        raise ConfigError(f"the run cannot be made: {error}") from None


def _folder(options: Any, config: RunConfig, headless: bool) -> Path:
    if options.out and headless:
        if not options.conch_config:  # else it was looked at already, and has the server's samples
            check_free(Path(options.out))
        return Path(options.out)
    return stamped(config.name, Path(options.out) if options.out else REPORTS)


_events: Any = events  # without types
_events.init_command_line_parser.add_listener(_add_flags)
_events.init.add_listener(_init)
