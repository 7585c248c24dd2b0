"""Write docs/contract.md from src/conch/contract.py.

A test checks that the page is what this script writes.

    python build_scripts/write_contract_docs.py [--check]
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from conch import contract
from conch.contract import Control, EnsembleContract, ModelContract, TensorSpec
from conch.spec import Runtime
from conch.support import NARROWER, REFUSED

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "contract.md"
FIELD_TESTS = ROOT / "tests" / "e2e" / "test_fields.py"

_HEAD = """\
<!-- Written by build_scripts/write_contract_docs.py from src/conch/contract.py. -->

# The request contract

Names, dtypes and dims of everything that goes in and out, as in each model's `config.pbtxt`. Dims leave out the batch
dimension: on the wire every tensor has one more in front, the rows of the request. -1 is any length.

A client sends to `ensemble`, or to `llama_pipeline`, which is the same under two other names. Every control is
optional. One out of its range, or one that this release cannot honour, is an error that names it; nothing is
ignored. A field that nobody knows is an error too. How errors look on each protocol: [errors.md](errors.md).
"""

_HONOURED = {
    Runtime.OPENVINO: "yes", Runtime.ECHO: "yes", Runtime.TENSORRTLLM: "handed on; never run",
    Runtime.VLLM: "yes", Runtime.LLMAPI: "handed on; never run",
}  # fmt: skip
# What depends on the spec: runtime -> control -> how.
_WITH = {
    Runtime.VLLM: {contract.LORA_TASK_ID: "with `vllm.lora_modules`"},
    Runtime.LLMAPI: {
        **dict.fromkeys(
            (contract.BAD_WORDS, contract.GUIDED_DECODING_GUIDE_TYPE, contract.GUIDED_DECODING_GUIDE),
            "with `llmapi.guided_decoding_backend`; never run",
        ),
        **dict.fromkeys(
            (contract.REPETITION_PENALTY, contract.PRESENCE_PENALTY, contract.FREQUENCY_PENALTY),
            "with `llmapi.sampler_type: TRTLLMSampler`; never run",
        ),
    },
}  # fmt: skip
_PUBLIC_NAMES = {*(c.name for c in contract.CONTROLS), *contract.ALIASES}
_ENGINE_NAMES = {c.engine_name for c in contract.CONTROLS}
_CONTROL_NAMES = _PUBLIC_NAMES | _ENGINE_NAMES
_CONTROL_GROUPS = (
    ("every control, and the other names", _PUBLIC_NAMES),
    ("every control, as on the engine", _ENGINE_NAMES),
)


def _default(control: Control) -> tuple[str, str]:
    """Meaning and default of a control, from its one-line doc."""
    meaning, _, default = control.doc.partition(" Default")
    return meaning, default.lstrip(": ").rstrip(".") or "none"


def _dims(dims: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, dims))}]"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _controls() -> list[str]:
    rows = []
    for control in contract.CONTROLS:
        meaning, default = _default(control)
        allowed = "" if control.allowed is None else str(control.allowed)
        rows.append(
            [
                f"`{control.name}`", f"`{control.engine_name}`", control.dtype.value, _dims(control.dims), allowed,
                default, meaning,
            ]
        )  # fmt: skip
    header = ("control", "on the engine", "dtype", "dims", "allowed", "default", "meaning")
    aliases = [f"`{alias}` is `{control.name}`" for alias, control in contract.ALIASES.items()]
    return [
        *_table(header, rows), "", f"Other names: {'; '.join(aliases)}. Send one of the two, not both."
    ]  # fmt: skip


def _field_test(control: Control, names: Sequence[str]) -> str:
    """The test on the real server that has the control's name in its own.

    Raises:
        LookupError: there is none, so the table would claim what nobody checked.
    """
    parts = re.compile(rf"test_(.*_)?{control.name}(_and_.*|_.*_and_.*)?")
    exact = f"test_{control.name}"
    found = exact if exact in names else next((n for n in names if parts.fullmatch(n)), None)
    if found is None:
        raise LookupError(f"{FIELD_TESTS.name} has no test of {control.name}")
    return found


def _support_of(runtime: Runtime, control: Control) -> str:
    if control in REFUSED[runtime]:
        return f"refused: {REFUSED[runtime][control]}"
    said = _WITH.get(runtime, {}).get(control, _HONOURED[runtime])
    narrower = NARROWER.get(runtime, {}).get(control)
    return said if narrower is None else f"{said}, {narrower}"


def _support() -> list[str]:
    """What each runtime does with each control, and which test shows it."""
    names = re.findall(r"^def (test_\w+)", FIELD_TESTS.read_text(encoding="utf-8"), re.MULTILINE)
    runtimes = list(REFUSED)
    rows = []
    for c in contract.CONTROLS:
        cells = (_support_of(r, c) for r in runtimes)
        rows.append([f"`{c.name}`", *cells, f"`{_field_test(c, names)}`"])
    return [
        "", "### What each runtime does with them", "",
        "A control that is refused is an error with its name. The echo engine has no model: controls of the sampling",
        "are checked and have no effect there. The tests are those of `tests/e2e/test_fields.py`; they run on the",
        "openvino runtime, and the refusals of echo on echo. vllm was run on a CPU ([more](runtimes.md)).", "",
        *_table(("control", *(r.value for r in runtimes), "checked by"), rows),
    ]  # fmt: skip


def _model(model: ModelContract | EnsembleContract) -> list[str]:
    lines = ["", f"### {model.name}", ""]
    for direction, tensors in (("in", model.inputs), ("out", model.outputs)):
        rows = [_tensor(tensor) for tensor in tensors if tensor.name not in _CONTROL_NAMES]
        names = {tensor.name for tensor in tensors}
        for title, controls in _CONTROL_GROUPS:
            if controls <= names:
                rows.append([title, "", "", "optional", "see above"])
                break
        lines += [*_table((direction, "dtype", "dims", "", "meaning"), rows), ""]
    return lines[:-1]


def _tensor(tensor: TensorSpec) -> list[str]:
    optional = "optional" if tensor.optional else ""
    return [f"`{tensor.name}`", tensor.dtype.value, _dims(tensor.dims), optional, tensor.doc]


def _twins() -> list[str]:
    unsigned = [f"`{t.name}`" for t in contract.UNSIGNED.inputs if t.dtype is contract.DType.UINT32]
    rows = [
        [f"`{e.name}`", e.doc, _with_row("text_input", e), _with_row("stop_words", e), _outputs(e)]
        for e in contract.TWINS
    ]
    doc = "As ensemble, answers once, through HTTP infer and unary gRPC, too; `stream` must be false."
    rows.insert(2, [f"`{contract.UNARY.name}`", doc, "[rows, 1]", "[rows, -1]", "[rows * sequences]"])
    header = ("model", "what it is", "shape of `text_input` and of numbers", "of `stop_words`", "of `text_output`")
    return [
        "", "## Twins of ensemble", "",
        "Some clients send other dtypes or shapes than `ensemble` takes, or cannot read a stream. For them there are",
        "models with the same fields and the same answers. `serving.twins: false` in the spec leaves them out.", "",
        *_table(header, rows), "",
        f"UINT32 in the models whose names end in `u32`: {', '.join(unsigned)}. Their first step, the model",
        f"`{contract.UNSIGNED.name}`, makes INT32 of them.", "",
        "`unary_scalar` sends `text_output` alone. The others send what `ensemble` sends.",
    ]  # fmt: skip


def _with_row(name: str, ensemble: EnsembleContract) -> str:
    return next(_dims(t.dims) for t in ensemble.inputs if t.name == name)


def _outputs(ensemble: EnsembleContract) -> str:
    return "[sequences]" if ensemble.rows is not contract.Rows.MANY else "[rows * sequences]"


def render() -> str:
    """The page."""
    lines = [_HEAD, "## Controls", "", *_controls(), *_support(), "", "## Models"]
    for ensemble in contract.ENSEMBLES:
        lines += _model(ensemble)
    for stage in contract.STAGES:
        lines += _model(stage)
    lines += _twins()
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page, or with --check say whether it is up to date (exit code 1 if not)."""
    parser = argparse.ArgumentParser(description="Write the reference page of the request contract.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is out of date")
    if parser.parse_args().check:
        current = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
        if current != render():
            print("docs/contract.md is out of date; run build_scripts/write_contract_docs.py", file=sys.stderr)
            return 1
        return 0
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
