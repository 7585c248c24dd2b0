"""What tokens cost: ``python -m conch_load.cost``, which is ``make cost``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import date, datetime, timezone
from pathlib import Path

from conch import command_line
from conch.errors import InvalidArgumentError
from conch_load.cost import formulas
from conch_load.cost.measured import Measured, read_measured
from conch_load.cost.prices import GPU_PRICES_FILE, GpuPrice, GpuPrices, parse_api_price, read_gpu_prices
from conch_load.cost.render import as_markdown, as_text
from conch_load.cost.report import COMPARISON_FILE, Assumptions, Comparison, Row, as_json, make_report, read_comparison

GIVEN = "given by hand"
DEFAULT_UTILIZATION, DEFAULT_OVERHEAD, DEFAULT_INPUT_PER_OUTPUT = 0.6, 0.0, 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; returns the exit status."""
    options = _parser().parse_args(arguments)
    return command_line.run(lambda: _run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m conch_load.cost",
        allow_abbrev=False,
        description="$ per million tokens, GPUs and $ per hour for a load, and the break-even with APIs. Without "
        "--tokens-per-s or --measured it fills in the table of comparison.yaml.",
    )
    add = parser.add_argument
    add("--tokens-per-s", type=float, help="throughput of one replica, tokens/s")
    add("--measured", type=Path, metavar="FOLDER", help="the same from a run, or from make load-slo's folder")
    add("--gpu", help="what it ran on, as in gpu_prices.yaml")
    add("--gpus", type=int, help="GPUs of one replica; 1 without it")
    add("--usd-per-gpu-hour", type=float, help="in the place of gpu_prices.yaml")
    add("--usd-per-hour", type=float, help="of one replica's machine, where it has no GPU")
    add("--table", type=Path, default=COMPARISON_FILE, help="rows to compare; comparison.yaml says how")
    add("--gpu-prices", type=Path, default=GPU_PRICES_FILE, help="prices of GPUs")
    add("--api", action="append", metavar="PROVIDER/MODEL", help="compare with this one (may be repeated)")
    add("--api-price", action="append", metavar="NAME=IN/OUT", help="an API's price by hand, $ per million tokens")
    add("--utilization", type=float, help=f"share of the throughput used over the day ({DEFAULT_UTILIZATION:g})")
    add("--overhead", type=float, help=f"on top of the GPUs' price, as a share ({DEFAULT_OVERHEAD:g})")
    add("--input-per-output", type=float, help=f"input tokens for each output token ({DEFAULT_INPUT_PER_OUTPUT:g})")
    add("--tokens", choices=("output", "total"), default="output", help="which tokens the throughput counts (output)")
    add("--target-tokens-per-s", type=float, help="the load that GPUs and $ per hour are reckoned for")
    add("--claim-tokens-per-day", type=float, help="test that self-hosting pays above this (1e6)")
    add("--date", type=_day, help="of the prices of APIs (today)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON")
    form.add_argument("--markdown", action="store_true", help="as Markdown")
    return parser


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a day such as 2026-11-24 is expected, got {text}") from None


def _run(options: argparse.Namespace) -> int:
    given = [parse_api_price(one) for one in options.api_price or ()]
    measured = _measured(options)
    report = make_report(_comparison(options, measured), _assumptions(options, measured), _prices(options), given)
    if options.json:
        print(json.dumps(as_json(report), indent=2, ensure_ascii=False))
    else:
        print(as_markdown(report) if options.markdown else as_text(report))
    return 0


def _measured(options: argparse.Namespace) -> Measured | None:
    """The throughput that was given or measured; None: the table's."""
    if options.measured is not None and options.tokens_per_s is not None:
        raise InvalidArgumentError("only one of --measured and --tokens-per-s can be given")
    if options.measured is not None:
        return read_measured(options.measured, options.tokens)
    if options.tokens_per_s is not None:
        rate = formulas.positive("tokens_per_s", options.tokens_per_s)
        return Measured(rate, DEFAULT_INPUT_PER_OUTPUT, GIVEN)
    return None


def _assumptions(options: argparse.Namespace, measured: Measured | None) -> Assumptions:
    sources = {}

    def chosen(name: str, default: float) -> float:
        value = getattr(options, name)
        sources[name] = f"assumed; --{name.replace('_', '-')} changes it" if value is None else GIVEN
        return default if value is None else float(value)

    ratio = DEFAULT_INPUT_PER_OUTPUT if measured is None else measured.input_per_output
    assumptions = Assumptions(
        chosen("utilization", DEFAULT_UTILIZATION),
        chosen("overhead", DEFAULT_OVERHEAD),
        chosen("input_per_output", ratio),
        options.tokens,
        options.date or datetime.now(timezone.utc).date(),
        sources,
    )
    if options.measured is not None and options.input_per_output is None:
        sources["input_per_output"] = "measured"
    return assumptions


def _comparison(options: argparse.Namespace, measured: Measured | None) -> Comparison:
    """The file's rows, or the one row that the command line describes; with the file's APIs unless others are given."""
    table = read_comparison(options.table)
    update: dict[str, object] = {}
    if options.api or options.api_price:
        update["apis"] = tuple(options.api or ())
    for name in ("target_tokens_per_s", "claim_tokens_per_day"):
        if getattr(options, name) is not None:
            update[name] = formulas.positive(name, getattr(options, name))
    if measured is not None:
        update["rows"] = (_row(options, measured),)
        update.setdefault("target_tokens_per_s", None)
    elif options.gpu or options.gpus is not None or options.usd_per_hour is not None:
        raise InvalidArgumentError("--gpu, --gpus and --usd-per-hour need a throughput: --tokens-per-s or --measured")
    return table.model_copy(update=update)


def _row(options: argparse.Namespace, measured: Measured) -> Row:
    if (options.gpu is None) == (options.usd_per_hour is None):
        raise InvalidArgumentError("one of --gpu and --usd-per-hour must be given with a throughput")
    rate, source = measured.tokens_per_s, measured.source
    if options.usd_per_hour is not None:
        hourly = formulas.not_negative("usd_per_hour", options.usd_per_hour)
        return Row(name="this machine", tokens_per_s=rate, usd_per_hour=hourly, source=source, machine_source=GIVEN)
    gpus = 1 if options.gpus is None else options.gpus
    formulas.positive("gpus", gpus)
    name = f"{gpus}×{options.gpu}"
    return Row(name=name, tokens_per_s=rate, gpu=options.gpu, gpus=gpus, source=source, machine_source=GIVEN)


def _prices(options: argparse.Namespace) -> GpuPrices:
    prices = read_gpu_prices(options.gpu_prices)
    if options.usd_per_gpu_hour is None:
        return prices
    if options.gpu is None:
        raise InvalidArgumentError("--usd-per-gpu-hour needs --gpu")
    hourly = formulas.not_negative("usd_per_gpu_hour", options.usd_per_gpu_hour)
    own = GpuPrice(usd_per_hour=hourly, as_of=None, source=GIVEN)
    return prices.model_copy(update={"gpus": {**prices.gpus, options.gpu: own}})
