"""Sections of ``engine.tensorrt_llm``: flags and parameters of TensorRT-LLM, under its own names."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from conch.spec_base import Section

PluginDtype = Literal["auto", "float16", "float32", "bfloat16", "int32"]


class Quantization(Section):
    """What the weights, activations and KV cache are quantized to: flags of examples/quantization/quantize.py.

    Attributes:
        qformat: full_prec is none; int8_sq is SmoothQuant (w8a8).
        kv_cache_dtype: of the KV cache; None: the model's dtype.
        awq_block_size: columns that share a scale, for int4_awq and w4a8_awq; must divide the hidden size.
        calib_dataset: name or folder of the data set to calibrate with.
        calib_size, batch_size: samples, and how many at once.
        calib_max_seq_length: longest sample, in tokens.
        quantize_lm_head: the output layer, too.
        seed: of the choice of samples.
    """

    qformat: Literal[
        "full_prec", "fp8", "fp8_pc_pt", "nvfp4", "int8_sq", "int4_awq", "w4a8_awq", "int8_wo", "int4_wo"
    ] = "full_prec"
    kv_cache_dtype: Literal["fp8", "int8"] | None = None
    awq_block_size: int = Field(default=128, ge=16, le=1024)
    calib_dataset: str = Field(default="cnn_dailymail", min_length=1)
    calib_size: int = Field(default=512, ge=1, le=1 << 20)
    batch_size: int = Field(default=1, ge=1, le=1024)
    calib_max_seq_length: int = Field(default=512, ge=16, le=1 << 20)
    quantize_lm_head: bool = False
    seed: int = Field(default=1234, ge=0)

    @property
    def needed(self) -> bool:
        """Whether anything is quantized: then quantize.py makes the checkpoint, else convert_checkpoint.py."""
        return self.qformat != "full_prec" or self.kv_cache_dtype is not None


class Plugins(Section):
    """Plugins and features of the engine: the fields of PluginConfig that trtllm-build has flags for.

    A plugin takes a dtype, ``auto`` (the model's) or None (disabled); a feature is true or false. Defaults are
    TensorRT-LLM's, but for gemm_plugin, which is recommended and off there.
    """

    bert_attention_plugin: PluginDtype | None = "auto"
    gpt_attention_plugin: PluginDtype | None = "auto"
    gemm_plugin: Literal["auto", "float16", "float32", "bfloat16", "int32", "fp8", "nvfp4"] | None = "auto"
    gemm_swiglu_plugin: Literal["fp8"] | None = None
    fp8_rowwise_gemm_plugin: PluginDtype | None = None
    lora_plugin: PluginDtype | None = None
    dora_plugin: bool = False
    moe_plugin: PluginDtype | None = "auto"
    mamba_conv1d_plugin: PluginDtype | None = "auto"
    nccl_plugin: PluginDtype | None = "auto"
    low_latency_gemm_plugin: Literal["fp8"] | None = None
    low_latency_gemm_swiglu_plugin: Literal["fp8"] | None = None
    gemm_allreduce_plugin: Literal["float16", "bfloat16"] | None = None
    context_fmha: bool = True
    bert_context_fmha_fp32_acc: bool = False
    remove_input_padding: bool = True
    tokens_per_block: int = Field(default=32, ge=1, le=1024)
    use_paged_context_fmha: bool = True
    use_fp8_context_fmha: bool = True
    fuse_fp4_quant: bool = False
    multiple_profiles: bool = False
    paged_state: bool = True
    norm_quant_fusion: bool = False
    reduce_fusion: bool = False
    user_buffer: bool = False
    use_fused_mlp: bool = True
    pp_reduce_scatter: bool = False

    @field_validator("tokens_per_block")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError(f"must be a power of two, got {value}")
        return value


class Build(Section):
    """Flags of trtllm-build beside the limits of ``engine`` and the plugins.

    Attributes:
        max_beam_width: widest beam search that the engine is compiled for.
        kv_cache_type: in-flight batching needs paged.
        opt_num_tokens: tokens of a step that kernels are chosen for; None: max_batch_size * max_beam_width.
        logits_dtype: of the logits. Always said to trtllm-build, since checkpoints differ: convert_checkpoint.py
            writes float32, quantize.py float16 or the model's dtype; the backend's tensors must be the engine's.
        gather_context_logits: keep the logits of the prompt, which cost memory and no client can ask Conch for.
        profiling_verbosity, weight_sparsity, weight_streaming, strip_plan, fast_build, log_level: see trtllm-build.
        workers: ranks that are compiled at the same time, one GPU each.
        lora_dir, lora_ckpt_source, lora_target_modules, max_lora_rank: LoRA; needs plugin_config.lora_plugin.
        speculative_decoding_mode, max_draft_len: speculative decoding; one needs the other. medusa, eagle and
            explicit_draft_tokens (ReDrafter) need weights beside the model's, which this build does not convert.
    """

    max_beam_width: int = Field(default=1, ge=1, le=64)
    kv_cache_type: Literal["paged", "continuous", "disabled"] = "paged"
    opt_num_tokens: int | None = Field(default=None, ge=1, le=1 << 20)
    logits_dtype: Literal["float16", "float32"] = "float32"
    gather_context_logits: bool = False
    profiling_verbosity: Literal["layer_names_only", "detailed", "none"] = "layer_names_only"
    weight_sparsity: bool = False
    weight_streaming: bool = False
    strip_plan: bool = False
    fast_build: bool = False
    workers: int = Field(default=1, ge=1, le=64)
    log_level: Literal["internal_error", "error", "warning", "info", "verbose", "debug", "trace"] = "info"
    lora_dir: tuple[str, ...] = ()
    lora_ckpt_source: Literal["hf", "nemo"] = "hf"
    lora_target_modules: tuple[str, ...] = ()
    max_lora_rank: int = Field(default=64, ge=1, le=4096)
    speculative_decoding_mode: Literal["draft_tokens_external", "lookahead_decoding"] | None = None
    max_draft_len: int = Field(default=0, ge=0, le=1024)

    @model_validator(mode="after")
    def _consistent(self) -> Build:
        if self.kv_cache_type != "paged":
            raise ValueError(
                f"kv_cache_type must be paged: the backend batches in flight, which needs it; got {self.kv_cache_type}"
            )
        drafts = self.speculative_decoding_mode is not None
        if drafts != (self.max_draft_len > 0):
            raise ValueError(
                "speculative_decoding_mode and max_draft_len need each other, got "
                f"{self.speculative_decoding_mode} and {self.max_draft_len}"
            )
        if drafts and self.gather_context_logits:
            raise ValueError("gather_context_logits must be false with speculative_decoding_mode, got true")
        return self


class Backend(Section):
    """Parameters of Triton's backend ``tensorrtllm`` (config.pbtxt of the model ``tensorrt_llm``).

    Attributes:
        gpt_model_type: how requests are batched.
        batch_scheduler_policy: guaranteed_no_evict never takes a begun request off; max_utilization fills the batch,
            and computes those it took off again.
        kv_cache_free_gpu_mem_fraction: share of the memory that is free after the engine has been loaded.
        max_tokens_in_paged_kv_cache: tokens of the KV cache; None: as many as the share allows. The smaller one rules.
        kv_cache_host_memory_bytes: blocks that are not in use move there; 0: nowhere.
        kv_cache_onboard_blocks: and back to the GPU before they are used again.
        max_attention_window_size: tokens that each layer looks back; empty: all.
        sink_token_length: tokens at the beginning that a window always sees.
        enable_chunked_context: long prompts are computed in pieces between other requests' steps.
        normalize_log_probs: see TensorRT-LLM.
        cancellation_check_period_ms, stats_check_period_ms, recv_poll_period_ms: periods of the backend's threads.
        iter_stats_max_iterations, request_stats_max_iterations: steps whose statistics are kept.
        gpu_device_ids: GPUs of the ranks, such as "0,1"; None: in their order.
        participant_ids: MPI ranks that are the model's, such as "1,2"; None: all.
        num_nodes: machines.
        lora_cache_optimal_adapter_size, lora_cache_max_adapter_size, lora_cache_gpu_memory_fraction,
            lora_cache_host_memory_bytes, lora_prefetch_dir: cache of LoRA adapters.
        decoding_mode: None: what speculative_decoding_mode and max_beam_width ask for.
        lookahead_window_size, lookahead_ngram_size, lookahead_verification_set_size: for lookahead_decoding.
        gpu_weights_percent: share of the weights that stays on the GPU, with weight_streaming.
        enable_context_fmha_fp32_acc, multi_block_mode, cuda_graph_mode, cuda_graph_cache_size: kernels.
        speculative_decoding_fast_logits: draft logits go straight to the target; orchestrator mode.
        guided_decoding_backend, xgrammar_tokenizer_info_path: guided decoding; one needs the other.
        max_queue_delay_microseconds: how long the backend's queue collects requests.
    """

    gpt_model_type: Literal["inflight_fused_batching", "inflight_batching"] = "inflight_fused_batching"
    batch_scheduler_policy: Literal["guaranteed_no_evict", "max_utilization"] = "guaranteed_no_evict"
    kv_cache_free_gpu_mem_fraction: float = Field(default=0.9, gt=0, lt=1)
    max_tokens_in_paged_kv_cache: int | None = Field(default=None, ge=1, le=(1 << 31) - 1)
    kv_cache_host_memory_bytes: int = Field(default=0, ge=0)
    kv_cache_onboard_blocks: bool = True
    max_attention_window_size: tuple[int, ...] = ()
    sink_token_length: int | None = Field(default=None, ge=0)
    enable_chunked_context: bool = False
    normalize_log_probs: bool = True
    cancellation_check_period_ms: int = Field(default=100, ge=1, le=60_000)
    stats_check_period_ms: int = Field(default=100, ge=1, le=60_000)
    recv_poll_period_ms: int = Field(default=0, ge=0, le=60_000)
    iter_stats_max_iterations: int = Field(default=1000, ge=0)
    request_stats_max_iterations: int = Field(default=0, ge=0)
    gpu_device_ids: str | None = Field(default=None, pattern=r"^\d+(,\d+)*$")
    participant_ids: str | None = Field(default=None, pattern=r"^\d+(,\d+)*$")
    num_nodes: int = Field(default=1, ge=1, le=1024)
    lora_cache_optimal_adapter_size: int = Field(default=8, ge=1)
    lora_cache_max_adapter_size: int = Field(default=64, ge=1)
    lora_cache_gpu_memory_fraction: float = Field(default=0.05, ge=0, le=1)
    lora_cache_host_memory_bytes: int = Field(default=1 << 30, ge=0)
    lora_prefetch_dir: str | None = Field(default=None, min_length=1)
    decoding_mode: Literal["top_k", "top_p", "top_k_top_p", "beam_search", "lookahead"] | None = None
    lookahead_window_size: int | None = Field(default=None, ge=1)
    lookahead_ngram_size: int | None = Field(default=None, ge=1)
    lookahead_verification_set_size: int | None = Field(default=None, ge=1)
    gpu_weights_percent: float = Field(default=1.0, ge=0, le=1)
    enable_context_fmha_fp32_acc: bool = False
    multi_block_mode: bool = True
    cuda_graph_mode: bool = False
    cuda_graph_cache_size: int = Field(default=0, ge=0)
    speculative_decoding_fast_logits: bool = False
    guided_decoding_backend: Literal["xgrammar"] | None = None
    xgrammar_tokenizer_info_path: str | None = Field(default=None, min_length=1)
    max_queue_delay_microseconds: int = Field(default=0, ge=0, le=1_000_000)

    @model_validator(mode="after")
    def _consistent(self) -> Backend:
        if (self.guided_decoding_backend is None) != (self.xgrammar_tokenizer_info_path is None):
            raise ValueError("guided_decoding_backend and xgrammar_tokenizer_info_path need each other")
        if self.cuda_graph_cache_size and not self.cuda_graph_mode:
            raise ValueError(
                f"cuda_graph_cache_size must be 0 when cuda_graph_mode is false, got {self.cuda_graph_cache_size}"
            )
        return self
