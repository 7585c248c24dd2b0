"""Settings of vLLM: the YAML file that ``vllm serve --config`` reads; names with dashes or underscores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from conch.importers import values
from conch.importers.documents import fields, read_mapping
from conch.importers.draft import Draft, Field, Imported
from conch.importers.models import MAX_SEQ_LEN, NAME, Given, as_name, name_model, name_spec
from conch.importers.vllm_others import why_dropped
from conch.importers.vllm_trtllm import import_vllm_for_trtllm
from conch.spec_vllm import VERSION, Dtype, KvCacheDtype, LoadFormat, Quantization

_VLLM = "engine.vllm"
_REUSE = "engine.enable_kv_cache_reuse"
_CHUNKED = f"{_VLLM}.enable_chunked_prefill"
_SECRETS = {"api-key", "hf-token", "ssl-keyfile"}
# Whole numbers: name -> key, least value.
_NUMBERS = {
    "max-model-len": (MAX_SEQ_LEN, 1), "max-num-seqs": ("engine.max_batch_size", 1),
    "max-num-batched-tokens": ("engine.max_num_tokens", 1), "seed": (f"{_VLLM}.seed", 0),
    **{name: (f"{_VLLM}.{name.replace('-', '_')}", 1) for name in (
        "tensor-parallel-size", "pipeline-parallel-size", "block-size", "kv-cache-memory-bytes", "max-loras",
        "max-lora-rank", "max-cpu-loras")},
}  # fmt: skip
_CHOICES: dict[str, tuple[str, ...]] = {
    "dtype": get_args(Dtype), "quantization": get_args(Quantization), "kv-cache-dtype": get_args(KvCacheDtype),
    "load-format": get_args(LoadFormat), "scheduling-policy": ("fcfs", "priority"),
}  # fmt: skip
# Truth values: name -> key, whether true there is true here.
_SWITCHES = {
    **{name: (f"{_VLLM}.{name.replace('-', '_')}", True) for name in (
        "enable-chunked-prefill", "enforce-eager", "trust-remote-code", "enable-expert-parallel",
        "disable-custom-all-reduce", "async-scheduling")},
    "no-enable-chunked-prefill": (_CHUNKED, False), "no-async-scheduling": (f"{_VLLM}.async_scheduling", False),
    "enable-prefix-caching": (_REUSE, True), "no-enable-prefix-caching": (_REUSE, False),
}  # fmt: skip
_CONTRARY = ("enable-prefix-caching", "enable-chunked-prefill", "async-scheduling")
_FRONT = "Triton serves, not vLLM's front; put a gateway before it"
_REQUEST = "a control of each request here"
_BUILD = "the build fetches the checkpoint itself; HF_TOKEN in its environment"
_OURS = "Conch's own metrics and log"
_GONE = f"vLLM {VERSION} has no such setting"
_NOT_YET = "the section engine.vllm has no such key"
_DROPPED = {
    **dict.fromkeys(("tokenizer", "tokenizer-mode", "tokenizer-revision", "skip-tokenizer-init"),
                    "the checkpoint's tokenizer is used"),
    **dict.fromkeys(("chat-template", "chat-template-content-format"), "the checkpoint's chat template is used"),
    **dict.fromkeys(("enable-auto-tool-choice", "tool-call-parser", "tool-parser-plugin", "reasoning-parser",
                     "enable-reasoning", "response-role", "return-tokens-as-token-ids", "api-key", "root-path",
                     "allowed-origins", "allowed-methods", "allowed-headers", "allow-credentials", "middleware",
                     "ssl-keyfile", "ssl-certfile", "ssl-ca-certs", "ssl-cert-reqs", "disable-fastapi-docs",
                     "enable-request-id-headers", "enable-prompt-tokens-details", "uvicorn-log-level",
                     "disable-frontend-multiprocessing", "api-server-count", "enable-server-load-tracking"), _FRONT),
    **dict.fromkeys(("download-dir", "config-format", "use-tqdm-on-load", "ignore-patterns", "code-revision",
                     "hf-token"), _BUILD),
    **dict.fromkeys(("generation-config", "override-generation-config"), _REQUEST),
    **dict.fromkeys(("otlp-traces-endpoint", "collect-detailed-traces", "disable-log-stats", "max-log-len",
                     "show-hidden-metrics-for-version", "kv-events-config"), _OURS),
    **dict.fromkeys(("swap-space", "use-v2-block-manager", "num-scheduler-steps", "multi-step-stream-outputs",
                     "preemption-mode", "scheduler-delay-factor", "num-lookahead-slots", "device", "worker-use-ray",
                     "max-seq-len-to-capture", "speculative-model", "num-speculative-tokens", "lora-extra-vocab-size",
                     "long-lora-scaling-factors", "guided-decoding-disable-fallback"), _GONE),
    **dict.fromkeys(("speculative-config", "compilation-config", "cuda-graph-sizes", "hf-overrides", "rope-scaling",
                     "rope-theta", "distributed-executor-backend", "max-parallel-loading-workers", "worker-cls",
                     "num-gpu-blocks-override", "additional-config", "fully-sharded-loras", "lora-dtype",
                     "max-num-partial-prefills", "max-long-partial-prefills", "long-prefill-token-threshold",
                     "model-loader-extra-config", "hf-config-path", "kv-transfer-config"), _NOT_YET),
    **dict.fromkeys(("limit-mm-per-prompt", "mm-processor-kwargs", "task", "runner", "convert", "logits-processors"),
                    "Conch serves decoders of text alone"),
    "guided-decoding-backend": "guides are compiled with xgrammar",
    "max-logprobs": "return_log_probs gives the log probs of the chosen tokens, not of the likeliest n",
    "data-parallel-size": "one server serves one copy: start several",
}  # fmt: skip


def import_vllm(text: str, origin: str, given: Given) -> Imported:
    """Read settings of vLLM and write a spec for the runtime vllm, or the one that was given.

    Raises:
        InvalidArgumentError: not such a file, or fields that contradict each other; all of them, by name.
    """
    if given.runtime == "tensorrtllm":
        return import_vllm_for_trtllm(text, origin, given)
    draft = Draft()
    draft.assume("engine.runtime", "vllm", f"vLLM {VERSION}")
    found: dict[str, Field] = {}
    for field, _ in fields(read_mapping(text, origin), text):
        name = field.name.lstrip("-").replace("_", "-")
        if name in found:
            draft.refuse(f"{field.name} is written twice (line {field.line})")
        found[name] = Field(field.name, field.value, field.line, secret=name in _SECRETS)
    for name, field in found.items():
        _one(draft, name, field, found)
    _contradictions(draft, found)
    name_model(draft, given, found.get("model") or found.get("model-tag"), found.get("revision"), quantized=True)
    if given.max_seq_len is not None:
        draft.assume(MAX_SEQ_LEN, given.max_seq_len, "given with --max-seq-len")
    if given.gpu is not None:
        draft.refuse(f"--gpu is for the runtime tensorrtllm, whose engines are compiled for one kind, got {given.gpu}")
    name_spec(draft, given)
    return draft.finish(origin, given.strict)


def _one(draft: Draft, name: str, field: Field, found: dict[str, Field]) -> None:
    if name in ("model", "model-tag", "revision"):
        return  # accounted for by name_model
    if field.value is None and name not in _SWITCHES and name not in _SPECIAL:
        draft.drop(field, "it is not set")
    elif name in _NUMBERS:
        key, least = _NUMBERS[name]
        value = values.whole(draft, field, least)
        if value is not None:
            draft.map(field, key, value)
    elif name in _CHOICES:
        _choice(draft, name, field)
    elif name in _SWITCHES:
        key, straight = _SWITCHES[name]
        on = values.truth(draft, field)
        if on is not None:
            note = "the build brings no code of a checkpoint" if name == "trust-remote-code" and on else ""
            draft.map(field, key, on == straight, note)
    elif name in _SPECIAL:
        _SPECIAL[name](draft, field, found)
    elif name in _DROPPED:
        draft.drop(field, _DROPPED[name])
    elif why_dropped(name):
        draft.drop(field, why_dropped(name))
    else:
        draft.unknown(field, "vLLM")


def _choice(draft: Draft, name: str, field: Field) -> None:
    off = {"none": None, "null": None} if name == "quantization" else {}
    known, value = values.choice(draft, field, {**off, **{word: word for word in _CHOICES[name]}})
    if known and value is None:
        draft.drop(field, "it is not set")
    elif known:
        draft.map(field, f"{_VLLM}.{name.replace('-', '_')}", value)


def _served_name(draft: Draft, field: Field, _: dict[str, Field]) -> None:
    names = field.value if isinstance(field.value, list) else [field.value]
    first = values.text(draft, Field(field.name, names[0] if names else None, field.line))
    if first is not None:
        others = f"; the others are dropped: {', '.join(map(str, names[1:]))}" if len(names) > 1 else ""
        changed = "" if as_name(first) == first else "written as names of specs are"
        draft.map(field, NAME, as_name(first), (changed + others).lstrip("; "))


def _fraction(key: str, least: float, most: float) -> Callable[[Draft, Field, dict[str, Field]], None]:
    def read(draft: Draft, field: Field, _: dict[str, Field]) -> None:
        value = values.number(draft, field, least, most)
        if value is not None:
            draft.map(field, key, max(value, 0.0))

    return read


def _log(on: str, off: str) -> Callable[[Draft, Field, dict[str, Field]], None]:
    def read(draft: Draft, field: Field, _: dict[str, Field]) -> None:
        value = values.truth(draft, field)
        if value is not None:
            draft.map(field, "serving.log_format", on if value else off)

    return read


def _address(variable: str) -> Callable[[Draft, Field, dict[str, Field]], None]:
    def read(draft: Draft, field: Field, _: dict[str, Field]) -> None:
        draft.drop(field, f"not of the model: set {variable}={field.shown} for the server")

    return read


def _lora(draft: Draft, field: Field, found: dict[str, Field]) -> None:
    on = values.truth(draft, field)
    if on and "lora-modules" not in found:
        draft.drop(field, "no lora-modules, and requests name adapters of the spec alone")
    elif on is not None:
        draft.map(field, f"{_VLLM}.enable_lora", on)


def _lora_modules(draft: Draft, field: Field, found: dict[str, Field]) -> None:
    listed = field.value if isinstance(field.value, list) else [field.value]
    modules: list[dict[str, Any]] = []
    for number, module in enumerate(listed, 1):
        name, path = (module.get("name"), module.get("path")) if isinstance(module, dict) else (None, None)
        if isinstance(module, str):
            name, _, path = module.partition("=")
        if not (isinstance(name, str) and name and isinstance(path, str) and path):
            draft.refuse(f"{field.name} must be name=path, or objects with name and path, got {field.shown}")
            return
        modules.append({"id": number, "name": name, "path": path})
    if "enable-lora" not in found:
        draft.refuse(f"{field.name} needs enable-lora: true")
        return
    numbers = ", ".join(f"{module['name']} is {module['id']}" for module in modules)
    draft.map(field, f"{_VLLM}.lora_modules", modules, f"requests choose by lora_task_id: {numbers}")


_SPECIAL = {
    "served-model-name": _served_name,
    "gpu-memory-utilization": _fraction(f"{_VLLM}.gpu_memory_utilization", 0, 1),
    "cpu-offload-gb": _fraction(f"{_VLLM}.cpu_offload_gb", -1e-9, 4096),
    "disable-log-requests": _log("off", "text"), "enable-log-requests": _log("text", "off"),
    "enable-lora": _lora, "lora-modules": _lora_modules,
    "host": _address("CONCH_HOST"), "port": _address("CONCH_HTTP_PORT"),
}  # fmt: skip


def _contradictions(draft: Draft, found: dict[str, Field]) -> None:
    """What vLLM itself refuses, or leaves to chance."""
    pairs = [(name, f"no-{name}") for name in _CONTRARY]
    for name, contrary in (*pairs, ("enable-log-requests", "disable-log-requests")):
        if name in found and contrary in found:
            draft.refuse(f"{found[name].name} and {found[contrary].name} contradict each other")
    step, sequences = draft.get("engine.max_num_tokens"), draft.get("engine.max_batch_size")
    if step is not None and sequences is not None and step < sequences:
        draft.refuse(f"max-num-batched-tokens must be >= max-num-seqs {sequences}, got {step}")
    elif step is not None and sequences is None:
        draft.assume("engine.max_batch_size", min(step, 256), "vLLM's own default, or what one step has room for")
    length = draft.get(MAX_SEQ_LEN)
    if draft.get(_CHUNKED) is False and step is not None and length is not None and step < length:
        draft.refuse(f"max-num-batched-tokens must be >= max-model-len {length} without chunked prefill, got {step}")
