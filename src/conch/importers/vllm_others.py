"""Settings of ``vllm serve`` 0.24 that have no counterpart here: what they are about, and so why they are dropped.

Every flag that an importer does not take by itself is one of these (tests/reference/vllm_serve_0_24.json has them all).
"""

from __future__ import annotations

import re

_FRONT = "Triton serves, not vLLM's front; put a gateway before it"
_COPIES = "one server serves one copy of the model: start several, behind a gateway"
_KERNELS = "a choice of vLLM's own kernels and loaders, without a counterpart"
_REASONS: tuple[tuple[str, str], ...] = (
    (r"help|config", "a flag of the command line, not of the model"),
    (r"grpc|headless|uds|tokens-only|tool-server|log-config-file|log-error-stack|enable-log-(outputs|deltas)|"
     r"(disable-)?uvicorn-.*|disable-(uvicorn-)?access-log.*|h11-.*|enable-offline-docs|fingerprint-.*|ssl-.*|"
     r"enable-ssl-refresh|enable-tokenizer-info-endpoint|enable-force-include-usage|exclude-tools-.*|"
     r"trust-request-chat-template|default-chat-template-kwargs|reasoning-(parser-plugin|config)|"
     r"enable-flash-late-interaction|renderer-num-workers|shutdown-timeout", _FRONT),
    (r"data-parallel-.*|dp-supervisor-.*|api-server-count", _COPIES),
    (r"master-(addr|port)|nnodes|node-rank|(cpu-)?distributed-timeout-seconds|numa-.*|device-ids|worker-.*|"
     r"ray-.*", "how processes are placed is said when the server is launched"),
    (r"mm-.*|.*-mm-.*|limit-mm-.*|video-.*|media-.*|skip-mm-profiling|interleave-mm-strings|language-model-only|"
     r"allowed-(local-media-path|media-domains)|disable-chunked-mm-input|default-mm-loras|pooler-config|"
     r"enable-tower-connector-lora|diffusion-config|io-processor-plugin|enable-prompt-embeds",
     "Conch serves decoders of text alone"),
    (r"(enable-)?mamba-.*|gdn-prefill-backend", "Conch serves no state space models"),
    (r"spec-(method|model|tokens)|speculative-config", "speculative decoding has settings of each runtime's own here"),
    (r"(kv|ec|weight)-transfer-config|kv-sharing-fast-prefill", "prompts and answers are computed in one place"),
    (r"kv-offloading-.*|offload-.*|cpu-offload-.*", "weights and KV cache are not offloaded by vLLM's ways"),
    (r"(prefill|decode)-context-parallel-size|dcp-.*|cp-.*|ubatch-size|(enable-)?dbo.*|all2all-backend|.*eplb.*|"
     r"expert-placement-strategy|enable-e(p|lastic-ep).*|disable-nccl-.*|enable-expert-parallel|"
     r"disable-custom-all-reduce|enable-elastic-ep", "the model is split by tensor and pipeline parallelism alone"),
    (r"kv-cache-metrics.*|cudagraph-metrics|enable-layerwise-nvtx-tracing|enable-mfu-metrics|"
     r"enable-logging-iteration-details|jit-monitor-verbose|aggregate-engine-logging|profiler-config|"
     r"enable-return-routed-experts|disable-log-stats|enable-server-load-tracking|"
     r"enable-(prompt-tokens-details|request-id-headers)",
     "Conch's own metrics and log"),
    (r"scheduler-.*|watermark|prefill-schedule-interval|stream-interval|async-scheduling|"
     r"disable-hybrid-kv-cache-manager", "scheduling is the runtime's here"),
    (r"lora-target-modules|specialize-active-lora|enable-mixed-moe-lora-format|fully-sharded-loras",
     "adapters have the settings of max-lora-rank and lora-modules alone"),
    (r"logprobs-mode|use-fp64-gumbel|structured-outputs-config", "the contract says what a request may ask for"),
    (r"quantization-config|allow-deprecated-quantization|calculate-kv-scales|kv-cache-dtype-skip-layers|"
     r"override-attention-dtype", "quantization is said by its name and the dtype of the KV cache"),
    (r"kv-cache-memory-bytes", "the KV cache gets a part of the memory that is free"),
    (r"model-impl|safetensors-.*|pt-load-map-location|use-tqdm-on-load|disable-sliding-window|disable-cascade-attn|"
     r"enable-(sleep-mode|cumem-allocator|flashinfer-autotune|ep-weight-filter)|.*attention-(backend|config)|"
     r"(moe|linear)-backend|.*cudagraph-.*|ir-op-priority|kernel-config|prefix-caching-hash-algo|"
     r"optimization-level|performance-mode|fail-on-environ-validation", _KERNELS),
)  # fmt: skip
_PATTERNS = tuple((re.compile(pattern), why) for pattern, why in _REASONS)


def why_dropped(name: str) -> str:
    """Why a setting is dropped; empty for one that vLLM 0.24 has not.

    Args:
        name: with dashes; ``no-`` in front where a flag is switched off.
    """
    for pattern, why in _PATTERNS:
        if pattern.fullmatch(name.removeprefix("no-")):
            return why
    return f"write {name.removeprefix('no-')}: false instead" if name in _SWITCHED_OFF else ""


# Forms with no- of what the importers read by itself.
_SWITCHED_OFF = frozenset({
    "no-allow-credentials", "no-disable-fastapi-docs", "no-enable-auto-tool-choice", "no-enable-log-requests",
    "no-enable-lora", "no-enforce-eager", "no-return-tokens-as-token-ids", "no-skip-tokenizer-init",
    "no-trust-remote-code",
})  # fmt: skip
