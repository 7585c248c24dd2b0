"""Rows of what is compared, and what follows for each: every number with its source, and the verdict on the claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from conch.errors import UnavailableError
from conch_load.cost import formulas
from conch_load.cost.figures import Figure, computed
from conch_load.cost.formulas import Counted
from conch_load.cost.prices import ApiPrice, GpuPrices, api_price, read_yaml

COMPARISON_FILE = Path(__file__).with_name("comparison.yaml")
# Shown beside the utilization that was asked for: a GPU that idles costs the same.
UTILIZATIONS = (1.0, 0.6, 0.3)


class Row(BaseModel):
    """One line of the comparison; what the fields mean is said in comparison.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    tokens_per_s: float = Field(gt=0, allow_inf_nan=False)
    source: str = Field(min_length=1)
    machine_source: str | None = Field(default=None, min_length=1)
    gpu: str | None = None
    gpus: int | None = Field(default=None, ge=1)
    usd_per_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    api: str | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Row:
        kinds = [self.gpu is not None, self.usd_per_hour is not None, self.api is not None]
        if sum(kinds) != 1:
            raise ValueError(f"row {self.name} must have one of gpu, usd_per_hour and api")
        if (self.gpu is None) != (self.gpus is None):
            raise ValueError(f"row {self.name} must have gpus with gpu, and without it none")
        return self


