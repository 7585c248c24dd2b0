"""What a run is asked for: one frozen model, checked before anything is sent."""

from __future__ import annotations

import math
import random
import re
import secrets
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from conch_load.analysis.slo import objectives
from conch_load.records import FRONTS

Front = Literal["triton-grpc", "triton-http", "triton-http-stream", "openai"]
TRITON_FRONTS = tuple(front for front in FRONTS if front.startswith("triton-"))
WORKLOADS = ("fixed", "distribution", "chat", "prompts", "mooncake", "burstgpt")
ARRIVALS = ("closed", "constant", "poisson", "gamma", "steps", "trace")
NO_SALT = "none"
_DRAWS = 1000


class ConfigError(ValueError):
    """A run that cannot be made. The text names field, rule and value."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Length(_Frozen):
    """A length in tokens: a number, or a distribution of numbers.

    Attributes:
        kind: constant, uniform (both ends included), normal or lognormal.
        a: the constant; the lowest of uniform; the mean.
        b: the highest of uniform; the standard deviation, of the lengths themselves, for lognormal too.
    """

    kind: Literal["constant", "uniform", "normal", "lognormal"]
    a: float
    b: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Length:
        """Read ``64``, ``uniform:32:128``, ``normal:MEAN:SD`` or ``lognormal:MEAN:SD``.

        Raises:
            ValueError: it is none of these.
        """
        known = "a whole number >= 1, uniform:LOW:HIGH, normal:MEAN:SD or lognormal:MEAN:SD"
        if re.fullmatch(r"\d+", text.strip()):
            made = cls(kind="constant", a=int(text))
        else:
            match = re.fullmatch(r"(uniform|normal|lognormal):(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)", text.strip())
            if match is None:
                raise ValueError(f"must be {known}, got {text!r}")
            made = cls.model_validate({"kind": match[1], "a": match[2], "b": match[3]})
        if made.a < 1 or (made.kind == "uniform" and (made.b < made.a or made.a % 1 or made.b % 1)):
            raise ValueError(f"must be {known}, got {text!r}")
        return made

    def __str__(self) -> str:
        return f"{self.a:g}" if self.kind == "constant" else f"{self.kind}:{self.a:g}:{self.b:g}"

    def draw(self, rng: random.Random) -> int:
        """One length, at least 1: values below are drawn again."""
        if self.kind == "constant":
            return int(self.a)
        if self.kind == "uniform":
            return rng.randint(int(self.a), int(self.b))
        for _ in range(_DRAWS):
            value = round(self._real(rng))
            if value >= 1:
                return value
        return 1

    def _real(self, rng: random.Random) -> float:
        if self.kind == "normal":
            return rng.gauss(self.a, self.b)
        # Mean m and deviation s of the lengths give sigma^2 = ln(1 + s^2/m^2), mu = ln m - sigma^2/2 of the logarithm.
        variance = math.log1p((self.b / self.a) ** 2)
        return rng.lognormvariate(math.log(self.a) - variance / 2, math.sqrt(variance))


class WorkloadConfig(_Frozen):
    """What is asked.

    Attributes:
        kind: fixed and distribution: random words, counted in tokens; chat: conversations with a shared system
            prompt; prompts: texts of a file; mooncake, burstgpt: lengths (and times) of a trace.
        input_tokens, output_tokens: lengths; of chat: of a user's message and an answer.
        system_tokens: chat: length of the system prompt.
        shared_prompts: chat: how many different system prompts there are.
        turns: chat: turns of a conversation.
        path: file of prompts, or trace.
        force_output: answers have exactly output_tokens, where the server can be told so.
    """

    kind: Literal["fixed", "distribution", "chat", "prompts", "mooncake", "burstgpt"] = "fixed"
    input_tokens: str = "64"
    output_tokens: str = "64"
    system_tokens: int = Field(default=256, ge=1)
    shared_prompts: int = Field(default=1, ge=1)
    turns: int = Field(default=4, ge=1)
    path: Path | None = None
    force_output: bool = True

    @field_validator("input_tokens", "output_tokens")
    @classmethod
    def _lengths(cls, value: str) -> str:
        return str(Length.parse(value))

    @model_validator(mode="after")
    def _fits(self) -> WorkloadConfig:
        if self.kind == "fixed":
            for name in ("input_tokens", "output_tokens"):
                if Length.parse(getattr(self, name)).kind != "constant":
                    raise ValueError(f"{name} of a fixed workload must be one number, got {getattr(self, name)!r}; "
                                     "say workload distribution")  # fmt: skip
        if self.kind in ("prompts", "mooncake", "burstgpt") and self.path is None:
            raise ValueError(f"path must be given for the workload {self.kind}")
        if self.kind in ("fixed", "distribution", "chat") and self.path is not None:
            raise ValueError(f"path has no meaning for the workload {self.kind}, got {str(self.path)!r}")
        return self


class ArrivalsConfig(_Frozen):
    """When it is asked.

    Attributes:
        kind: closed: each of ``users`` asks again when it has its answer; all others are open: requests are due at
            times that do not depend on the answers.
        users: closed loop alone.
        ramp_up_s: closed loop: the users start evenly within this time; None: within half of the warm-up. Users that
            start together would stay together, and ask in bursts.
        rate_per_s: constant, poisson, gamma: mean rate of all workers together.
        burstiness: gamma: squared coefficient of variation of the gaps; 1 is Poisson, more is burstier.
        steps: steps: (rate per s, duration in s), one after the other, Poisson within each.
        speed: trace: how many times faster than it was recorded.
        max_connections: open: at most so many requests under way, of all workers together, as a client with a pool of
            connections has; what is due beyond them waits, in order. None: no such limit.
    """

    kind: Literal["closed", "constant", "poisson", "gamma", "steps", "trace"] = "closed"
    users: int | None = Field(default=None, ge=1, le=100_000)
    ramp_up_s: float | None = Field(default=None, ge=0)
    rate_per_s: float | None = Field(default=None, gt=0, le=1e6)
    burstiness: float = Field(default=4.0, gt=0, le=1e4)
    steps: tuple[tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)]], ...] = ()
    speed: float = Field(default=1.0, gt=0)
    max_connections: int | None = Field(default=None, ge=1, le=100_000)

    @model_validator(mode="after")
    def _fits(self) -> ArrivalsConfig:
        if self.kind == "closed" and self.rate_per_s is not None:
            raise ValueError(f"rate has no meaning for closed arrivals, got {self.rate_per_s:g}; say arrivals poisson")
        if self.kind == "closed" and self.users is None:
            raise ValueError("users must be given for closed arrivals")
        if self.kind == "closed" and self.max_connections is not None:
            raise ValueError(f"max_connections has no meaning for closed arrivals, got {self.max_connections}; "
                             "there users are the limit")  # fmt: skip
        if self.kind != "closed" and self.users is not None:
            raise ValueError(f"users has no meaning for {self.kind} arrivals, got {self.users}")
        if self.kind in ("constant", "poisson", "gamma") and self.rate_per_s is None:
            raise ValueError(f"rate must be given for {self.kind} arrivals")
        if (self.kind == "steps") != bool(self.steps):
            raise ValueError("steps must be given for arrivals steps, and for no others")
        return self


class RunConfig(_Frozen):
    """A run.

    Attributes:
        front: how the server is asked.
        target: host:port or URL.
        model: as the server names it.
        duration_s: how long requests are sent, after the warm-up.
        warm_up_s: requests due (closed loop: sent) in this time before are marked, and count for nothing.
        grace_s: how long answers may still come after that; what has not ended then is recorded as unfinished.
        timeout_s: of one request.
        seed: of lengths, times and words.
        salt: of the first words of each prompt (workloads.tokens.SALT_TOKENS), so that a prefix cache of the server has
            nothing of an earlier run with the same seed; another salt changes nothing else. "none": the seed alone.
        workers: Locust processes on this machine; 1 is a single process.
        expect_workers: > 0: workers on other machines, which connect to ``master_bind``; then ``workers`` counts not.
        tokenizer: tokenizer.json, or its folder; None: the one of ``repository``.
        repository: Conch's model repository, for its tokenizer, its context and whether it is deterministic.
        context_tokens: most tokens of prompt and answer together; None: as the repository says, if there is one.
        slo_ms: limits as analysis.slo knows them, such as {"ttft_p99_ms": 500}; the analysis judges them.
        check_answers: so many greedy answers are asked for again, alone, and compared.
        metrics_url, statistics_url: where the server's own figures are (server_side.watch); None: the usual places for
            the target; "none": they are not looked at.
        max_loop_lag_ms, max_cpu_share, max_late_share: beyond these the generator was the limit (honesty.limits). The
            last is 1 unless given where arrivals have max_connections.
        check_tokens: a difference between the server's token counts and the tokenizer's fails the run.
    """

    name: str = Field(default="load-test", min_length=1)
    front: Front = "triton-grpc"
    target: str = "127.0.0.1:8001"
    model: str = Field(default="ensemble", min_length=1)
    workload: WorkloadConfig = WorkloadConfig()
    arrivals: ArrivalsConfig = ArrivalsConfig(users=16)
    duration_s: float = Field(default=60, gt=0)
    warm_up_s: float = Field(default=5, ge=0)
    grace_s: float = Field(default=30, ge=0)
    timeout_s: float = Field(default=300, gt=0)
    seed: int = Field(default=1, ge=0)
    salt: str = Field(default_factory=lambda: secrets.token_hex(4), min_length=1)
    workers: int = Field(default=1, ge=1, le=256)
    expect_workers: int = Field(default=0, ge=0)
    master_bind: str = "127.0.0.1:0"
    tokenizer: Path | None = None
    repository: Path = Path("model_repository")
    context_tokens: int | None = Field(default=None, ge=2)
    slo_ms: dict[str, float] = {}
    check_answers: int = Field(default=8, ge=0)
    check_tokens: bool = True
    metrics_url: str | None = None
    statistics_url: str | None = None
    max_loop_lag_ms: float = Field(default=50, gt=0)
    max_cpu_share: float = Field(default=0.9, gt=0, le=1)
    max_late_share: float = Field(default=0.01, ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _late_by_design(cls, values: Any) -> Any:
        """With max_connections requests leave late because the server holds all connections: no fault of the
        generator's."""
        arrivals = values.get("arrivals") if isinstance(values, dict) else None
        most = arrivals.get("max_connections") if isinstance(arrivals, dict) else None
        return {"max_late_share": 1.0, **values} if most is not None else values

    @field_validator("slo_ms")
    @classmethod
    def _limits(cls, value: dict[str, float]) -> dict[str, float]:
        objectives(value)  # raises a ValueError for what is no limit: before the run, not after it
        return value

    @model_validator(mode="after")
    def _fits(self) -> RunConfig:
        if self.arrivals.kind == "trace" and self.workload.kind not in ("mooncake", "burstgpt"):
            raise ValueError(f"arrivals trace needs a workload mooncake or burstgpt, got {self.workload.kind}")
        if self.arrivals.max_connections is not None and self.arrivals.max_connections < self.processes:
            raise ValueError(f"max_connections must be one for each of the {self.processes} workers or more, "
                             f"got {self.arrivals.max_connections}")  # fmt: skip
        return self

    @property
    def warm_up_ns(self) -> int:
        """Where the measured part begins."""
        return round(self.warm_up_s * 1e9)

    @property
    def end_ns(self) -> int:
        """Where no request is sent any more."""
        return round((self.warm_up_s + self.duration_s) * 1e9)

    @property
    def ramp_up_s(self) -> float:
        """Time in which the users of a closed loop start."""
        return self.warm_up_s / 2 if self.arrivals.ramp_up_s is None else self.arrivals.ramp_up_s

    @property
    def processes(self) -> int:
        """How many workers share the load."""
        return self.expect_workers or self.workers


def checked(values: dict[str, Any]) -> RunConfig:
    """A config of plain values.

    Raises:
        ConfigError: with one line for each thing that is wrong.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        lines = []
        for one in error.errors():
            place = ".".join(str(part) for part in one["loc"])
            text = one["msg"].removeprefix("Value error, ").removeprefix("slo: ")
            shown = "" if one["type"] == "value_error" or isinstance(one["input"], dict) else f", got {one['input']!r}"
            lines.append(f"{place}: {text}{shown}" if place else f"{text}{shown}")
        raise ConfigError("; ".join(lines)) from None
