"""Settings of vLLM for a model that shall be compiled with TensorRT-LLM instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from conch.importers import values
from conch.importers.documents import fields, read_mapping
from conch.importers.draft import Draft, Field, Imported
from conch.importers.models import NAME, Given, as_name, complete_tensorrt_llm, name_model, name_spec
from conch.importers.vllm_others import why_dropped

_TRT = "engine.tensorrt_llm"
_BACKEND = f"{_TRT}.backend"
QFORMAT, KV_CACHE = f"{_TRT}.quantization.qformat", f"{_TRT}.quantization.kv_cache_dtype"
GIB = 1 << 30
_DTYPES = {"auto": "auto", "half": "float16", "float16": "float16", "bfloat16": "bfloat16", "float": "float32",
           "float32": "float32"}  # fmt: skip
_QUANTIZATIONS = {"none": None, "null": None, "fp8": "fp8", "awq": "int4_awq", "awq_marlin": "int4_awq",
                  "modelopt": "fp8", "modelopt_fp4": "nvfp4", "fbgemm_fp8": "fp8_pc_pt", "int8": "int8_wo"}  # fmt: skip
_KV_CACHE = {"auto": None, "fp8": "fp8", "fp8_e4m3": "fp8", "int8": "int8"}
_NUMBERS = {
    "tensor-parallel-size": f"{_TRT}.tp_size",
    "pipeline-parallel-size": f"{_TRT}.pp_size",
    "max-num-batched-tokens": "engine.max_num_tokens",
    "max-num-seqs": "engine.max_batch_size",
    "max-model-len": "engine.max_seq_len",
    "block-size": f"{_TRT}.plugin_config.tokens_per_block",
}
_SECRETS = {"api-key", "hf-token", "ssl-keyfile"}
_REQUEST = "a control of the request here"
_TOKENIZER = "the checkpoint's tokenizer is used"
_SCHEDULER = "vLLM's own scheduling; Triton's backend has batch_scheduler_policy"
_FRONT = "Triton serves, not vLLM's front; put a gateway before it"
_DROPPED = {
    **dict.fromkeys(("tokenizer", "tokenizer-mode", "tokenizer-revision", "skip-tokenizer-init"), _TOKENIZER),
    **dict.fromkeys(("chat-template", "chat-template-content-format"), "the checkpoint's chat template is used"),
    **dict.fromkeys(("enable-auto-tool-choice", "tool-call-parser", "tool-parser-plugin", "reasoning-parser",
                     "enable-reasoning", "response-role", "return-tokens-as-token-ids", "api-key", "root-path",
                     "allowed-origins", "allowed-methods", "allowed-headers", "allow-credentials", "middleware",
                     "ssl-keyfile", "ssl-certfile", "ssl-ca-certs", "ssl-cert-reqs", "disable-fastapi-docs",
                     "enable-request-id-headers", "enable-prompt-tokens-details", "uvicorn-log-level",
                     "disable-frontend-multiprocessing", "api-server-count", "enable-server-load-tracking"), _FRONT),
    **dict.fromkeys(("scheduling-policy", "scheduler-delay-factor", "preemption-mode", "num-scheduler-steps",
                     "multi-step-stream-outputs", "max-num-partial-prefills", "max-long-partial-prefills",
                     "long-prefill-token-threshold", "num-lookahead-slots", "async-scheduling"), _SCHEDULER),
    **dict.fromkeys(("download-dir", "load-format", "config-format", "model-loader-extra-config", "use-tqdm-on-load",
                     "ignore-patterns", "code-revision", "hf-token"),
                    "the build fetches the checkpoint itself; HF_TOKEN in its environment"),
    **dict.fromkeys(("distributed-executor-backend", "ray-workers-use-nsight", "max-parallel-loading-workers",
                     "worker-cls", "worker-use-ray", "disable-custom-all-reduce", "enable-expert-parallel",
                     "device", "num-gpu-blocks-override", "compilation-config", "cuda-graph-sizes",
                     "max-seq-len-to-capture", "additional-config"), "the engine is compiled, and launched otherwise"),
    **dict.fromkeys(("rope-scaling", "rope-theta", "hf-overrides", "hf-config-path", "override-neuron-config"),
                    "change the checkpoint's config.json instead"),
    **dict.fromkeys(("generation-config", "override-generation-config", "seed"), _REQUEST),
    **dict.fromkeys(("otlp-traces-endpoint", "collect-detailed-traces", "disable-log-stats", "max-log-len",
                     "show-hidden-metrics-for-version", "kv-events-config"), "Triton's metrics and log are others"),
    **dict.fromkeys(("limit-mm-per-prompt", "mm-processor-kwargs", "task", "runner", "convert", "logits-processors",
                     "disable-mm-preprocessor-cache"), "Conch serves decoders of text alone"),
    **dict.fromkeys(("speculative-config", "speculative-model", "num-speculative-tokens"),
                    "set tensorrt_llm.build.speculative_decoding_mode by hand: its ways are others"),
    **dict.fromkeys(("max-lora-rank", "max-loras", "max-cpu-loras", "lora-dtype", "lora-extra-vocab-size",
                     "fully-sharded-loras", "long-lora-scaling-factors"), "see enable-lora"),
    **dict.fromkeys(("guided-decoding-backend", "guided-decoding-disable-fallback"),
                    "set tensorrt_llm.backend.guided_decoding_backend by hand: it needs a file about the tokenizer"),
    "cpu-offload-gb": "TensorRT-LLM keeps weights on the CPU with build.weight_streaming",
    "max-logprobs": "return_log_probs gives the log probs of the chosen tokens, not of the likeliest n",
    "data-parallel-size": "one server serves one copy: start several",
    "use-v2-block-manager": "the engine is compiled, and launched otherwise",
}  # fmt: skip
_CONTRARY = {"enable-prefix-caching": "no-enable-prefix-caching", "enable-chunked-prefill": "no-enable-chunked-prefill",
             "enable-log-requests": "disable-log-requests"}  # fmt: skip


def import_vllm_for_trtllm(text: str, origin: str, given: Given) -> Imported:
    """Read settings of vLLM (see conch.importers.vllm) and write a spec for the runtime tensorrtllm.

    Raises:
        InvalidArgumentError: not such a file, or fields that contradict each other; all of them, by name.
    """
    draft = Draft()
    draft.assume("engine.runtime", "tensorrtllm", "given with --runtime; the model is compiled for TensorRT-LLM")
    found: dict[str, Field] = {}
    for field, _ in fields(read_mapping(text, origin), text):
        name = field.name.lstrip("-").replace("_", "-")
        if name in found:
            draft.refuse(f"{field.name} is written twice (line {field.line})")
        found[name] = Field(field.name, field.value, field.line, secret=name in _SECRETS)
    model = found.get("model") or found.get("model-tag")
    for name, field in found.items():
        _one(draft, name, field, found)
    _contradictions(draft, found)
    name_model(draft, given, model, found.get("revision"))
    complete_tensorrt_llm(draft, given)
    _steps(draft, found)
    name_spec(draft, given)
    return draft.finish(origin, given.strict)


def _one(draft: Draft, name: str, field: Field, found: dict[str, Field]) -> None:
    if name in ("model", "model-tag", "revision"):
        return  # accounted for by name_model
    if field.value is None and name not in _FLAGS:
        draft.drop(field, "it is not set")
    elif name in _NUMBERS:
        value = values.whole(draft, field)
        if value is not None:
            draft.map(field, _NUMBERS[name], value)
    elif name in _SPECIAL:
        _SPECIAL[name](draft, field, found)
    elif name in _DROPPED:
        draft.drop(field, _DROPPED[name])
    elif why_dropped(name):
        draft.drop(field, why_dropped(name))
    else:
        draft.unknown(field, "vLLM")


def _served_name(draft: Draft, field: Field, _: dict[str, Field]) -> None:
    names = field.value if isinstance(field.value, list) else [field.value]
    first = values.text(draft, Field(field.name, names[0] if names else None, field.line))
    if first is not None:
        others = f"; the others are dropped: {', '.join(map(str, names[1:]))}" if len(names) > 1 else ""
        changed = "" if as_name(first) == first else "written as names of specs are"
        draft.map(field, NAME, as_name(first), (changed + others).lstrip("; "))


def _memory(draft: Draft, field: Field, _: dict[str, Field]) -> None:
    fraction = values.number(draft, field, 0, 1)
    if fraction is not None:
        draft.map(field, f"{_BACKEND}.kv_cache_free_gpu_mem_fraction", min(fraction, 0.99),
                  "there of all memory, here of what is free after loading")  # fmt: skip


def _swap(draft: Draft, field: Field, _: dict[str, Field]) -> None:
    zero = values.number(draft, field, -1e-9, 1 << 20)
    if zero is not None:
        draft.map(field, f"{_BACKEND}.kv_cache_host_memory_bytes", int(max(zero, 0) * GIB),
                  "GiB there; here blocks that may be used again move to it")  # fmt: skip


def _table(key: str, choices: dict[str, Any], note: str = "") -> Callable[[Draft, Field, dict[str, Field]], None]:
    def read(draft: Draft, field: Field, _: dict[str, Field]) -> None:
        known, value = values.choice(draft, field, choices)
        if known and value is None:
            draft.drop(field, "it is not set")
        elif known:
            draft.map(field, key, value, note)

    return read


def _switch(key: str, on: Any, off: Any, note: str = "") -> Callable[[Draft, Field, dict[str, Field]], None]:
    def read(draft: Draft, field: Field, _: dict[str, Field]) -> None:
        value = values.truth(draft, field)
        if value is not None:
            draft.map(field, key, on if value else off, note)

    return read


def _eager(draft: Draft, field: Field, _: dict[str, Field]) -> None:
    eager = values.truth(draft, field)
    if eager:
        draft.map(field, f"{_BACKEND}.cuda_graph_mode", False, "eager: no CUDA graphs")
    elif eager is not None:
        draft.drop(field, "CUDA graphs are off by default: tensorrt_llm.backend.cuda_graph_mode")


def _remote_code(draft: Draft, field: Field, _: dict[str, Field]) -> None:
    on = values.truth(draft, field)
    if on is not None:
        draft.drop(field, "code of a checkpoint is never run" if on else "so it always is: code is never run")


def _address(variable: str) -> Callable[[Draft, Field, dict[str, Field]], None]:
    def read(draft: Draft, field: Field, _: dict[str, Field]) -> None:
        draft.drop(field, f"not of the model: set {variable}={field.shown} for the server")

    return read


def _lora(draft: Draft, field: Field, found: dict[str, Field]) -> None:
    on = values.truth(draft, field)
    if on and "lora-modules" not in found:
        draft.drop(field, "no lora-modules: an engine is compiled with the adapters that it knows")
    elif on:
        draft.map(field, f"{_TRT}.plugin_config.lora_plugin", "auto")
    elif on is not None:
        draft.drop(field, "it is off")


def _lora_modules(draft: Draft, field: Field, found: dict[str, Field]) -> None:
    modules = field.value if isinstance(field.value, list) else [field.value]
    paths = [m.get("path") if isinstance(m, dict) else str(m).partition("=")[2] or str(m) for m in modules]
    if not paths or not all(isinstance(path, str) and path for path in paths):
        draft.refuse(f"{field.name} must be name=path, or objects with path, got {field.shown}")
    elif "enable-lora" not in found:
        draft.refuse(f"{field.name} needs enable-lora: true")
    else:
        draft.map(field, f"{_TRT}.build.lora_dir", paths, "requests choose by lora_task_id, not by name")


_FLAGS = {
    "enable-prefix-caching", "no-enable-prefix-caching", "enable-chunked-prefill", "no-enable-chunked-prefill",
    "enforce-eager", "trust-remote-code", "disable-log-requests", "enable-log-requests", "enable-lora",
}  # fmt: skip
_SPECIAL = {
    "served-model-name": _served_name, "gpu-memory-utilization": _memory, "swap-space": _swap,
    "dtype": _table(f"{_TRT}.dtype", _DTYPES),
    "quantization": _table(QFORMAT, _QUANTIZATIONS, "the build quantizes; the source is the checkpoint before that"),
    "kv-cache-dtype": _table(KV_CACHE, _KV_CACHE),
    "enable-prefix-caching": _switch("engine.enable_kv_cache_reuse", True, False),
    "no-enable-prefix-caching": _switch("engine.enable_kv_cache_reuse", False, True),
    "enable-chunked-prefill": _switch(f"{_BACKEND}.enable_chunked_context", True, False),
    "no-enable-chunked-prefill": _switch(f"{_BACKEND}.enable_chunked_context", False, True),
    "disable-log-requests": _switch("serving.log_format", "off", "text"),
    "enable-log-requests": _switch("serving.log_format", "text", "off"),
    "enforce-eager": _eager, "trust-remote-code": _remote_code, "enable-lora": _lora, "lora-modules": _lora_modules,
    "host": _address("CONCH_HOST"), "port": _address("CONCH_HTTP_PORT"),
}  # fmt: skip


def _contradictions(draft: Draft, found: dict[str, Field]) -> None:
    """What vLLM itself refuses, or leaves to chance."""
    for name, contrary in _CONTRARY.items():
        if name in found and contrary in found:
            draft.refuse(f"{found[name].name} and {found[contrary].name} contradict each other")
    step, sequences = draft.get("engine.max_num_tokens"), draft.get("engine.max_batch_size")
    if step is not None and sequences is not None and step < sequences:
        draft.refuse(f"max-num-batched-tokens must be >= max-num-seqs {sequences}, got {step}")
    length = draft.get("engine.max_seq_len")
    whole_prompts = draft.get(f"{_BACKEND}.enable_chunked_context") is False
    if whole_prompts and step is not None and length is not None and step < length:
        draft.refuse(f"max-num-batched-tokens must be >= max-model-len {length} without chunked prefill, got {step}")


def _steps(draft: Draft, found: dict[str, Field]) -> None:
    """vLLM chunks long prompts unless told otherwise; TensorRT-LLM has to be told."""
    length, step = draft.get("engine.max_seq_len"), draft.get("engine.max_num_tokens") or 8192
    if isinstance(length, int) and length - 1 > step:
        if "enable-chunked-prefill" in found or "no-enable-chunked-prefill" in found:
            if not draft.get(f"{_BACKEND}.enable_chunked_context"):
                draft.assume("engine.max_num_tokens", length, "a prompt must go into one step: no chunked prefill")
            return
        draft.assume(f"{_BACKEND}.enable_chunked_context", True, "prompts longer than a step; vLLM cuts them up, too")
