"""Write client/src/conch_client/_contract.py from src/conch/contract.py.

The client is installed alone, without this library, so it carries its own copy of the names and types. A test checks
that the copy is what this script writes.

    python build_scripts/write_client_contract.py [--check]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from conch import contract
from conch.contract import Control, DType, TensorSpec

TARGET = Path(__file__).resolve().parents[1] / "client" / "src" / "conch_client" / "_contract.py"

# `stream` and `stop` are no parameters of the client: its methods generate, stream and cancel say it.
CONTROLS = tuple(c for c in contract.CONTROLS if c not in (contract.STREAM, contract.STOP))

_GUIDES = ("GUIDED_DECODING_GUIDE_TYPE", "GUIDED_DECODING_GUIDE")
_OUTPUTS = (
    "FINISH_REASON", "NUM_INPUT_TOKENS", "NUM_OUTPUT_TOKENS", "OUTPUT_LOG_PROBS", "CUM_LOG_PROBS", "TOKEN_IDS",
)  # fmt: skip

_PYTHON_TYPES = {
    DType.BYTES: "str",
    DType.BOOL: "bool",
    DType.INT32: "int",
    DType.INT64: "int",
    DType.UINT64: "int",
    DType.FP32: "float",
}

_HEAD = '''"""Names and types of the request contract. Written by build_scripts/write_client_contract.py."""

# ruff: noqa: E501

from __future__ import annotations

from typing import NamedTuple, TypedDict


class Control(NamedTuple):
    """A control of a request.

    Attributes:
        dtype: dtype in the KServe v2 protocol.
        dims: shape without the batch dimension; -1 is any length.
        doc: meaning, unit and default.
    """

    dtype: str
    dims: tuple[int, ...]
    doc: str

'''


def python_type(control: Control) -> str:
    """Type of the keyword argument, as source text."""
    scalar = _PYTHON_TYPES[control.dtype]
    return f"list[{scalar}]" if control.dims == (-1,) else scalar


def _quoted(value: str | int) -> str:
    return json.dumps(value, ensure_ascii=False)


def _names(name: str, tensors: Iterable[TensorSpec]) -> list[str]:
    return [f"{name} = (", *(f"    {_quoted(tensor.name)}," for tensor in tensors), ")"]


def render() -> str:
    """The module's source text."""
    lines = [_HEAD, "class Parameters(TypedDict, total=False):", '    """Keyword arguments of a generation."""', ""]
    lines += [f"    {c.name}: {python_type(c)}" for c in CONTROLS]
    lines += ["", "", "CONTROLS: dict[str, Control] = {"]
    lines += [f'    "{c.name}": Control("{c.dtype.value}", {c.dims!r}, {_quoted(c.doc)}),' for c in CONTROLS]
    lines += ["}"]
    lines += [f"{name} = {_quoted(getattr(contract, name).name)}" for name in ("STREAM", "STOP")]
    lines += [f"{name} = {_quoted(getattr(contract, name).name)}" for name in _GUIDES]
    lines += [""]
    lines += ["# Text inputs, BYTES of dims (1,), and outputs."]
    for name in ("TEXT_INPUT", "MESSAGES", "TEXT_OUTPUT", *_OUTPUTS):
        lines.append(f"{name} = {_quoted(getattr(contract, name).name)}")
    lines += _names("PERF_TIMES", contract.PERF_TIMES) + _names("REPORTED", contract.REPORTED)
    lines += ["", f"DEFAULT_MODEL = {_quoted(contract.ENSEMBLE.name)}"]
    models = contract.model_names(twins=False)
    lines += [f"MODELS = ({', '.join(map(_quoted, models))})"]
    twins = [_quoted(name) for name in contract.model_names(twins=True) if name not in models]
    lines += ["# A release may do without them.", f"TWINS = ({', '.join(twins)})"]
    lines += [f"ENSEMBLES = ({', '.join(_quoted(e.name) for e in contract.ENSEMBLES)})", ""]
    lines += ["# Ensemble -> contract's name of a tensor -> its name there, where it differs."]
    lines += ["RENAMES: dict[str, dict[str, str]] = {"]
    lines += [f"    {_quoted(e.name)}: {json.dumps(e.renames)}," for e in contract.ENSEMBLES if e.renames]
    lines += ["}", ""]
    for name in (
        "DEFAULT_HOST", "HOST_VARIABLE", "HTTP_PORT_VARIABLE", "DEFAULT_HTTP_PORT", "GRPC_PORT_VARIABLE",
        "DEFAULT_GRPC_PORT", "METRICS_PORT_VARIABLE", "DEFAULT_METRICS_PORT",
    ):  # fmt: skip
        lines.append(f"{name} = {_quoted(getattr(contract, name))}")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the module, or with --check say whether it is up to date (exit code 1 if not)."""
    parser = argparse.ArgumentParser(description="Write the client's copy of the request contract.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the file is out of date")
    check = parser.parse_args().check
    if check:
        current = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
        if current != render():
            print("client/src/conch_client/_contract.py is out of date; run write_client_contract.py", file=sys.stderr)
            return 1
        return 0
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
