"""Section ``engine.tensorrt_llm`` of a spec: how TensorRT-LLM 1.2.1 converts, compiles and serves a model.

Keys are TensorRT-LLM's own: flags of its quantization script and of ``trtllm-build``, fields of its PluginConfig, and
parameters of Triton's backend ``tensorrtllm``. What is not here is TensorRT-LLM's to decide, or Conch's (paths).
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from conch.spec_base import Section
from conch.spec_trtllm_sections import Backend, Build, Plugins, Quantization

VERSION: Literal["1.2.1"] = "1.2.1"
IMAGE = "nvcr.io/nvidia/tritonserver"
# Triton's containers that carry TensorRT-LLM, by tag (<tag>-trtllm-python-py3): version inside. 26.07 is the last one
# whose TensorRT-LLM compiles and loads engines.
CONTAINERS = {
    "26.07": "1.2.1", "26.06": "1.2.1", "26.05": "1.2.1", "26.04": "1.2.1", "26.03": "1.2.0", "26.02": "1.1.0",
    "26.01": "1.1.0", "25.12": "1.1.0", "25.11": "1.0.3", "25.10": "1.0.0", "25.09": "1.0.0", "25.08": "0.21.0",
    "25.07": "0.20.0", "25.06": "0.20.0", "25.05": "0.19.0", "25.04": "0.18.2", "25.03": "0.18.0",
    "25.02": "0.17.0.post1", "25.01": "0.17.0", "24.12": "0.16.0", "24.11": "0.15.0", "24.10": "0.14.0",
}  # fmt: skip
_TAG = re.compile(r":(\d\d\.\d\d)-trtllm-python-py3")

# architectures of a Hugging Face config.json -> folder of the script that converts it (examples/models/core).
CONVERTERS = {
    "LlamaForCausalLM": "llama", "MistralForCausalLM": "llama", "MixtralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen", "Qwen2MoeForCausalLM": "qwen", "Qwen3ForCausalLM": "qwen",
    "Qwen3MoeForCausalLM": "qwen",
}  # fmt: skip

# Lowest compute capability that TensorRT-LLM 1.2 supports at all, Ampere's (docs/memory_planner.md).
LEAST_CAPABILITY = (8, 0)
# Lowest compute capability (tens: 8.9 is 89) that has the arithmetic of a format.
LOWEST_SM = {"fp8": 89, "fp8_pc_pt": 89, "w4a8_awq": 89, "nvfp4": 100, "int4_awq": 80}

Dtype = Literal["auto", "float16", "bfloat16", "float32"]


class TensorRtLlm(Section):
    """TensorRT-LLM: from a Hugging Face checkpoint to a served engine.

    Attributes:
        version: of TensorRT-LLM; 1.2.1 is the last line that compiles and loads engines.
        container: Triton's container that carries that version, for the build and for serving.
        architecture: the model's, as its config.json names it.
        compute_capability: of the GPU to compile for ("9.0" is an H100); None: that of the machine. An engine runs on
            no other.
        dtype: of weights and activations that are not quantized.
        tp_size, pp_size: GPUs that share every layer, and groups of layers on different GPUs.
        gpus_per_node: for the launch over several machines.
        served_repository: where the serving container sees the model repository; the backend takes absolute paths.
        quantization, build, plugin_config, backend: see there.
    """

    version: Literal["1.2.1"] = VERSION
    container: str = Field(default=f"{IMAGE}:26.07-trtllm-python-py3", min_length=1)
    architecture: str
    compute_capability: str | None = Field(default=None, pattern=r"^\d{1,2}\.\d$")
    dtype: Dtype = "auto"
    tp_size: int = Field(default=1, ge=1, le=1024)
    pp_size: int = Field(default=1, ge=1, le=1024)
    gpus_per_node: int = Field(default=8, ge=1, le=64)
    served_repository: str = Field(default="/model_repository", pattern=r"^/[^\s\"]*$")
    quantization: Quantization = Quantization()
    build: Build = Build()
    plugin_config: Plugins = Plugins()
    backend: Backend = Backend()

    @property
    def world_size(self) -> int:
        """Ranks: one GPU each."""
        return self.tp_size * self.pp_size

    @field_validator("compute_capability", mode="before")
    @classmethod
    def _number_as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, float) else value  # YAML reads 8.9 without quotes as a number

    @field_validator("architecture")
    @classmethod
    def _decoder_only(cls, value: str) -> str:
        if value not in CONVERTERS:
            raise ValueError(f"must be a decoder-only model: one of {', '.join(CONVERTERS)}; got {value!r}")
        return value

    @field_validator("container")
    @classmethod
    def _carries_the_version(cls, value: str) -> str:
        if re.search(r"\s", value) or value.startswith("-"):
            raise ValueError(f"must be the name of an image, got {value!r}")
        tag = image_tag(value)
        if tag is None:  # another name: the build and the launch ask Docker which container it was made from
            return value
        found = CONTAINERS.get(tag)
        if found != VERSION:
            carries = f"carries {found}" if found else "is not known to carry it"
            good = ", ".join(t for t, v in CONTAINERS.items() if v == VERSION)
            raise ValueError(f"must carry TensorRT-LLM {VERSION} (tags {good}), and {tag} {carries}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> TensorRtLlm:
        plugins, build, backend = self.plugin_config, self.build, self.backend
        if self.compute_capability is not None:
            require_arithmetic(self, self.compute_capability)
        self._check_plugins()
        if plugins.multiple_profiles and build.opt_num_tokens is not None:
            raise ValueError("build.opt_num_tokens must not be set with plugin_config.multiple_profiles")
        if bool(build.lora_dir or build.lora_target_modules) != (plugins.lora_plugin is not None):
            raise ValueError("plugin_config.lora_plugin needs build.lora_dir or build.lora_target_modules, and they it")
        if backend.enable_chunked_context and not (plugins.use_paged_context_fmha and plugins.context_fmha):
            raise ValueError("backend.enable_chunked_context needs plugin_config.use_paged_context_fmha")
        if backend.gpu_device_ids is not None and len(backend.gpu_device_ids.split(",")) != self.world_size:
            raise ValueError(f"backend.gpu_device_ids must name {self.world_size} GPUs (tp_size * pp_size), "
                             f"got {backend.gpu_device_ids}")  # fmt: skip
        if backend.gpu_weights_percent < 1 and not build.weight_streaming:
            raise ValueError("backend.gpu_weights_percent must be 1 without build.weight_streaming, "
                             f"got {backend.gpu_weights_percent}")  # fmt: skip
        self._check_nodes()
        self._check_decoding()
        return self

    def _check_plugins(self) -> None:
        plugins, quantization = self.plugin_config, self.quantization
        if plugins.user_buffer and not plugins.reduce_fusion:
            raise ValueError("plugin_config.user_buffer needs plugin_config.reduce_fusion")
        if plugins.pp_reduce_scatter and self.architecture != "MixtralForCausalLM":
            raise ValueError("plugin_config.pp_reduce_scatter is for MixtralForCausalLM alone")
        for name in ("gemm_swiglu_plugin", "low_latency_gemm_plugin", "low_latency_gemm_swiglu_plugin"):
            if getattr(plugins, name) == "fp8" and quantization.qformat != "fp8":
                raise ValueError(f"plugin_config.{name} is fp8, so quantization.qformat must be, "
                                 f"got {quantization.qformat}")  # fmt: skip
        if plugins.fp8_rowwise_gemm_plugin and quantization.qformat != "fp8_pc_pt":
            raise ValueError(f"plugin_config.fp8_rowwise_gemm_plugin needs quantization.qformat fp8_pc_pt, "
                             f"got {quantization.qformat}")  # fmt: skip

    def _check_nodes(self) -> None:
        needed = -(-self.world_size // self.gpus_per_node)
        if self.backend.num_nodes != needed:
            raise ValueError(
                f"backend.num_nodes must be {needed} for {self.world_size} ranks on machines of {self.gpus_per_node} "
                f"GPUs, got {self.backend.num_nodes}"
            )

    def _check_decoding(self) -> None:
        build, backend = self.build, self.backend
        wanted = build.speculative_decoding_mode == "lookahead_decoding"
        if backend.decoding_mode is not None and (backend.decoding_mode == "lookahead") != wanted:
            raise ValueError(
                "backend.decoding_mode lookahead and build.speculative_decoding_mode lookahead_decoding need each "
                f"other, got {backend.decoding_mode} and {build.speculative_decoding_mode}"
            )
        if backend.decoding_mode == "beam_search" and build.max_beam_width == 1:
            raise ValueError("backend.decoding_mode beam_search needs build.max_beam_width > 1, got 1")
        sizes = (backend.lookahead_window_size, backend.lookahead_ngram_size, backend.lookahead_verification_set_size)
        if any((size is not None) != wanted for size in sizes):
            raise ValueError("build.speculative_decoding_mode lookahead_decoding and backend.lookahead_window_size, "
                             "lookahead_ngram_size and lookahead_verification_set_size need each other")  # fmt: skip


def image_tag(image: str) -> str | None:
    """The release of Triton's containers that an image's name says, such as "26.07"; None for another name."""
    tag = _TAG.search(image)
    return tag[1] if tag else None


def require_arithmetic(settings: TensorRtLlm, compute_capability: str) -> None:
    """Check that a GPU can compute in the formats that are asked for.

    Args:
        settings: of the spec.
        compute_capability: of the GPU, such as "8.6".

    Raises:
        ValueError: it cannot; names the key, what it needs and what there is.
    """
    sm = int(compute_capability.replace(".", ""))
    if sm < 10 * LEAST_CAPABILITY[0] + LEAST_CAPABILITY[1]:
        least = "{}.{}".format(*LEAST_CAPABILITY)
        raise ValueError(f"compute_capability must be {least} or more for TensorRT-LLM {VERSION}, "
                         f"got {compute_capability}")  # fmt: skip
    wanted = {
        "quantization.qformat": settings.quantization.qformat,
        "quantization.kv_cache_dtype": settings.quantization.kv_cache_dtype or "",
    }
    lowest = {f"{key} {value}": LOWEST_SM.get(value, 0) for key, value in wanted.items()}
    lowest["dtype bfloat16"] = 80 if settings.dtype == "bfloat16" else 0
    for what, needed in lowest.items():
        if sm < needed:
            least = f"{needed // 10}.{needed % 10}"
            raise ValueError(f"{what} needs a GPU of compute capability {least} or more, got {compute_capability}")
    if settings.plugin_config.gemm_swiglu_plugin == "fp8" and sm != 90:
        raise ValueError(f"plugin_config.gemm_swiglu_plugin fp8 needs compute capability 9.0, got {compute_capability}")
