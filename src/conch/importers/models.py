"""Which model a file means: its source, architecture and name in the spec."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conch.errors import InvalidArgumentError
from conch.importers.draft import Draft, Field
from conch.memory_plan.gpus import find_gpu
from conch.spec_trtllm import CONVERTERS

SOURCE, NAME = "source.uri", "name"
ARCHITECTURE = "engine.tensorrt_llm.architecture"
CAPABILITY = "engine.tensorrt_llm.compute_capability"
MAX_SEQ_LEN = "engine.max_seq_len"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_REVISION = re.compile(r"[\w./-]+")
_QUANTIZED = re.compile(r"(?i)(?:^|[-_./])(awq|gptq|gguf|exl2|bnb|int4|int8|fp8|nvfp4|w4a16|w8a8)(?:$|[-_./])")
# Words in a model's name -> its architecture; the first that is found counts.
_BY_NAME = (
    (r"mixtral|8x\d+b", "MixtralForCausalLM"),
    (r"mi(ni)?stral|zephyr", "MistralForCausalLM"),
    (r"qwen-?3.*a\d+b", "Qwen3MoeForCausalLM"),
    (r"qwen-?3", "Qwen3ForCausalLM"),
    (r"qwen.*a[\d.]+b", "Qwen2MoeForCausalLM"),
    (r"qwen-?(1\.5|2)", "Qwen2ForCausalLM"),
    (r"llama|smollm|vicuna", "LlamaForCausalLM"),
)


@dataclass(frozen=True)
class Given:
    """What the person who imports says beside the file.

    Attributes:
        source: uri of the checkpoint, instead of the file's.
        name: of the spec.
        architecture: as the model's config.json names it.
        max_seq_len: most tokens of a sequence, where the file says nothing.
        gpu: to compile for, by its name in the planner's table.
        config: config.json of the model: architecture and context.
        strict: unknown fields are refused.
        runtime: of the spec, where a system's settings fit more than one: vllm or tensorrtllm, for vLLM's.
    """

    source: str | None = None
    name: str | None = None
    architecture: str | None = None
    max_seq_len: int | None = None
    gpu: str | None = None
    config: Mapping[str, Any] | None = None
    strict: bool = False
    runtime: str = "vllm"


def name_model(
    draft: Draft, given: Given, model: Field | None, revision: Field | None = None, *, quantized: bool = False
) -> None:
    """Set source.uri from the field that names the model, or from what was given; ``quantized``: it may be, already."""
    if given.source is not None:
        draft.assume(SOURCE, given.source, "given with --source")
        for field in (model, revision):
            if field is not None:
                draft.drop(field, "--source is given")
        return
    if model is None:
        draft.refuse("the file names no model", mend="Name it with --source hf://org/name@revision, or a folder")
        return
    value = str(model.value).strip()
    is_hub_id = _HUB_ID.fullmatch(value) and not Path(value).exists()
    if _QUANTIZED.search(value) and not quantized:
        draft.refuse(f"{model.name} must be a checkpoint that is not quantized, got {model.shown}",
                     mend="Name the original with --source: it is quantized when it is built")  # fmt: skip
    elif is_hub_id:
        at, note = "main", "main moves: name a commit, so that a build can be repeated"
        if revision is not None and _REVISION.fullmatch(str(revision.value)):
            at, note = str(revision.value), ""
            draft.map(revision, "source.uri", f"hf://{value}@{at}")
        elif revision is not None:
            draft.refuse(f"{revision.name} must be a commit, branch or tag, got {revision.shown}")
        draft.map(model, SOURCE, f"hf://{value}@{at}", note)
    else:
        draft.map(model, SOURCE, value, "a path as it is here, not in the container it was written for")
        if revision is not None:
            draft.drop(revision, "a folder has no revision")


def complete_tensorrt_llm(draft: Draft, given: Given, context_hint: int | None = None) -> None:
    """Set what a spec for TensorRT-LLM needs and the file did not say."""
    config = given.config or {}
    _architecture(draft, given, config)
    if given.max_seq_len is not None:
        draft.assume(MAX_SEQ_LEN, given.max_seq_len, "given with --max-seq-len")
    context = config.get("max_position_embeddings", context_hint)
    if isinstance(context, int) and not isinstance(context, bool):
        draft.assume(MAX_SEQ_LEN, context, "the model's context")
    if draft.get(MAX_SEQ_LEN) is None:
        draft.refuse("the file does not say how long a sequence gets, and an engine is compiled for that",
                     mend="Say it with --max-seq-len, or name the model's config.json with --config")  # fmt: skip
    if given.gpu is not None:
        gpu = find_gpu(given.gpu)
        draft.assume(CAPABILITY, "{}.{}".format(*gpu.compute_capability), f"of --gpu {gpu.name}")


def name_spec(draft: Draft, given: Given) -> None:
    """Set the name of the spec, from that of the model where nothing else says it."""
    if given.name is not None:
        draft.assume(NAME, given.name, "given with --name")
    if draft.get(NAME) is None:
        draft.assume(NAME, as_name(str(draft.get(SOURCE) or "model")), "from the model")


def as_name(text: str) -> str:
    """A name that a spec may have, as near to a text as possible."""
    last = text.split("://")[-1].rstrip("/").split("@")[0].rsplit("/", 1)[-1]
    last = re.sub(r"\.gguf$", "", last, flags=re.IGNORECASE)
    cleaned = re.sub(r"[^a-z0-9._-]+", "-", last.lower())
    cleaned = re.sub(r"\.{2,}", ".", cleaned).lstrip("._-")[:63]
    return cleaned or "model"


def _architecture(draft: Draft, given: Given, config: Mapping[str, Any]) -> None:
    if given.architecture is not None:
        if draft.get(ARCHITECTURE) not in (None, given.architecture):
            draft.refuse(f"--architecture {given.architecture} contradicts {draft.get(ARCHITECTURE)} of the file")
        draft.assume(ARCHITECTURE, given.architecture, "given with --architecture")
    named = config.get("architectures")
    if isinstance(named, list) and named and isinstance(named[0], str):
        draft.assume(ARCHITECTURE, named[0], "of the model's config.json")
    source = str(draft.get(SOURCE) or "")
    for pattern, architecture in _BY_NAME:
        if re.search(pattern, source.rsplit("@", 1)[0].lower()):
            draft.assume(ARCHITECTURE, architecture, "guessed from the model's name; the build compares it with "
                                                     "the model's config.json")  # fmt: skip
            break
    if draft.get(ARCHITECTURE) is None:
        draft.refuse("the file does not say which architecture the model has",
                     mend=f"Say it with --architecture, one of {', '.join(CONVERTERS)}, or name the model's "
                          "config.json with --config")  # fmt: skip


def read_config(path: Path) -> dict[str, Any]:
    """Read a config.json, or that of a folder.

    Raises:
        InvalidArgumentError: it cannot be read, or is not a JSON object.
    """
    import json

    path = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"config {path} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise InvalidArgumentError(f"config {path} must hold a JSON object")
    return config
