"""Every config.pbtxt of every shipped spec, as a file to be read in a review, and against the contract.

With CONCH_WRITE_GOLDEN=1 in the environment the files are written instead of compared.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from conch.contract import (
    DETOKENIZER,
    ENGINE,
    ENSEMBLES,
    STAGES,
    TOKENIZER,
    UNSIGNED,
    EnsembleContract,
    ModelContract,
    Rows,
    TensorSpec,
    ensembles,
    model_names,
    stages,
)
from conch.repository.models import release_models
from conch.repository.pbtxt import model_configs, pinned_version
from conch.spec import load_spec

GOLDEN = Path(__file__).parent
SPECS = sorted((GOLDEN.parents[1] / "build_scripts" / "specs").glob("*.yaml"))
WRITE_VARIABLE = "CONCH_WRITE_GOLDEN"
each_spec = pytest.mark.parametrize("spec_file", SPECS, ids=lambda path: path.stem)


def configs(spec_file: Path, version: int = 1) -> dict[str, str]:
    return model_configs(load_spec(spec_file), version)


def parsed(spec_file: Path, version: int = 1) -> dict[str, pb.ModelConfig]:
    texts = configs(spec_file, version)
    return {name: text_format.Parse(text, pb.ModelConfig()) for name, text in texts.items()}


@each_spec
def test_configs_are_the_golden_ones(spec_file: Path) -> None:
    folder = GOLDEN / spec_file.stem
    texts = configs(spec_file)
    if os.environ.get(WRITE_VARIABLE):
        folder.mkdir(exist_ok=True)
        for name, text in texts.items():
            (folder / f"{name}.pbtxt").write_text(text, encoding="utf-8")
        pytest.skip("written, not compared")
    assert {path.stem: path.read_text(encoding="utf-8") for path in folder.iterdir()} == texts


def test_every_golden_folder_has_its_spec() -> None:
    folders = {path.name for path in GOLDEN.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {path.stem for path in SPECS}


def declared(tensors: Sequence[pb.ModelInput | pb.ModelOutput]) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(t.name, pb.DataType.Name(t.data_type), tuple(t.dims)) for t in tensors]


def expected(tensors: Sequence[TensorSpec]) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(t.name, t.dtype.triton_name, t.dims) for t in tensors]


@each_spec
def test_configs_say_what_the_contract_says(spec_file: Path) -> None:
    spec, found = load_spec(spec_file), parsed(spec_file)
    assert tuple(found) == release_models(spec)
    contracts: tuple[ModelContract | EnsembleContract, ...] = (*stages(True), *ensembles(True))
    for contract in contracts:
        config = found[contract.name]
        assert config.name == contract.name
        assert declared(config.input) == expected(contract.inputs)
        assert declared(config.output) == expected(contract.outputs)
        assert [t.optional for t in config.input] == [t.optional for t in contract.inputs]
        assert list(config.version_policy.specific.versions) == [1]
        if isinstance(contract, EnsembleContract) and contract.rows is not Rows.MANY:
            assert config.max_batch_size == 0
        else:
            assert config.max_batch_size >= spec.serving.max_rows
    for stage in stages(True):
        config = found[stage.name]
        assert config.backend == "python"
        assert config.model_transaction_policy.decoupled == stage.decoupled
        assert [t.allow_ragged_batch for t in config.input] == [t.ragged for t in stage.inputs]
    # A stream's pieces must not overtake each other.
    assert found[DETOKENIZER.name].dynamic_batching.preserve_ordering
    assert found[DETOKENIZER.name].instance_group[0].count == 1
    assert found[ENGINE.name].parameters["runtime"].string_value == spec.engine.runtime.value


@each_spec
@pytest.mark.parametrize("ensemble", ensembles(True), ids=lambda ensemble: ensemble.name)
def test_every_tensor_of_an_ensemble_has_one_producer(spec_file: Path, ensemble: EnsembleContract) -> None:
    config = parsed(spec_file)[ensemble.name]
    steps = config.ensemble_scheduling.step
    assert [step.model_name for step in steps] == [stage.name for stage in ensemble.steps]
    row = (1,) if ensemble.rows is Rows.ONE else ()
    types = {t.name: (t.dtype, t.dims[len(row) :]) for t in ensemble.inputs}
    assert all(t.dims[: len(row)] == row for t in ensemble.inputs)
    for step, stage in zip(steps, ensemble.steps, strict=True):
        inputs, outputs = ({t.name: t for t in tensors} for tensors in (stage.inputs, stage.outputs))
        assert set(step.input_map) == set(inputs), "an input that is not mapped would never arrive"
        assert set(step.output_map) <= set(outputs)
        for name, ensemble_name in step.input_map.items():
            assert types[ensemble_name] == (inputs[name].dtype, inputs[name].dims)
        for name, ensemble_name in step.output_map.items():
            assert ensemble_name not in types, f"{ensemble_name} has two producers"
            types[ensemble_name] = (outputs[name].dtype, outputs[name].dims)
    for tensor in ensemble.outputs:
        assert types[tensor.name] == (tensor.dtype, tensor.dims)
    # Every control goes from the client through all steps, and past the tokenizer under the engine's names.
    assert set(steps[0].input_map.values()) == {t.name for t in ensemble.inputs}
    for place, stage in enumerate(ensemble.steps[:-1]):
        if stage in (UNSIGNED, TOKENIZER):
            handed_on = {tensor.name for tensor in stage.outputs}
            made, taken = steps[place].output_map, steps[place + 1].input_map
            assert {made[name] for name in handed_on} == {taken[name] for name in handed_on}


def test_twins_can_be_left_out() -> None:
    spec = load_spec(SPECS[0])
    without = spec.model_copy(update={"serving": spec.serving.model_copy(update={"twins": False})})
    expected = {m.name for m in (*STAGES, *ENSEMBLES)}
    assert set(model_configs(without, 1)) & set(model_names(twins=True)) == expected


@each_spec
def test_a_version_is_pinned_everywhere(spec_file: Path) -> None:
    texts = configs(spec_file, 7)
    for ensemble in ensembles(True):
        assert pinned_version(texts[ensemble.name]) == 7
    assert all(list(config.version_policy.specific.versions) == [7] for config in parsed(spec_file, 7).values())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name: 7",
        "no protobuf at all {",
        'ensemble_scheduling { step { model_name: "a" model_version: -1 } }',
        'ensemble_scheduling { step { model_name: "a" model_version: 1 } step { model_name: "b" model_version: 2 } }',
    ],
)
def test_a_config_that_pins_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        pinned_version(text)
