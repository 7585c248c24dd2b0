"""The arithmetic of cost, and nothing else: no prices, no files.

A *replica* is one copy of a deployment: so many GPUs, with a throughput. *Utilization* is the share of that throughput
that is used, over the day; the rest is room for peaks and nights. *Overhead* is what comes on top of the GPUs' price
(host, network, storage, people), as a share of it.

Tokens are those that the throughput counts: ``output`` tokens, with the input that comes with them included in their
price, or ``total`` tokens, input and output alike. Prices of APIs are brought to the same tokens before they are
compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from conch.errors import InvalidArgumentError

Counted = Literal["output", "total"]

_HOURS_PER_DAY, _SECONDS_PER_HOUR, _SECONDS_PER_DAY = 24, 3600, 86_400
_MILLION = 1e6


def positive(name: str, value: float) -> float:
    """The value, if it is a finite number above 0.

    Raises:
        InvalidArgumentError: it is not.
    """
    if not (math.isfinite(value) and value > 0):
        raise InvalidArgumentError(f"{name} must be above 0, got {value:g}")
    return value


def not_negative(name: str, value: float) -> float:
    """The value, if it is a finite number, 0 or above.

    Raises:
        InvalidArgumentError: it is not.
    """
    if not (math.isfinite(value) and value >= 0):
        raise InvalidArgumentError(f"{name} must be 0 or above, got {value:g}")
    return value


def share(name: str, value: float) -> float:
    """The value, if it lies in (0, 1].

    Raises:
        InvalidArgumentError: it does not.
    """
    if not 0 < value <= 1:
        raise InvalidArgumentError(f"{name} must be above 0 and at most 1, got {value:g}")
    return value


def usd_per_hour(usd_per_gpu_hour: float, gpus: int, overhead: float) -> float:
    """What one replica costs: price × GPUs × (1 + overhead)."""
    not_negative("usd_per_gpu_hour", usd_per_gpu_hour)
    positive("gpus", gpus)
    return usd_per_gpu_hour * gpus * (1 + not_negative("overhead", overhead))


def usd_per_million(replica_usd_per_hour: float, tokens_per_s: float, utilization: float) -> float:
    """$ per million tokens: $/h ÷ (tokens/s × 3600 × utilization) × 10⁶."""
    positive("tokens_per_s", tokens_per_s)
    tokens_per_hour = tokens_per_s * _SECONDS_PER_HOUR * share("utilization", utilization)
    return replica_usd_per_hour / tokens_per_hour * _MILLION


def tokens_per_day(tokens_per_s: float, utilization: float) -> float:
    """What one replica makes in a day at that utilization."""
    return positive("tokens_per_s", tokens_per_s) * _SECONDS_PER_DAY * share("utilization", utilization)


def api_usd_per_million(usd_in: float, usd_out: float, input_per_output: float, counted: Counted) -> float:
    """What an API takes for a million of the tokens that are counted.

    For ``output`` tokens: out + ratio × in. For ``total`` tokens: (out + ratio × in) ÷ (1 + ratio).

    Args:
        usd_in, usd_out: $ per million tokens of input and of output.
        input_per_output: input tokens that come with each output token.
        counted: which tokens the result is per million of.
    """
    ratio = not_negative("input_per_output", input_per_output)
    both = not_negative("api output price", usd_out) + ratio * not_negative("api input price", usd_in)
    return both if counted == "output" else both / (1 + ratio)


@dataclass(frozen=True)
class Sizing:
    """What a load takes.

    Attributes:
        replicas, gpus: whole ones.
        usd_per_hour: of all of them.
        utilization: that the load comes to on them; at most the planned one.
        usd_per_million: $ per million tokens at that load, idle time paid for.
    """

    replicas: int
    gpus: int
    usd_per_hour: float
    utilization: float
    usd_per_million: float


def size(
    target_tokens_per_s: float, tokens_per_s: float, gpus: int, replica_usd_per_hour: float, utilization: float
) -> Sizing:
    """Replicas for a load: the fewest that carry it with none used above ``utilization``.

    Args:
        target_tokens_per_s: the load, tokens/s on average.
        tokens_per_s, gpus, replica_usd_per_hour: of one replica.
        utilization: the share of the throughput that may be planned with.
    """
    positive("target_tokens_per_s", target_tokens_per_s)
    usable = positive("tokens_per_s", tokens_per_s) * share("utilization", utilization)
    replicas = max(1, math.ceil(target_tokens_per_s / usable - 1e-9))
    used = target_tokens_per_s / (replicas * tokens_per_s)
    total = replicas * replica_usd_per_hour
    return Sizing(replicas, replicas * gpus, total, used, usd_per_million(total, replicas * tokens_per_s, used))


@dataclass(frozen=True)
class BreakEven:
    """Where self-hosting and an API cost the same.

    Attributes:
        tokens_per_day: at which one replica costs what the API takes; infinite where the API is free.
        capacity_tokens_per_day: what one replica can make at the planned utilization.
        pays: whether the break-even lies within that; otherwise the API is cheaper at every load.
        pays_above_tokens_per_day: from here on self-hosting is cheaper at every load, whole replicas reckoned; infinite
            where there is no such load.
    """

    tokens_per_day: float
    capacity_tokens_per_day: float
    pays: bool
    pays_above_tokens_per_day: float


def break_even(replica_usd_per_hour: float, tokens_per_s: float, utilization: float, api_usd: float) -> BreakEven:
    """The load at which a replica costs what the API takes: T* = 24 × $/h ÷ API price.

    Between T* and a replica's capacity self-hosting is cheaper. Just above k - 1 replicas' capacity a k-th must be
    rented, and it is cheaper there only if k ≥ 1 ÷ (1 - T*/capacity); so for each k below that the range begins anew at
    k × T*.

    Args:
        replica_usd_per_hour, tokens_per_s: of one replica.
        utilization: of its throughput, the share that may be planned with.
        api_usd: the API's price per million of the same tokens.
    """
    capacity = tokens_per_day(tokens_per_s, utilization)
    usd_per_day = _HOURS_PER_DAY * replica_usd_per_hour
    if not_negative("api price", api_usd) == 0:
        return BreakEven(math.inf, capacity, False, math.inf)
    tokens = usd_per_day / api_usd * _MILLION
    filled = tokens / capacity
    if filled > 1:
        return BreakEven(tokens, capacity, False, math.inf)
    above = math.inf if filled == 1 else (max(2, math.ceil(1 / (1 - filled) - 1e-9)) - 1) * tokens
    return BreakEven(tokens, capacity, True, above)


def api_price_to_pay_above(
    replica_usd_per_hour: float, tokens_per_s: float, utilization: float, day_tokens: float
) -> float:
    """$ per million tokens that an API would have to take for self-hosting to be cheaper at every load above that one.

    With n replicas at that load: the dearer of n × $/day ÷ load, and of (n + 1) × $/day ÷ (n × capacity), which is the
    cost of a token just above what n replicas carry.
    """
    capacity = tokens_per_day(tokens_per_s, utilization)
    replicas = max(1, math.ceil(positive("tokens_per_day", day_tokens) / capacity - 1e-9))
    at_load, above = replicas / day_tokens, (replicas + 1) / (replicas * capacity)
    return _HOURS_PER_DAY * replica_usd_per_hour * max(at_load, above) * _MILLION
