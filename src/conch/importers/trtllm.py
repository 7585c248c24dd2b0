"""Settings of TensorRT-LLM: a build_config (dict, JSON, YAML), an engine's config.json, and names of old versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from conch.importers import values
from conch.importers.documents import fields, read_mapping
from conch.importers.draft import Draft, Field, Imported
from conch.importers.models import ARCHITECTURE, Given, complete_tensorrt_llm, name_model, name_spec
from conch.importers.trtllm_fields import (
    ARCHITECTURES,
    BACKEND,
    BUILD,
    DROPPED,
    FLAGS,
    KV_CACHE,
    PLUGINS,
    QFORMAT,
    RULES,
    SECTIONS,
    SPECULATION,
    TABLES,
    TRT,
    Rule,
)
from conch.spec_trtllm import CONVERTERS, VERSION
from conch.spec_trtllm_sections import Plugins


def import_trtllm(text: str, origin: str, given: Given) -> Imported:
    """Read settings of TensorRT-LLM and write a spec for the runtime tensorrtllm.

    Raises:
        InvalidArgumentError: not such a file, or fields that contradict each other; all of them, by name.
    """
    draft = Draft()
    draft.assume("engine.runtime", "tensorrtllm", "compiled for TensorRT-LLM")
    found = list(_flat(read_mapping(text, origin), text))
    by_name = {field.name: field for field in found}
    for field in found:
        _one(draft, field, by_name)
    _lengths(draft, by_name)
    name_model(draft, given, by_name.get("model") or by_name.get("model_dir"))
    _assume(draft, by_name)
    context = by_name.get("max_position_embeddings")
    complete_tensorrt_llm(draft, given, context.value if context and isinstance(context.value, int) else None)
    name_spec(draft, given)
    return draft.finish(origin, given.strict)


def _flat(data: dict[str, Any], text: str) -> Iterator[Field]:
    where = 0
    for field, where in fields(data, text):
        if field.name in SECTIONS and isinstance(field.value, dict):
            inner = {key: value for key, value in field.value.items() if not isinstance(value, dict) or not value}
            nested = {key: value for key, value in field.value.items() if isinstance(value, dict) and value}
            for inside, _ in fields(inner, text, where):
                yield _plugin_dtype(inside, field.name)
            yield from (f for key, value in nested.items() for f in _nested(key, value, text, where))
        else:
            yield field


def _nested(key: str, value: dict[str, Any], text: str, where: int) -> Iterator[Field]:
    if key in SECTIONS:
        for field, _ in fields(value, text, where):
            yield _plugin_dtype(field, key)
    else:
        yield from (field for field, _ in fields({key: value}, text, where))


def _plugin_dtype(field: Field, section: str) -> Field:
    """PluginConfig has a dtype of its own, which is that of the model."""
    return Field("plugin_config.dtype", field.value, field.line) if (section, field.name) == (
        "plugin_config", "dtype") else field  # fmt: skip


def _one(draft: Draft, field: Field, by_name: dict[str, Field]) -> None:
    name = field.name
    if name in _SPECIAL:
        _SPECIAL[name](draft, field, by_name)
    elif name in Plugins.model_fields:
        _plugin(draft, field, f"{PLUGINS}.{name}")
    elif name in FLAGS:
        _flag(draft, field)
    elif name in RULES:
        _ruled(draft, field, RULES[name])
    elif name in DROPPED:
        draft.drop(field, DROPPED[name])
    else:
        draft.unknown(field, f"TensorRT-LLM {VERSION}")


def _ruled(draft: Draft, field: Field, rule: Rule) -> None:
    if not rule.key:
        draft.drop(field, rule.note)
        return
    if field.value is None:
        draft.drop(field, "it is not set")
        return
    if rule.kind == "plugin":
        _plugin(draft, field, rule.key)
        return
    if rule.kind in TABLES:
        known, value = values.choice(draft, field, TABLES[rule.kind])
        if known and value is None:
            draft.drop(field, "it is not set")
        elif known:
            draft.map(field, rule.key, value, rule.note)
        return
    value = field.value
    if rule.kind != "as_is":
        value = values.whole(draft, field) if rule.kind == "whole" else values.truth(draft, field)
    if value is not None:
        draft.map(field, rule.key, list(value) if isinstance(value, (tuple, set)) else value, rule.note)


def _plugin(draft: Draft, field: Field, key: str) -> None:
    value = field.value
    feature = isinstance(Plugins.model_fields[key.rsplit(".", 1)[-1]].default, bool)
    if feature or key.endswith("tokens_per_block"):
        read = values.truth(draft, field) if feature else values.whole(draft, field)
        if read is not None:
            draft.map(field, key, read)
    elif value in (None, False) or str(value).casefold() in ("disable", "none", "false"):
        if Plugins.model_fields[key.rsplit(".", 1)[-1]].default is None:
            draft.drop(field, "it is not set")
        else:
            draft.map(field, key, None, "disabled")
    else:
        on = value is True or str(value).casefold() in ("enable", "true")
        draft.map(field, key, "auto" if on else value)


def _flag(draft: Draft, field: Field) -> None:
    on = values.truth(draft, field)
    if on:
        draft.map(field, KV_CACHE if "kv_cache" in field.name else QFORMAT, FLAGS[field.name])
    elif on is not None:
        draft.drop(field, "it is off")


def _architecture(draft: Draft, field: Field, _: dict[str, Field]) -> None:
    value = str(field.value)
    known = ARCHITECTURES.get(value.casefold())
    if known is None:
        draft.refuse(f"{field.name} must be a decoder-only model, one of {', '.join(CONVERTERS)}, got {field.shown}")
    else:
        draft.map(field, ARCHITECTURE, known, "" if known == value else "by the name of config.json")


def _output_len(draft: Draft, field: Field, by_name: dict[str, Field]) -> None:
    answer, prompt = values.whole(draft, field), by_name.get("max_input_len")
    if answer is None:
        return
    if prompt is None:
        if "max_seq_len" not in by_name:
            draft.refuse(f"{field.name} needs max_input_len: TensorRT-LLM has their sum, max_seq_len")
        else:
            draft.drop(field, "max_seq_len says how long a sequence gets")
    else:
        length = _quietly(prompt) or 0  # if it is no number, that is refused where it stands
        draft.map(field, "engine.max_seq_len", length + answer,
                  f"the old name; max_input_len {length} + {field.name} {answer}")  # fmt: skip


def _quietly(field: Field) -> int | None:
    """The whole number of a field that is accounted for elsewhere."""
    return values.whole(Draft(), field)


def _paged(draft: Draft, field: Field, _: dict[str, Field]) -> None:
    on = values.truth(draft, field) if field.value is not None else True
    if on is False:
        draft.refuse(f"{field.name} must be true: requests are batched in flight, which needs it; got {field.shown}")
    elif on:
        draft.map(field, f"{BUILD}.kv_cache_type", "paged")


def _kv_cache_type(draft: Draft, field: Field, _: dict[str, Field]) -> None:
    if field.value is None:
        draft.drop(field, "it is not set")
        return
    word = str(field.value).rsplit(".", 1)[-1].casefold()  # KVCacheType.PAGED
    draft.map(field, f"{BUILD}.kv_cache_type", word)


def _speculation(draft: Draft, field: Field, _: dict[str, Field]) -> None:
    plain = Field(field.name, str(field.value).rsplit(".", 1)[-1], field.line)
    known, value = values.choice(draft, plain, SPECULATION)
    if known and value is None:
        draft.drop(field, "it is not set")
    elif known:
        draft.map(field, f"{BUILD}.speculative_decoding_mode", value)


def _weight_only(draft: Draft, field: Field, by_name: dict[str, Field]) -> None:
    precision = by_name.get("weight_only_precision")
    on = values.truth(draft, field)
    if on is None:
        return
    if not on:
        draft.drop(field, "it is off")
        return
    formats = {"int8": "int8_wo", "int4": "int4_wo", "int4_awq": "int4_awq"}
    known, value = values.choice(draft, precision or Field("weight_only_precision", "int8"), formats)
    if known:
        draft.map(field, QFORMAT, value)


def _weight_only_precision(draft: Draft, field: Field, by_name: dict[str, Field]) -> None:
    switch = by_name.get("use_weight_only")
    draft.drop(field, "it goes with use_weight_only" if switch is not None else "use_weight_only is not there")


def _world_size(draft: Draft, field: Field, by_name: dict[str, Field]) -> None:
    world = values.whole(draft, field)
    if world is None:
        return
    sizes: dict[str, int] = {}
    for key in ("tp_size", "pp_size"):
        names = [name for name, rule in RULES.items() if rule.key == f"{TRT}.{key}" and name in by_name]
        sizes[key] = (_quietly(by_name[names[0]]) if names else 1) or 1
    if "tp_size" not in by_name and "tensor_parallel" not in by_name and "tensor_parallel_size" not in by_name:
        if world % sizes["pp_size"] == 0:
            draft.map(field, f"{TRT}.tp_size", world // sizes["pp_size"], "divided by pp_size")
            return
    elif world == sizes["tp_size"] * sizes["pp_size"]:
        draft.drop(field, "it is tp_size * pp_size")
        return
    draft.refuse(f"{field.name} must be tp_size * pp_size = {sizes['tp_size'] * sizes['pp_size']}, got {world}")


def _version(draft: Draft, field: Field, _: dict[str, Field]) -> None:
    same = str(field.value) == VERSION
    draft.drop(field, "the same version" if same else f"the engine is compiled anew, by {VERSION}")


def _model(_draft: Draft, _field: Field, _: dict[str, Field]) -> None:
    """Accounted for by name_model."""


def _kv_fraction(draft: Draft, field: Field, _: dict[str, Field]) -> None:
    fraction = values.number(draft, field, 0, 1)
    if fraction is not None:
        draft.map(field, f"{BACKEND}.kv_cache_free_gpu_mem_fraction", min(fraction, 0.99),
                  "1 leaves nothing to reserve" if fraction == 1 else "")  # fmt: skip


def _lora(draft: Draft, field: Field, _: dict[str, Field]) -> None:
    value = field.value
    if value in (None, [], (), ""):
        draft.drop(field, "it is not set")
        return
    draft.map(field, f"{BUILD}.{field.name}", [value] if isinstance(value, str) else list(value)
              if isinstance(value, (list, tuple)) else value)  # fmt: skip


def _opt_num_tokens(draft: Draft, field: Field, by_name: dict[str, Field]) -> None:
    profiles = by_name.get("multiple_profiles")
    if field.value is None:
        draft.drop(field, "it is not set")
    elif profiles is not None and profiles.value not in (False, None, "disable"):
        draft.drop(field, "multiple_profiles chooses kernels for many sizes")
    else:
        size = values.whole(draft, field)
        if size is not None:
            draft.map(field, f"{BUILD}.opt_num_tokens", size)


def _plugins_dtype(draft: Draft, field: Field, _: dict[str, Field]) -> None:
    draft.drop(field, "plugins take the model's dtype")


_SPECIAL: dict[str, Callable[[Draft, Field, dict[str, Field]], None]] = {
    "architecture": _architecture, "architectures": _architecture, "max_output_len": _output_len,
    "max_new_tokens": _output_len, "paged_kv_cache": _paged, "kv_cache_type": _kv_cache_type,
    "speculative_decoding_mode": _speculation, "use_weight_only": _weight_only,
    "weight_only_precision": _weight_only_precision, "world_size": _world_size, "version": _version,
    "model": _model, "model_dir": _model, "kv_cache_free_gpu_mem_fraction": _kv_fraction,
    "free_gpu_memory_fraction": _kv_fraction, "lora_dir": _lora, "lora_target_modules": _lora,
    "plugin_config.dtype": _plugins_dtype, "opt_num_tokens": _opt_num_tokens,
}  # fmt: skip


def _lengths(draft: Draft, by_name: dict[str, Field]) -> None:
    prompt, whole = draft.get("engine.max_input_len"), draft.get("engine.max_seq_len")
    if isinstance(prompt, int) and isinstance(whole, int) and prompt >= whole and "max_output_len" not in by_name:
        draft.refuse(f"max_input_len must be < max_seq_len {whole} (one token of answer must fit), got {prompt}")


def _assume(draft: Draft, by_name: dict[str, Field]) -> None:
    draft.assume("engine.max_batch_size", 64, "Conch's default; TensorRT-LLM's is 2048, which takes much memory")
    if draft.get(f"{PLUGINS}.use_paged_context_fmha") is False:
        draft.assume("engine.enable_kv_cache_reuse", False, "reuse needs use_paged_context_fmha, which is off")
    if draft.get("engine.max_input_len") is None:
        step = draft.get("engine.max_num_tokens") or 8192
        length = draft.get("engine.max_seq_len")
        if isinstance(length, int) and isinstance(step, int) and length - 1 > step:
            draft.assume("engine.max_input_len", step, "a prompt must go into one step of max_num_tokens")
