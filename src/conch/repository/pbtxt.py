"""config.pbtxt: protobuf messages built from the contract and printed, never text templates."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from conch.contract import (
    DETOKENIZER,
    ENGINE,
    TOKENIZER,
    UNSIGNED,
    EnsembleContract,
    ModelContract,
    Rows,
    TensorSpec,
    ensembles,
    stages,
)
from conch.spec import ModelSpec
from conch.trtllm.config import backend_model_config

CONFIG_FILE = "config.pbtxt"
_HEADER = "# Written by the build from conch.contract and the spec. Changes here are refused by the check.\n"


def model_configs(spec: ModelSpec, version: int) -> dict[str, str]:
    """The config.pbtxt of every model of a release.

    Args:
        spec: model spec.
        version: the one version that is served; the ensembles pin their steps to it.

    Returns:
        Model name -> text.
    """
    messages = [_stage(stage, spec, version) for stage in stages(spec.serving.twins)]
    messages += [_ensemble(ensemble, spec, version) for ensemble in ensembles(spec.serving.twins)]
    if spec.engine.tensorrt_llm is not None:
        messages.append(backend_model_config(spec, spec.engine.tensorrt_llm, version))
    return {m.name: _HEADER + text_format.MessageToString(m) for m in messages}


def pinned_version(text: str) -> int:
    """The version that an ensemble's config.pbtxt pins its steps to.

    Raises:
        ValueError: not a config.pbtxt, or its steps disagree.
    """
    try:
        config = text_format.Parse(text, pb.ModelConfig())
    except text_format.ParseError as error:
        raise ValueError(str(error)) from None
    versions = {step.model_version for step in config.ensemble_scheduling.step}
    if len(versions) != 1 or min(versions) < 1:
        raise ValueError(f"the steps must be pinned to one version, got {sorted(versions)}")
    return int(versions.pop())


def _base(name: str, spec: ModelSpec, version: int) -> pb.ModelConfig:
    config = pb.ModelConfig(name=name, max_batch_size=spec.serving.max_rows)
    config.version_policy.specific.versions.append(version)
    return config


def _stage(contract: ModelContract, spec: ModelSpec, version: int) -> pb.ModelConfig:
    config = _base(contract.name, spec, version)
    config.backend = "python"
    _add_inputs(config, contract.inputs)
    _add_outputs(config, contract.outputs)
    config.model_transaction_policy.decoupled = contract.decoupled
    # One process each: the engine batches inside, and the text stages are far from being a process' worth of work.
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    if contract in (UNSIGNED, TOKENIZER, DETOKENIZER):
        # What waits while the stage is busy goes to it in one call. Order is kept, or a stream's pieces would mix.
        config.dynamic_batching.preserve_ordering = True
        config.max_batch_size = max(spec.serving.max_rows, spec.engine.max_batch_size)
    if contract is DETOKENIZER:
        # The tokens of one engine step arrive one after the other; decoding them in one call saves two thirds of its
        # cost. Waiting 0.3 ms for them delays a stream once, not every token of it.
        config.dynamic_batching.max_queue_delay_microseconds = 300
    if contract is ENGINE:
        config.parameters["runtime"].string_value = spec.engine.runtime.value
    return config


def _ensemble(contract: EnsembleContract, spec: ModelSpec, version: int) -> pb.ModelConfig:
    config = _base(contract.name, spec, version)
    if contract.rows is not Rows.MANY:
        # Triton adds the dimension of the row before a step that has one, and takes it away from what goes out.
        config.max_batch_size = 0
    config.platform = "ensemble"
    _add_inputs(config, contract.inputs)
    _add_outputs(config, contract.outputs)
    for stage in contract.steps:
        step = config.ensemble_scheduling.step.add(model_name=stage.name, model_version=version)
        for tensor in stage.inputs:
            step.input_map[tensor.name] = _source(contract, stage, tensor)
        for tensor in stage.outputs:
            target = _target(contract, stage, tensor)
            if target is not None:
                step.output_map[tensor.name] = target
    return config


def _source(contract: EnsembleContract, stage: ModelContract, tensor: TensorSpec) -> str:
    """Name, inside of the ensemble, of what an input of a step is made from."""
    if stage is contract.steps[0]:
        return contract.renames.get(tensor.name, tensor.name)
    if UNSIGNED in contract.steps and stage is contract.steps[1]:
        return _signed(tensor)
    return _inner(tensor, contract)


def _target(contract: EnsembleContract, stage: ModelContract, tensor: TensorSpec) -> str | None:
    """Name, inside of the ensemble, of an output of a step; None where nobody wants it."""
    if stage is UNSIGNED:
        return _signed(tensor)
    if stage is contract.steps[-1]:
        name = contract.renames.get(tensor.name, tensor.name)
        return name if any(name == t.name for t in contract.outputs) else None
    wanted = stage is TOKENIZER or tensor.name in {t.name for t in (*DETOKENIZER.inputs, *contract.outputs)}
    return _inner(tensor, contract) if wanted else None


def _signed(tensor: TensorSpec) -> str:
    return f"signed_{tensor.name}"


def _inner(tensor: TensorSpec, contract: EnsembleContract) -> str:
    """Name of a tensor between two of the three stages.

    A control keeps its name through the tokenizer; the underscore tells the checked one from the one that the client
    sent.
    """
    return tensor.name if any(tensor.name == t.name for t in contract.outputs) else f"_{tensor.name}"


def _add_inputs(config: pb.ModelConfig, tensors: Iterable[TensorSpec]) -> None:
    for tensor in tensors:
        added = config.input.add(name=tensor.name, dims=tensor.dims, optional=tensor.optional)
        added.data_type = pb.DataType.Value(tensor.dtype.triton_name)
        if tensor.ragged and not config.platform:
            added.allow_ragged_batch = True


def _add_outputs(config: pb.ModelConfig, tensors: Iterable[TensorSpec]) -> None:
    for tensor in tensors:
        added = config.output.add(name=tensor.name, dims=tensor.dims)
        added.data_type = pb.DataType.Value(tensor.dtype.triton_name)