class Comparison(BaseModel):
    """What is compared with what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    claim_tokens_per_day: float = Field(default=1e6, gt=0, allow_inf_nan=False)
    target_tokens_per_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    rows: tuple[Row, ...] = Field(min_length=1)
    apis: tuple[str, ...] = ()


def read_comparison(path: Path = COMPARISON_FILE) -> Comparison:
    """The rows to fill in.

    Raises:
        InvalidArgumentError: the file is not what it should be.
        OSError: it cannot be read.
    """
    return read_yaml(path, Comparison)


@dataclass(frozen=True)
class Assumptions:
    """Inputs that hold for every row.

    Attributes:
        utilization: share of the throughput that is used over the day, in (0, 1].
        overhead: what comes on top of the GPUs' price, as a share of it.
        input_per_output: input tokens that come with each output token.
        counted: which tokens the throughputs count.
        on: the day of the prices of APIs.
        sources: whose each of these is, by name.
    """

    utilization: float
    overhead: float
    input_per_output: float
    counted: Counted
    on: date
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        formulas.share("utilization", self.utilization)
        formulas.not_negative("overhead", self.overhead)
        formulas.not_negative("input_per_output", self.input_per_output)

    def figures(self) -> dict[str, Figure]:
        """Each as a figure, with whose it is."""
        units = {"utilization": "share", "overhead": "share", "input_per_output": "tokens/token"}
        return {n: Figure(getattr(self, n), unit, self.sources.get(n, "assumed")) for n, unit in units.items()}


@dataclass(frozen=True)
class AgainstApi:
    """A row beside one API.

    Attributes:
        api: provider/model.
        api_usd_per_million: its price for a million of the tokens that are counted.
        break_even, pays_above: million tokens a day; infinite where there is none.
        claim_holds: whether self-hosting is cheaper at every load above the claimed one.
    """

    api: str
    api_usd_per_million: Figure
    break_even: Figure
    pays_above: Figure
    claim_holds: bool


@dataclass(frozen=True)
class Line:
    """A row, filled in. Figures by name, in the order in which they are shown."""

    name: str
    figures: Mapping[str, Figure]
    against: tuple[AgainstApi, ...] = ()


@dataclass(frozen=True)
class CostReport:
    """All of it."""

    assumptions: Assumptions
    claim_tokens_per_day: float
    gpu_prices_checked: date
    api_prices: tuple[ApiPrice, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()

    @property
    def comparisons(self) -> list[tuple[Line, AgainstApi]]:
        """Every row with a machine beside every API."""
        return [(line, one) for line in self.lines for one in line.against]

    def verdict(self) -> str:
        """What came out for the claim that self-hosting pays above so many tokens a day."""
        claim = f'"Self-hosting pays above {self.claim_tokens_per_day / 1e6:g} million tokens a day"'
        pairs = self.comparisons
        if not pairs:
            return f"{claim}: not tested, for want of a machine or of an API's price to compare."
        failed = sum(not one.claim_holds for _, one in pairs)
        count = f"{len(pairs)} comparisons"
        outcome = f"not true in {failed} of {count}" if failed else f"true in all {count}"
        above, name, api = min((one.pays_above.value, line.name, one.api) for line, one in pairs)
        soonest = f"it pays soonest above {above:,.1f} million a day, {name} beside {api}"
        where = soonest if math.isfinite(above) else "at these prices it pays at no load"
        needed = sorted({line.figures["api_price_for_claim"].value for line, _ in pairs})
        prices = " to ".join(f"${one:,.2f}" for one in (needed[0], needed[-1])[: len(needed)])
        return f"{claim}: {outcome}; {where}. For it to be true, an API would have to take {prices} per million tokens."


def make_report(
    comparison: Comparison, assumptions: Assumptions, prices: GpuPrices, given: Sequence[ApiPrice] = ()
) -> CostReport:
    """Fill the table in.

    Args:
        comparison: rows and APIs.
        assumptions: what holds for all rows.
        prices: of GPUs.
        given: prices of APIs by hand; they go before those of genai-prices.

    Raises:
        InvalidArgumentError, NotFoundError: a value is out of range, or there is no such GPU, provider or model.
    """
    given_prices = {one.name: one for one in given}
    known = dict(given_prices)
    notes: list[str] = []

    wanted = [*known, *comparison.apis, *(row.api for row in comparison.rows if row.api)]
    for name in dict.fromkeys(wanted):
        try:
            known[name] = known.get(name) or api_price(name, assumptions.on)
        except UnavailableError as error:  # the machines' figures stand without it
            notes.append(str(error))
    apis = [known[name] for name in dict.fromkeys([*given_prices, *comparison.apis]) if name in known]
    lines = [
        _api_line(row, known.get(row.api), assumptions) if row.api
        else _machine_line(row, comparison, assumptions, prices, apis)
        for row in comparison.rows
    ]  # fmt: skip
    return CostReport(
        assumptions, comparison.claim_tokens_per_day, prices.checked, tuple(known.values()), tuple(lines), tuple(notes)
    )


def _api_line(row: Row, price: ApiPrice | None, given: Assumptions) -> Line:
    """An API: it has no machine, and costs the same for each token however busy it is."""
    rate = {"tokens_per_s": Figure(row.tokens_per_s, "tokens/s", row.source)}
    if price is None:
        return Line(row.name, rate)
    source = f"{price.name}: {price.source}"
    blended = formulas.api_usd_per_million(price.usd_in, price.usd_out, given.input_per_output, given.counted)
    return Line(
        row.name,
        {
            **rate,
            "usd_per_hour": computed(blended * row.tokens_per_s * 3600 / 1e6, "$/h"),
            "usd_per_million": computed(blended, "$/1M tokens"),
            "api_usd_in": Figure(price.usd_in, "$/1M tokens", source),
            "api_usd_out": Figure(price.usd_out, "$/1M tokens", source),
        },
    )


def _machine_line(
    row: Row, comparison: Comparison, given: Assumptions, prices: GpuPrices, apis: Sequence[ApiPrice]
) -> Line:
    figures: dict[str, Figure] = {"tokens_per_s": Figure(row.tokens_per_s, "tokens/s", row.source)}
    machine_source = row.machine_source or row.source
    if row.gpu is not None and row.gpus is not None:
        price = prices.of(row.gpu)
        source = f"{row.gpu}, {price.dated}: {price.source}"
        figures["gpus"] = Figure(row.gpus, "GPUs", machine_source)
        figures["usd_per_gpu_hour"] = Figure(price.usd_per_hour, "$/h", source)
        hourly = computed(formulas.usd_per_hour(price.usd_per_hour, row.gpus, given.overhead), "$/h")
    else:
        assert row.usd_per_hour is not None  # Row sees to it
        figures["usd_per_machine_hour"] = Figure(row.usd_per_hour, "$/h", machine_source)
        hourly = computed(formulas.usd_per_hour(row.usd_per_hour, 1, given.overhead), "$/h")
    figures["usd_per_hour"] = hourly
    for name, used in {"": given.utilization, **{f"_at_{one:g}": one for one in UTILIZATIONS}}.items():
        cost = formulas.usd_per_million(hourly.value, row.tokens_per_s, used)
        figures[f"usd_per_million{name}"] = computed(cost, "$/1M tokens")
    if comparison.target_tokens_per_s:
        figures |= _sizing(row, hourly.value, comparison.target_tokens_per_s, given.utilization)
    claim = comparison.claim_tokens_per_day
    needed = formulas.api_price_to_pay_above(hourly.value, row.tokens_per_s, given.utilization, claim)
    figures["api_price_for_claim"] = computed(needed, "$/1M tokens")
    return Line(row.name, figures, tuple(_against(row, hourly.value, api, given, claim) for api in apis))


def _sizing(row: Row, hourly: float, target: float, utilization: float) -> dict[str, Figure]:
    needed = formulas.size(target, row.tokens_per_s, row.gpus or 0, hourly, utilization)
    gpus = {"target_gpus": computed(needed.gpus, "GPUs")} if row.gpus else {}
    return {
        "target_tokens_per_s": Figure(target, "tokens/s", "the load asked for"),
        "target_replicas": computed(needed.replicas, "replicas"),
        **gpus,
        "target_usd_per_hour": computed(needed.usd_per_hour, "$/h"),
        "target_utilization": computed(needed.utilization, "share"),
        "target_usd_per_million": computed(needed.usd_per_million, "$/1M tokens"),
    }


def _against(row: Row, hourly: float, api: ApiPrice, given: Assumptions, claim: float) -> AgainstApi:
    price = formulas.api_usd_per_million(api.usd_in, api.usd_out, given.input_per_output, given.counted)
    even = formulas.break_even(hourly, row.tokens_per_s, given.utilization, price)
    return AgainstApi(
        api.name,
        computed(price, "$/1M tokens"),
        computed(even.tokens_per_day / 1e6 if even.pays else math.inf, "million tokens/day"),
        computed(even.pays_above_tokens_per_day / 1e6, "million tokens/day"),
        even.pays_above_tokens_per_day <= claim,
    )


def as_json(report: CostReport) -> dict[str, Any]:
    """The report as JSON: each figure with value, unit and origin."""
    given = report.assumptions
    return {
        "date": given.on.isoformat(),
        "counted_tokens": given.counted,
        "assumptions": {name: figure.as_json() for name, figure in given.figures().items()},
        "gpu_prices_checked": report.gpu_prices_checked.isoformat(),
        "api_prices": [
            {"api": one.name, "usd_in": one.usd_in, "usd_out": one.usd_out, "source": one.source}
            for one in report.api_prices
        ],
        "rows": [
            {
                "name": line.name,
                "figures": {name: figure.as_json() for name, figure in line.figures.items()},
                "against": [
                    {
                        "api": one.api,
                        "api_usd_per_million": one.api_usd_per_million.as_json(),
                        "break_even": one.break_even.as_json(),
                        "pays_above": one.pays_above.as_json(),
                        "claim_holds": one.claim_holds,
                    }
                    for one in line.against
                ],
            }
            for line in report.lines
        ],
        "claim_tokens_per_day": report.claim_tokens_per_day,
        "verdict": report.verdict(),
        "notes": list(report.notes),
    }
