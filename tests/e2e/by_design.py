"""What the runtime that the tests run on refuses, as src/conch/support.py says: asserted, then skipped with the reason.

With CONCH_TEST_SPEC=smollm2-135m-swapped that is tensorrtllm; otherwise openvino, which refuses nothing that these
tests need.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from server_processes import BEAMS, DEFAULT_SPEC, SWAPPED
from triton_calls import Reply, infer

from conch.contract import ENSEMBLE, Control
from conch.spec import Runtime
from conch.support import REFUSED

RUNTIME = Runtime.TENSORRTLLM if DEFAULT_SPEC.endswith(SWAPPED) else Runtime.OPENVINO
_REASONS = {c: why for c, why in REFUSED[RUNTIME].items() if c not in REFUSED[Runtime.OPENVINO]}


def refusal_of(control: Control) -> str:
    """The text of the refusal of a control by this runtime."""
    return f"UNSUPPORTED: {control.name} is not supported by the runtime {RUNTIME.value}: {REFUSED[RUNTIME][control]}"


def skip_if_refused(names: Collection[str], reply: Reply) -> None:
    """Skip a test of fields that the runtime refuses by design, after a look at whether it did, by name."""
    for control in _REASONS:
        if control.name in names:
            assert reply.error == f"in ensemble '{ENSEMBLE.name}', {refusal_of(control)}"
            pytest.skip(f"refused by design: {refusal_of(control)}")


def need(stub: Any, control: Control, value: Any) -> None:
    """The same before a test of one control."""
    if control in _REASONS:
        fields = {"text_input": "x", "max_tokens": 2, control.name: value}
        skip_if_refused([control.name], infer(stub, ENSEMBLE.name, fields))


def for_beams(spec: str, beam_width: int = 2) -> str:
    """The spec to ask for beam search on: a compiled engine either searches or samples."""
    return f"{spec}{SWAPPED}{BEAMS}" if RUNTIME is Runtime.TENSORRTLLM and beam_width > 1 else spec
