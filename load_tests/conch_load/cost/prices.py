"""Prices: of GPUs from one file that people edit, of APIs from the PyPI package genai-prices as it is installed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from conch.errors import ConchError, InvalidArgumentError, NotFoundError, UnavailableError

GPU_PRICES_FILE = Path(__file__).with_name("gpu_prices.yaml")
_Model = TypeVar("_Model", bound=BaseModel)
_MONTH_OR_DAY = re.compile(r"20\d\d-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?")


def _as_text(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value


class GpuPrice(BaseModel):
    """One GPU's price; what the fields mean is said in gpu_prices.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    usd_per_hour: float = Field(ge=0, allow_inf_nan=False)
    low: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    high: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    as_of: Annotated[str | None, BeforeValidator(_as_text)]
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> GpuPrice:
        if self.as_of is not None and not _MONTH_OR_DAY.fullmatch(self.as_of):
            raise ValueError(f"as_of must be a day (2026-05-20), a month (2026-05) or null, got {self.as_of}")
        if not (self.low or 0) <= self.usd_per_hour <= (self.usd_per_hour if self.high is None else self.high):
            raise ValueError(f"usd_per_hour must lie between low and high, got {self.usd_per_hour:g}")
        return self

    @property
    def dated(self) -> str:
        """The date, or that there is none."""
        return self.as_of or "no date"


class GpuPrices(BaseModel):
    """The file of GPU prices."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checked: date
    gpus: Mapping[str, GpuPrice] = Field(min_length=1)

    def of(self, gpu: str) -> GpuPrice:
        """The price of a GPU.

        Raises:
            NotFoundError: the file has none of that name.
        """
        if gpu not in self.gpus:
            raise NotFoundError(
                f"gpu must be one of {', '.join(self.gpus)}, got {gpu}",
                mend="Add its price, with date and source, to the file of GPU prices, or give --usd-per-gpu-hour.",
            )
        return self.gpus[gpu]


def read_gpu_prices(path: Path = GPU_PRICES_FILE) -> GpuPrices:
    """The prices of GPUs.

    Raises:
        InvalidArgumentError: the file is not what it should be; names the field and the value.
        OSError: it cannot be read.
    """
    return read_yaml(path, GpuPrices)


def read_yaml(path: Path, model: type[_Model]) -> _Model:
    """A YAML file as a pydantic model.

    Raises:
        InvalidArgumentError: it is not YAML, or not what the model wants.
        OSError: it cannot be read.
    """
    try:
        return model.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise InvalidArgumentError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        value = "" if isinstance(first["input"], (dict, list)) else f", got {first['input']}"
        raise InvalidArgumentError(f"{path}: {where}: {first['msg']}{value}") from error


@dataclass(frozen=True)
class ApiPrice:
    """What an API takes.

    Attributes:
        name: provider/model.
        usd_in, usd_out: $ per million tokens of input and of output.
        source: where it comes from, with its date.
    """

    name: str
    usd_in: float
    usd_out: float
    source: str


def api_price(name: str, on: date) -> ApiPrice:
    """The price of a provider's model on a day, from genai-prices as installed; nothing is asked over the network.

    Where a price depends on the length of the prompt or the time of day, it is that of a short prompt at noon, UTC.

    Args:
        name: provider/model, as genai-prices writes them: ``groq/llama-3.3-70b-versatile``.
        on: the day.

    Raises:
        InvalidArgumentError: the name is not of that form.
        NotFoundError: genai-prices knows no such provider or model, or no price of it.
        UnavailableError: genai-prices is not installed (it needs Python 3.11).
    """
    provider_id, slash, model_ref = name.partition("/")
    if not (provider_id and slash and model_ref):
        raise InvalidArgumentError(f"api must be provider/model, got {name}")
    try:
        from genai_prices import __version__, data_snapshot
        from genai_prices.types import TieredPrices
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"api {name} has no price: genai-prices is not installed; it needs Python 3.11 or later",
            mend="Give the price by hand: --api-price NAME=IN/OUT, in $ per million tokens.",
        ) from error
    snapshot = data_snapshot.get_snapshot()
    try:
        _, model = snapshot.find_provider_model(model_ref, None, provider_id, None)
    except LookupError as error:
        raise _unknown(name, provider_id, [one.id for one in snapshot.providers]) from error
    noon = datetime(on.year, on.month, on.day, 12, tzinfo=timezone.utc)
    prices = model.get_prices(noon)
    sides = [
        one.base if isinstance(one, TieredPrices) else one for one in (prices.input_mtok, prices.output_mtok)
    ]
    if sides[0] is None or sides[1] is None:
        raise NotFoundError(f"api {name}: genai-prices has no price per token of it")
    began = _began(model.prices, on)
    newest = max((day for day in _starts(snapshot.providers) if day <= on), default=None)
    since = f"in force since {began}" if began else f"no date of its own; newest dated price in the package: {newest}"
    matched = "" if model.id == model_ref else f" as {model.id}"
    return ApiPrice(name, float(sides[0]), float(sides[1]), f"genai-prices {__version__}{matched}, {since}")


def parse_api_price(text: str) -> ApiPrice:
    """A price given by hand: ``name=in/out``, in $ per million tokens.

    Raises:
        InvalidArgumentError: it is not of that form, or below 0.
    """
    name, _, both = text.rpartition("=")
    try:
        usd_in, usd_out = (float(one) for one in both.split("/"))
    except ValueError:
        raise InvalidArgumentError(f"--api-price must be NAME=IN/OUT, got {text}") from None
    if not name:
        raise InvalidArgumentError(f"--api-price must be NAME=IN/OUT, got {text}")
    if not (0 <= usd_in < math.inf and 0 <= usd_out < math.inf):
        raise InvalidArgumentError(f"--api-price must be 0 or above, got {text}")
    return ApiPrice(name, usd_in, usd_out, "--api-price")


def _unknown(name: str, provider_id: str, providers: list[str]) -> ConchError:
    if provider_id.lower() not in providers:
        return NotFoundError(f"api {name}: genai-prices knows no provider {provider_id}; it has {', '.join(providers)}")
    return NotFoundError(f"api {name}: genai-prices knows no such model of {provider_id}")


def _began(prices: Any, on: date) -> date | None:
    """The day from which the price of a model holds, where its rows say."""
    days = [day for day in _row_starts(prices) if day <= on]
    return max(days, default=None)


def _starts(providers: Any) -> list[date]:
    return [day for one in providers for model in one.models for day in _row_starts(model.prices)]


def _row_starts(prices: Any) -> list[date]:
    rows = prices if isinstance(prices, list) else []
    starts = (getattr(row.constraint, "start_date", None) for row in rows)
    return [day for day in starts if day is not None]
