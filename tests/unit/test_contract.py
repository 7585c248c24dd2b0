"""The contract is consistent in itself, is written nowhere else, and its page is up to date."""

from __future__ import annotations

import ast
import math
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from conch import contract, spec_trtllm_sections, spec_vllm
from conch.contract import (
    ALIASES,
    CONTROLS,
    DETOKENIZER,
    ENGINE,
    ENSEMBLES,
    STAGES,
    TOKENIZER,
    TRITON_PARAMETERS,
    DType,
    EnsembleContract,
    ModelContract,
    Range,
    ensembles,
    stages,
)
from conch.engines import llmapi_core, vllm_core
from conch.trtllm import tensors as backend_tensors

ROOT = Path(__file__).resolve().parents[2]
DOCS_SCRIPT = ROOT / "build_scripts" / "write_contract_docs.py"
# Names of TensorRT-LLM's and vLLM's, some of which are ours, too. So are some that the importers read.
OTHER_CONTRACTS = tuple(
    Path(module.__file__) for module in (backend_tensors, spec_trtllm_sections, spec_vllm, vllm_core, llmapi_core)
)
MODELS: tuple[ModelContract | EnsembleContract, ...] = (*stages(True), *ensembles(True))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_tensors_of_a_model_have_names_of_their_own(model: ModelContract | EnsembleContract) -> None:
    for tensors in (model.inputs, model.outputs):
        names = [t.name for t in tensors]
        assert len(names) == len(set(names))
        assert all(t.doc.endswith(".") for t in tensors)
        assert all(dim == -1 or dim > 0 for t in tensors for dim in t.dims)


def test_every_control_is_an_optional_input_of_the_tokenizer_and_of_the_engine() -> None:
    for control in CONTROLS:
        assert control.public in TOKENIZER.inputs
        assert control.engine in TOKENIZER.outputs
        assert control.engine in ENGINE.inputs
        assert control.public.optional
        assert control.engine.optional
    for alias, control in ALIASES.items():
        assert alias not in {c.name for c in CONTROLS}
        assert control.public.renamed(alias) in TOKENIZER.inputs


def test_each_stage_feeds_the_next() -> None:
    for earlier, later in ((TOKENIZER, ENGINE), (ENGINE, DETOKENIZER)):
        made = {t.name: (t.dtype, t.dims, t.optional) for t in earlier.outputs}
        for tensor in later.inputs:
            assert made[tensor.name][:2] == (tensor.dtype, tensor.dims)
            assert tensor.optional or not made[tensor.name][2], f"{tensor.name} may be missing"


def test_ensembles_have_the_tokenizer_s_inputs_and_the_text_first() -> None:
    for ensemble in ensembles(True):
        assert len(ensemble.inputs) == len(TOKENIZER.inputs)
        assert ensemble.outputs[0].dtype is DType.BYTES
        assert set(ensemble.renames) <= {t.name for t in (*TOKENIZER.inputs, *DETOKENIZER.outputs)}
    assert ENSEMBLES[1].inputs[0].name == "INPUT_TEXT"
    assert ENSEMBLES[1].outputs[0].name == "OUTPUT_TEXT"


def test_no_input_is_named_like_a_parameter_of_triton_s_own() -> None:
    names = {t.name for model in MODELS for t in model.inputs}
    assert not names & TRITON_PARAMETERS


@pytest.mark.parametrize(
    ("allowed", "inside", "outside", "text"),
    [
        (Range(0, 1), (0, 0.5, 1), (-0.001, 1.001, math.nan, math.inf), "in [0, 1]"),
        (Range(0, 10, low_open=True), (0.001, 10), (0, 10.1, -math.inf), "in (0, 10]"),
        (Range(1), (1, 10**9), (0, math.inf), "a finite number >= 1"),
        (Range(0, low_open=True), (0.1,), (0, math.nan), "a finite number > 0"),
        (Range(), (-1e30, 0), (math.nan, -math.inf), "a finite number"),
        (Range(0.5, 1.5), (0.5,), (0.4,), "in [0.5, 1.5]"),
    ],
)
def test_ranges(allowed: Range, inside: tuple[float, ...], outside: tuple[float, ...], text: str) -> None:
    assert all(allowed.contains(value) for value in inside)
    assert not any(allowed.contains(value) for value in outside)
    assert str(allowed) == text


def test_no_tensor_is_named_outside_of_the_contract() -> None:
    names = {t.name for model in MODELS for t in (*model.inputs, *model.outputs)} - {*contract.FINISH_REASONS}
    found = []
    sources = [*(ROOT / "src/conch").rglob("*.py"), *(ROOT / "python_backends").rglob("*.py")]
    assert len(sources) > 30
    for path in sources:
        if path in (Path(contract.__file__), *OTHER_CONTRACTS) or path.parent.name == "importers":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in names:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.value!r}")
    assert found == []


def test_the_page_of_the_contract_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, DOCS_SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_page_names_everything() -> None:
    script = runpy.run_path(str(DOCS_SCRIPT))
    page = script["render"]()
    for model in MODELS:
        whole = model in (*STAGES, *ENSEMBLES)
        assert (f"### {model.name}\n" if whole else f"`{model.name}`") in page
        assert all(f"`{t.name}`" in page for t in (*model.inputs, *model.outputs))
    for control in CONTROLS:
        _, default = script["_default"](control)
        says_none = control.doc.endswith("Default none.") or control in (contract.STOP_WORDS, contract.BAD_WORDS)
        assert default != "none" or says_none, f"{control.name} does not say its default"
