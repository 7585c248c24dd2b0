"""Settings of Text Generation Inference: environment variables and arguments of its launcher."""

from __future__ import annotations

from conch.importers import values
from conch.importers.draft import Draft, Field, Imported
from conch.importers.launcher_arguments import Setting, read_settings
from conch.importers.models import Given, complete_tensorrt_llm, name_model, name_spec

_TRT = "engine.tensorrt_llm"
_BACKEND = f"{_TRT}.backend"
QFORMAT, KV_CACHE = f"{_TRT}.quantization.qformat", f"{_TRT}.quantization.kv_cache_dtype"
_TP = f"{_TRT}.tp_size"
SECRETS = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "API_KEY", "NGROK_AUTHTOKEN", "NGROK_EDGE"})
FLAGS = frozenset({
    "SHARDED", "TRUST_REMOTE_CODE", "DISABLE_CUSTOM_KERNELS", "JSON_OUTPUT", "DISABLE_GRAMMAR_SUPPORT", "ENV", "NGROK",
    "DISABLE_USAGE_STATS", "DISABLE_CRASH_REPORTS", "ENABLE_PREFILL_LOGPROBS",
})  # fmt: skip
_DTYPES = {"float16": "float16", "bfloat16": "bfloat16"}
_QUANTIZATIONS = {"awq": "int4_awq", "eetq": "int8_wo", "fp8": "fp8", "bitsandbytes": "int8_wo",
                  "bitsandbytes-nf4": "int4_wo", "bitsandbytes-fp4": "int4_wo"}  # fmt: skip
# These name what a checkpoint was quantized with, not what shall be done to it.
_OF_CHECKPOINTS = ("compressed-tensors", "exl2", "gptq", "marlin")
_KV_CACHE = {"fp8_e4m3fn": "fp8", "fp8_e5m2": "fp8"}
_NUMBERS = {
    "MAX_INPUT_TOKENS": "engine.max_input_len", "MAX_INPUT_LENGTH": "engine.max_input_len",
    "MAX_TOTAL_TOKENS": "engine.max_seq_len", "MAX_BATCH_PREFILL_TOKENS": "engine.max_num_tokens",
    "MAX_BATCH_SIZE": "engine.max_batch_size", "MAX_BATCH_TOTAL_TOKENS": f"{_BACKEND}.max_tokens_in_paged_kv_cache",
    "NUM_SHARD": _TP, "MAX_BEST_OF": "serving.max_sequences", "MAX_STOP_SEQUENCES": "serving.max_stop_words",
    "MAX_CLIENT_BATCH_SIZE": "serving.max_rows",
}  # fmt: skip
_ADDRESSES = {"HOSTNAME": "CONCH_HOST", "PORT": "CONCH_HTTP_PORT", "PROMETHEUS_PORT": "CONCH_METRICS_PORT"}
_SCHEDULER = "TGI's own scheduling; Triton's backend has batch_scheduler_policy"
_FETCH = "the build fetches the checkpoint itself; HF_TOKEN in its environment"
_FRONT = "Triton serves, not TGI's router; put a gateway before it"
_DROPPED = {
    **dict.fromkeys(("WAITING_SERVED_RATIO", "MAX_WAITING_TOKENS", "VALIDATION_WORKERS"), _SCHEDULER),
    **dict.fromkeys(("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE", "HF_HOME",
                     "WEIGHTS_CACHE_OVERRIDE", "HF_HUB_ENABLE_HF_TRANSFER", "HF_HUB_OFFLINE"), _FETCH),
    **dict.fromkeys(("API_KEY", "CORS_ALLOW_ORIGIN", "NGROK", "NGROK_AUTHTOKEN", "NGROK_EDGE", "PAYLOAD_LIMIT",
                     "GRACEFUL_TERMINATION_TIMEOUT", "MESSAGES_API_ENABLED"), _FRONT),
    **dict.fromkeys(("OTLP_ENDPOINT", "OTLP_SERVICE_NAME", "LOG_LEVEL", "RUST_LOG", "RUST_BACKTRACE", "USAGE_STATS",
                     "DISABLE_USAGE_STATS", "DISABLE_CRASH_REPORTS", "ENV"), "Triton's log and traces are others"),
    **dict.fromkeys(("SHARD_UDS_PATH", "MASTER_ADDR", "MASTER_PORT", "CUDA_GRAPHS", "DISABLE_CUSTOM_KERNELS",
                     "ATTENTION", "USE_FLASH_ATTENTION", "FLASH_DECODING", "NCCL_DEBUG", "PYTORCH_CUDA_ALLOC_CONF"),
                    "the engine is compiled, and launched otherwise"),
    **dict.fromkeys(("ROPE_SCALING", "ROPE_FACTOR"), "change the checkpoint's config.json instead"),
    **dict.fromkeys(("WATERMARK_GAMMA", "WATERMARK_DELTA"), "no watermarks"),
    "MAX_TOP_N_TOKENS": "return_log_probs gives the log probs of the chosen tokens, not of the likeliest n",
    "SPECULATE": "set tensorrt_llm.build.speculative_decoding_mode by hand: its ways are others",
    "LORA_ADAPTERS": "set tensorrt_llm.build.lora_dir and plugin_config.lora_plugin by hand: folders, not names",
    "TOKENIZER_CONFIG_PATH": "the checkpoint's tokenizer is used",
    "DISABLE_GRAMMAR_SUPPORT": "guides are off unless tensorrt_llm.backend.guided_decoding_backend is set",
    "ENABLE_PREFILL_LOGPROBS": "no client can ask Conch for them",
}  # fmt: skip
_OF_THE_MODEL = ("MODEL_ID", "REVISION")
_DEVICES = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")


