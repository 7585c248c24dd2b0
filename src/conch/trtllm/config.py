"""config.pbtxt of the model ``tensorrt_llm``: Triton's C++ backend over the compiled engine."""

from __future__ import annotations

from tritonclient.grpc import model_config_pb2 as pb

from conch.spec import ModelSpec
from conch.spec_trtllm import TensorRtLlm
from conch.trtllm.parameters import backend_parameters
from conch.trtllm.tensors import (
    BACKEND,
    BACKEND_MODEL,
    EMBEDDINGS,
    ENCODER,
    INPUTS,
    LOGITS,
    OUTPUTS,
)

_EMBEDDING_TYPES = {"auto": "FP16", "float16": "FP16", "bfloat16": "BF16", "float32": "FP32"}
_LOGITS_TYPES = {"float32": "FP32", "float16": "FP16"}


def backend_model_config(spec: ModelSpec, settings: TensorRtLlm, version: int) -> pb.ModelConfig:
    """The message, complete: Triton fills in nothing.

    Args:
        spec: model spec.
        settings: its section ``engine.tensorrt_llm``.
        version: the one version that is served.
    """
    config = pb.ModelConfig(name=BACKEND_MODEL, backend=BACKEND, max_batch_size=spec.engine.max_batch_size)
    config.version_policy.specific.versions.append(version)
    config.model_transaction_policy.decoupled = True  # streams; without it the backend refuses more than one row, too
    types = {
        LOGITS: _LOGITS_TYPES[settings.build.logits_dtype], EMBEDDINGS: _EMBEDDING_TYPES[settings.dtype],
        ENCODER: "FP16",
    }  # fmt: skip
    for tensor in INPUTS:
        added = config.input.add(name=tensor.name, dims=tensor.dims, optional=tensor.optional)
        added.data_type = pb.DataType.Value(f"TYPE_{types.get(tensor.data_type, tensor.data_type)}")
        added.allow_ragged_batch = tensor.ragged
        if tensor.scalar:
            added.reshape.SetInParent()  # reshape { }: no dimension
    for tensor in OUTPUTS:
        output = config.output.add(name=tensor.name, dims=tensor.dims)
        output.data_type = pb.DataType.Value(f"TYPE_{types.get(tensor.data_type, tensor.data_type)}")
    config.dynamic_batching.preferred_batch_size.append(spec.engine.max_batch_size)
    config.dynamic_batching.max_queue_delay_microseconds = settings.backend.max_queue_delay_microseconds
    # The backend hands this limit to the executor; it reads no other part of the queue's policy.
    config.dynamic_batching.default_queue_policy.max_queue_size = spec.serving.max_queue_size
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)  # the engine chooses its GPUs itself
    for name, value in backend_parameters(spec.engine, settings, version).items():
        config.parameters[name].string_value = value
    return config
