"""The command build_scripts/plan_memory.py."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from conch.command_line import run
from conch.errors import InvalidArgumentError
from conch.memory_plan.architecture import Architecture, parse_architecture, read_architecture
from conch.memory_plan.deployment import Deployment, Dtype, KvCacheType, Quantization
from conch.memory_plan.from_spec import deployment_of, dtype_of
from conch.memory_plan.gpus import GIB, Gpu, find_gpu, known_gpus
from conch.memory_plan.known_models import published_config
from conch.memory_plan.planner import Verdict, plan_memory
from conch.memory_plan.remedies import remedies
from conch.memory_plan.report import as_json, as_text
from conch.spec import load_spec

EXIT_DOES_NOT_FIT = 3
_AUTO = "auto"
_DEFAULTS = Deployment()
_NUMBERS = {
    "tp_size": "GPUs that share each layer",
    "pp_size": "groups of GPUs that share the layers",
    "max_batch_size": "sequences in flight at once",
    "max_input_len": "most tokens of a prompt (default: max_seq_len - 1)",
    "max_seq_len": "most tokens of prompt and answer (default: the model's context)",
    "max_num_tokens": "most tokens computed in one step",
    "max_beam_width": "beams of one sequence",
    "max_tokens_in_paged_kv_cache": "most tokens of the KV cache (default: what the free memory holds)",
    "tokens_per_block": "tokens in one block of the KV cache",
    "group_size": "weights that share a scale, for int4_awq",
}


def main(arguments: list[str] | None = None) -> int:
    """Print the memory plan of one deployment; returns 0 if it fits, 3 if not, 1 for what cannot be."""
    options = _parser().parse_args(arguments)
    return run(lambda: _plan(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="plan_memory.py", allow_abbrev=False,
        description="How much memory a model takes on each GPU, and how many tokens and sequences fit. "
        "Exit status: 0 it fits, 3 it does not, 1 it cannot be. Formulas: docs/memory_planner.md.",
    )  # fmt: skip
    parser.add_argument("--config", type=Path, help="config.json of a Hugging Face model, or its folder; can be left "
                        "out with a --spec whose model the planner knows")  # fmt: skip
    parser.add_argument("--gpu", required=True, help=", ".join(gpu.name for gpu in known_gpus()))
    parser.add_argument("--gpu-memory-gib", type=float, help="memory of each GPU, if it is not that of the card")
    parser.add_argument("--spec", type=Path, help="a spec to take the settings from; options go before it")
    parser.add_argument("--dtype", choices=[_AUTO, *(d.value for d in Dtype)],
                        help="auto (the default): that of the checkpoint, float32 as float16")  # fmt: skip
    parser.add_argument("--quantization", choices=[q.value for q in Quantization])
    parser.add_argument("--kv-cache-type", choices=[k.value for k in KvCacheType])
    for name, meaning in _NUMBERS.items():
        default = getattr(_DEFAULTS, name)
        shown = f"{meaning} (default: {default})" if default else meaning
        parser.add_argument("--" + name.replace("_", "-"), type=_number, metavar="N", help=shown)
    parser.add_argument("--kv-cache-free-gpu-mem-fraction", type=float, metavar="X",
                        help="part of the free memory that becomes KV cache "
                        f"(default: {_DEFAULTS.kv_cache_free_gpu_mem_fraction})")  # fmt: skip
    parser.add_argument("--use-parallel-embedding", action="store_true", help="the embedding table is split, too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got {text!r}")
    return int(text)


def _plan(options: argparse.Namespace) -> int:
    model, gpu = _model(options), _gpu(options)
    plan = plan_memory(model, _deployment(options, model, gpu), gpu)
    found = remedies(plan)
    print(as_json(plan, found) if options.json else as_text(plan, found), end="")
    return EXIT_DOES_NOT_FIT if plan.verdict is Verdict.DOES_NOT_FIT else 0


def _model(options: argparse.Namespace) -> Architecture:
    if options.config is not None:
        return read_architecture(options.config)
    if options.spec is None:
        raise InvalidArgumentError("config must be given: the model's config.json, or its folder")
    uri = load_spec(options.spec).source.uri
    published = published_config(uri)
    if published is None:
        raise InvalidArgumentError(f"config must be given: the planner does not know {uri} by itself")
    return parse_architecture(published)


def _gpu(options: argparse.Namespace) -> Gpu:
    gpu = find_gpu(options.gpu)
    gib = options.gpu_memory_gib
    if gib is None:
        return gpu
    if not math.isfinite(gib) or not 0 < gib <= 4096:
        raise InvalidArgumentError(f"gpu_memory_gib must be in (0, 4096], got {gib}")
    return gpu.with_memory(int(gib * GIB))


def _deployment(options: argparse.Namespace, model: Architecture, gpu: Gpu) -> Deployment:
    base = Deployment(dtype=dtype_of(model))
    if options.spec is not None:
        base = deployment_of(load_spec(options.spec), model, gpu)
    given: dict[str, Any] = {name: getattr(options, name) for name in (*_NUMBERS, "kv_cache_free_gpu_mem_fraction")}
    if options.dtype is not None:
        given["dtype"] = dtype_of(model) if options.dtype == _AUTO else Dtype(options.dtype)
    if options.quantization is not None:
        given["quantization"] = Quantization(options.quantization)
    if options.kv_cache_type is not None:
        given["kv_cache_type"] = KvCacheType(options.kv_cache_type)
    given["use_parallel_embedding"] = options.use_parallel_embedding or None
    return replace(base, **{name: value for name, value in given.items() if value is not None})
