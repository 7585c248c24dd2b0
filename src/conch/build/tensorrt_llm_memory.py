"""Whether a model fits the GPUs, by the planner: for the plan of a build, and before one is begun."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from conch.build.huggingface import CONFIG_FILE, read_json
from conch.errors import BuildError, ConchError
from conch.memory_plan.architecture import Architecture
from conch.memory_plan.from_spec import engine_deployment, in_spec_words
from conch.memory_plan.gpus import GIB, MIB, Gpu, known_gpus
from conch.memory_plan.known_models import published_config
from conch.memory_plan.planner import MemoryPlan, Verdict, plan_memory
from conch.memory_plan.remedies import remedies
from conch.memory_plan.report import verdict_lines
from conch.spec import Engine, ModelSpec
from conch.spec_trtllm import TensorRtLlm
from conch.trtllm.engine_match import Host
from conch.trtllm.model_config import check_model

FORMULAS = "docs/memory_planner.md"


def require_memory(model: Architecture, engine: Engine, settings: TensorRtLlm, host: Host) -> str:
    """Refuse what cannot fit this machine's GPUs.

    Only what is certain is refused, which is weights and one sequence's KV cache: the other sizes are estimates.

    Returns:
        What the planner has to say of the rest; empty where it fits.

    Raises:
        BuildError: names both sizes, and what would help.
    """
    if not host.gpu_memory_mib:
        return ""
    major, minor = host.compute_capability.split(".")
    gpu = Gpu(host.gpu_name, host.gpu_memory_mib * MIB, (int(major), int(minor)))
    try:
        plan = plan_memory(model, engine_deployment(engine, settings, model), gpu)
    except ConchError as error:
        raise BuildError(in_spec_words(error.message), mend=error.mend) from None
    helpful = "; ".join(in_spec_words(remedy.change) for remedy in remedies(plan))
    if plan.exceeds_memory and not settings.build.weight_streaming:
        raise BuildError(
            f"each GPU of {settings.world_size} must hold {plan.weight_bytes / GIB:.2f} GiB of weights and "
            f"{plan.sequence_bytes / GIB:.2f} GiB of KV cache for one sequence of engine.max_seq_len, and has "
            f"{plan.memory_bytes / GIB:.2f} GiB in all ({host.gpu_name})",
            mend=f"Each of these would help: {helpful}" if helpful else "Take larger GPUs",
        )
    return "" if plan.verdict is Verdict.FITS else f"memory, estimated: {verdict_lines(plan)[0]}"


def plan_lines(spec: ModelSpec, config: Mapping[str, Any] | None, origin: Path | None) -> list[str]:
    """What the planner says of a spec, on each kind of GPU that it may be compiled for.

    Args:
        spec: of the runtime tensorrtllm.
        config: the model's config.json; None where nobody knows it yet.
        origin: its file; None: as the Hub publishes it.

    Raises:
        BuildError: the model cannot be cut up or quantized as the spec asks.
    """
    settings = spec.engine.tensorrt_llm
    assert settings is not None
    if config is None:
        return ["  not known before the model is fetched; with its config.json: build_scripts/plan_memory.py --spec"]
    model = check_model(config, spec.engine, settings)
    plans = list(_plans(spec.engine, settings, model))
    by_verdict: dict[str, list[str]] = {}
    for plan in plans:
        by_verdict.setdefault(_verdict(plan), []).append(plan.gpu.name)
    if not plans:
        return [f"  no GPU of compute capability {settings.compute_capability} is known to the planner"]
    return [
        f"  numbers of the model: {'as the Hub publishes them' if origin is None else origin}",
        f"  each GPU of {settings.world_size}: {_sizes(plans[0])}",
        f"  a token takes {plans[0].kv_bytes_per_token:,} bytes of each GPU's KV cache",
        *(f"  {', '.join(names)}: {verdict}" for verdict, names in by_verdict.items()),
    ]


def known_config(spec: ModelSpec, folder: Path | None) -> tuple[Mapping[str, Any] | None, Path | None]:
    """The config.json of a spec's model and its file: of the checkpoint's folder, else as published, else nothing."""
    if folder is not None and (folder / CONFIG_FILE).is_file():
        return read_json(folder / CONFIG_FILE), folder / CONFIG_FILE
    return published_config(spec.source.uri), None


def _plans(engine: Engine, settings: TensorRtLlm, model: Architecture) -> Iterator[MemoryPlan]:
    deployment = engine_deployment(engine, settings, model)
    for gpu in known_gpus():
        capability = "{}.{}".format(*gpu.compute_capability)
        if settings.compute_capability not in (None, capability):
            continue
        try:
            yield plan_memory(model, deployment, gpu)
        except ConchError:  # this GPU cannot compute it
            continue


def _sizes(plan: MemoryPlan) -> str:
    parts = {
        "weights": plan.weight_bytes, "activations": plan.activation_bytes, "buffers": plan.buffer_bytes,
        "CUDA and runtime": plan.overhead_bytes,
    }  # fmt: skip
    sizes = ", ".join(f"{name} {size / GIB:.2f} GiB" for name, size in parts.items())
    return f"{sizes} (all but the weights are estimates: {FORMULAS})"


def _verdict(plan: MemoryPlan) -> str:
    text = verdict_lines(plan)[0]
    found = remedies(plan) if plan.verdict is Verdict.DOES_NOT_FIT else ()
    return text + (f" What would help: {'; '.join(in_spec_words(r.change) for r in found)}" if found else "")
