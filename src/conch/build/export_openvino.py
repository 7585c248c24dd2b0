"""Exports a Hugging Face checkpoint to OpenVINO IR. Runs by itself, in the export environment, which has no Conch:

    python -I export_openvino.py versions
    python -I export_openvino.py export SOURCE TARGET WEIGHTS GROUP_SIZE

Numpy 2 and torch live in that environment and nowhere else: numpy 2 kills Triton's Python stub.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("optimum-intel", "openvino", "nncf", "torch", "transformers")


def print_versions() -> int:
    """Print name -> version of the packages that shape an export, as JSON; exit status 3 if one is missing."""
    try:
        print(json.dumps({name: version(name) for name in PACKAGES}))
    except PackageNotFoundError as error:
        print(error.name, file=sys.stderr)
        return 3
    return 0


def export(source: str, target: str, weights: str, group_size: int) -> None:
    """Export a checkpoint folder.

    Args:
        source: holds config.json and safetensors weights.
        target: folder to write to.
        weights: as_is, int8 or int4.
        group_size: columns that share a scale, for int4.
    """
    # Nothing may be fetched: what the spec names is here, and nothing else goes into a release.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRANSFORMERS_OFFLINE": "1"}
    if weights == "as_is":
        from optimum.exporters.openvino import main_export
        from optimum.intel import OVConfig

        main_export(
            source, target, task="text-generation-with-past", library_name="transformers", framework="pt",
            trust_remote_code=False, local_files_only=True, convert_tokenizer=False, ov_config=OVConfig(dtype="auto"),
        )  # fmt: skip
    else:
        from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

        # Not main_export: it leaves the weights as they are without a word. Int4 is for every layer that can be
        # (ratio 1); embeddings and the last layer stay in int8.
        config = (
            OVWeightQuantizationConfig(bits=8, sym=False)
            if weights == "int8"
            else OVWeightQuantizationConfig(bits=4, sym=False, group_size=group_size, ratio=1.0)
        )
        model = OVModelForCausalLM.from_pretrained(
            source, export=True, compile=False, quantization_config=config, trust_remote_code=False,
            local_files_only=True,
        )  # fmt: skip
        model.save_pretrained(target)
    require_weights(target, weights)


def require_weights(target: str, weights: str) -> None:
    """Look into the IR: are its weights what was asked for?

    Raises:
        SystemExit: they are not.
    """
    import openvino

    model = openvino.Core().read_model(Path(target, "openvino_model.xml"))
    bytes_of: dict[str, int] = {}
    for node in model.get_ops():
        if node.get_type_name() == "Constant":
            name = node.get_element_type().get_type_name()
            bytes_of[name] = bytes_of.get(name, 0) + node.get_byte_size()
    largest = max(bytes_of, key=lambda name: bytes_of[name])
    # The embeddings of a small model, which stay in int8, may outweigh its layers in int4.
    right = {
        "as_is": True,
        "int8": largest in ("u8", "i8"),
        "int4": not {"u4", "i4"}.isdisjoint(bytes_of),
    }[weights]
    if not right:
        raise SystemExit(f"the exporter wrote weights of type {largest}, and {weights} was asked for")


def main(arguments: list[str]) -> int:
    """Run one of the two commands; returns the exit status."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a build that is killed takes this process with it
    if arguments == ["versions"]:
        return print_versions()
    if len(arguments) == 5 and arguments[0] == "export" and arguments[3] in ("as_is", "int8", "int4"):
        export(arguments[1], arguments[2], arguments[3], int(arguments[4]))
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