def import_tgi(text: str, origin: str, given: Given) -> Imported:
    """Read settings of TGI's launcher and write a spec for the runtime tensorrtllm.

    Raises:
        InvalidArgumentError: not such a file, or settings that contradict each other; all of them, by name.
    """
    draft = Draft()
    draft.assume("engine.runtime", "tensorrtllm", "Conch has no runtime of TGI; the model is compiled for TensorRT-LLM")
    found: dict[str, Field] = {}
    for setting in read_settings(text, origin, FLAGS, SECRETS):
        if setting.of_container:
            draft.drop(setting.field, "the container's, not the model's")
        elif setting.of_script:
            draft.drop(setting.field, "a variable of the script; its value is used below")
        elif setting.name in found and found[setting.name].value != setting.field.value:
            first = found[setting.name]
            draft.refuse(f"{first.name} {first.shown} (line {first.line}) and {setting.field.name} "
                         f"{setting.field.shown} (line {setting.field.line}) contradict each other")  # fmt: skip
        elif setting.name in found:
            draft.drop(setting.field, "it is there already, with the same value")
        else:
            found[setting.name] = setting.field
    for name, field in found.items():
        _one(draft, Setting(name, field), found)
    _shards(draft, found)
    _contradictions(draft)
    _queue(draft, found)
    name_model(draft, given, found.get("MODEL_ID"), found.get("REVISION"))
    complete_tensorrt_llm(draft, given)
    _steps(draft)
    name_spec(draft, given)
    return draft.finish(origin, given.strict)


def _one(draft: Draft, setting: Setting, found: dict[str, Field]) -> None:
    name, field = setting.name, setting.field
    tables = {"DTYPE": (f"{_TRT}.dtype", _DTYPES), "QUANTIZE": (QFORMAT, _QUANTIZATIONS),
              "KV_CACHE_DTYPE": (KV_CACHE, _KV_CACHE)}  # fmt: skip
    if name in _OF_THE_MODEL or name in ("SHARDED", "MAX_CONCURRENT_REQUESTS", *_DEVICES):
        return  # accounted for by name_model, _shards and _queue
    if field.value is None and name not in FLAGS:
        draft.refuse(f"{field.name} must have a value")
    elif field.value == "":
        draft.drop(field, "it is not set")
    elif name in _NUMBERS:
        value = values.whole(draft, field)
        if value is not None:
            draft.map(field, _NUMBERS[name], value)
    elif name == "QUANTIZE" and str(field.value).casefold() in _OF_CHECKPOINTS:
        draft.refuse(f"{field.name} must not be {field.shown}, the format of a checkpoint that is quantized already",
                     mend="The build quantizes by itself: name the original with --source, and leave it out")
    elif name in tables:
        key, choices = tables[name]
        known, choice = values.choice(draft, field, choices)
        if known:
            draft.map(field, key, choice, "the build quantizes the checkpoint" if name == "QUANTIZE" else "")
    elif name in _ADDRESSES:
        draft.drop(field, f"not of the model: set {_ADDRESSES[name]}={field.shown} for the server")
    else:
        _other(draft, setting)


def _other(draft: Draft, setting: Setting) -> None:
    name, field = setting.name, setting.field
    if name == "CUDA_MEMORY_FRACTION":
        fraction = values.number(draft, field, 0, 1)
        if fraction is not None:
            draft.map(field, f"{_BACKEND}.kv_cache_free_gpu_mem_fraction", min(fraction, 0.99),
                      "there of all memory, here of what is free after loading")  # fmt: skip
    elif name == "JSON_OUTPUT":
        on = values.truth(draft, field)
        if on is not None:
            draft.map(field, "serving.log_format", "json" if on else "text")
    elif name in ("USE_PREFIX_CACHING", "PREFIX_CACHING"):
        on = values.truth(draft, field)
        if on is not None:
            draft.map(field, "engine.enable_kv_cache_reuse", on)
    elif name == "TRUST_REMOTE_CODE":
        on = values.truth(draft, field)
        if on is not None:
            draft.drop(field, "code of a checkpoint is never run" if on else "so it always is: code is never run")
    elif name in _DROPPED:
        draft.drop(field, _DROPPED[name])
    else:
        draft.unknown(field, "TGI's launcher")


def _shards(draft: Draft, found: dict[str, Field]) -> None:
    sharded, devices = found.get("SHARDED"), _devices(draft, found)
    number = draft.get(_TP)
    if devices is not None:
        listed = [part for part in str(devices.value or "").split(",") if part.strip()]
        several = len(listed) if listed not in (["all"], ["none"], ["void"]) else 0
        if number is not None and several and number > several:
            draft.refuse(f"NUM_SHARD must be <= {several}, the GPUs of {devices.name}, got {number}")
        elif sharded is not None and number is None and several and values.truth(draft, sharded):
            draft.map(devices, _TP, several, "sharded over all of them")
        elif sharded is None and number is None and several > 1:
            draft.drop(devices, "GPUs are chosen when the server is started; tp_size is their number")
            draft.assume(_TP, several, f"TGI shards over all GPUs of {devices.name} where nothing says how many")
        else:
            draft.drop(devices, "GPUs are chosen when the server is started")
    if sharded is None:
        return
    on = values.truth(draft, sharded)
    if on is False and number is not None and number > 1:
        draft.refuse(f"{sharded.name} false and NUM_SHARD {number} contradict each other")
    elif on and number == 1:
        draft.refuse(f"{sharded.name} true and NUM_SHARD 1 contradict each other")
    elif on and draft.get(_TP) is None:
        draft.refuse(f"{sharded.name} true needs NUM_SHARD or CUDA_VISIBLE_DEVICES: an engine is compiled for a number "
                     "of GPUs")  # fmt: skip
    elif on is False:
        draft.map(sharded, _TP, 1)
    elif on:
        draft.drop(sharded, "tp_size says it")


def _devices(draft: Draft, found: dict[str, Field]) -> Field | None:
    """The field that TGI's launcher counts GPUs by."""
    first, second = (found.get(name) for name in _DEVICES)
    if first is not None and second is not None:
        draft.drop(second, f"{first.name} counts before it")
    return first or second


def _contradictions(draft: Draft) -> None:
    """What TGI's launcher itself refuses."""
    prompt, whole = draft.get("engine.max_input_len"), draft.get("engine.max_seq_len")
    step, pool = draft.get("engine.max_num_tokens"), draft.get(f"{_BACKEND}.max_tokens_in_paged_kv_cache")
    prompt_field = draft.setter("engine.max_input_len")
    name = prompt_field.name if prompt_field else "MAX_INPUT_TOKENS"
    if prompt is not None and whole is not None and prompt >= whole:
        draft.refuse(f"{name} must be < MAX_TOTAL_TOKENS {whole}, got {prompt}")
    if prompt is not None and step is not None and step < prompt:
        draft.refuse(f"MAX_BATCH_PREFILL_TOKENS must be >= {name} {prompt}, got {step}")
    if pool is not None and step is not None and pool < step:
        draft.refuse(f"MAX_BATCH_TOTAL_TOKENS must be >= MAX_BATCH_PREFILL_TOKENS {step}, got {pool}")
    if pool is not None and whole is not None and pool < whole:
        draft.refuse(f"MAX_BATCH_TOTAL_TOKENS must be >= MAX_TOTAL_TOKENS {whole}, got {pool}")


def _queue(draft: Draft, found: dict[str, Field]) -> None:
    """TGI counts requests that run and wait; Conch's queue counts those that wait."""
    field = found.get("MAX_CONCURRENT_REQUESTS")
    if field is None:
        return
    most = values.whole(draft, field)
    if most is None:
        return
    running = draft.get("engine.max_batch_size")
    if running is None:
        running = min(most, 64)
        draft.assume("engine.max_batch_size", running, "sequences at once; TGI finds them out from the memory")
    draft.map(field, "serving.max_queue_size", max(most - running, 1), f"there {running} of them run, the others wait")


def _steps(draft: Draft) -> None:
    """Without chunked context a prompt goes into one step."""
    whole, step = draft.get("engine.max_seq_len"), draft.get("engine.max_num_tokens")
    prompt = draft.get("engine.max_input_len") or (whole - 1 if isinstance(whole, int) else None)
    if not isinstance(prompt, int):
        return
    if step is None and prompt > 8192:
        draft.assume("engine.max_num_tokens", prompt, "a prompt goes into one step")
    elif step is not None and prompt > step:
        draft.assume(f"{_BACKEND}.enable_chunked_context", True, "prompts longer than a step")
