"""The command build_scripts/import_config.py."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from conch.command_line import run
from conch.errors import InvalidArgumentError
from conch.importers.draft import Entry, Fate, Imported
from conch.importers.models import Given, read_config
from conch.importers.ollama import import_ollama
from conch.importers.tgi import import_tgi
from conch.importers.trtllm import import_trtllm
from conch.importers.vllm import import_vllm

SYSTEMS = ("trtllm", "vllm", "tgi", "ollama")
_LARGEST_BYTES = 1 << 20
_INSTRUCTION = re.compile(r"(?im)^\s*FROM\s+\S+")
_TGI = re.compile(r"(?m)text-generation-(launcher|inference)|(?:^|\s)(MODEL_ID=|--model-id[ =])")
_VLLM = re.compile(r"(?m)^\s*[\"']?-*(model|served[-_]model[-_]name|max[-_]model[-_]len|tensor[-_]parallel[-_]size|"
                   r"gpu[-_]memory[-_]utilization|max[-_]num[-_]seqs)[\"']?\s*:")  # fmt: skip
_TRTLLM = re.compile(r"build_config|builder_config|plugin_config|max_(input|output|seq)_len|max_beam_width|"
                     r"\b(gemm|gpt_attention)_plugin\b|quant_algo|tp_size")  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Write the spec, and the account of each field; returns the exit status."""
    options = _parser().parse_args(arguments)
    return run(lambda: _import(options))


def sniff(text: str, origin: str) -> str:
    """Which system's settings a text holds.

    Raises:
        InvalidArgumentError: none is certain.
    """
    if _TRTLLM.search(text):
        return "trtllm"
    if _TGI.search(text):
        return "tgi"
    if _VLLM.search(text):
        return "vllm"
    if _INSTRUCTION.search(text):
        return "ollama"
    raise InvalidArgumentError(f"{origin}: it is not certain whose settings these are",
                               mend=f"Say it with --from {'|'.join(SYSTEMS)}")  # fmt: skip


def import_text(text: str, system: str, origin: str, given: Given, folder: Path = Path()) -> Imported:
    """Import a text of one of SYSTEMS; ``folder``: where relative paths of a Modelfile begin.

    Raises:
        InvalidArgumentError: as the importers.
    """
    if system == "ollama":
        return import_ollama(text, origin, given, folder)
    return {"trtllm": import_trtllm, "vllm": import_vllm, "tgi": import_tgi}[system](text, origin, given)


def account(imported: Imported, system: str, origin: str) -> str:
    """The account as lines of text."""
    lines = [f"{origin}: settings of {system}"]
    lines += [_line(entry) for entry in imported.account]
    counts = {fate: sum(1 for entry in imported.account if entry.fate is fate) for fate in Fate}
    lines.append(", ".join(f"{counts[fate]} {fate.value}" for fate in Fate))
    return "\n".join(lines) + "\n"


def _line(entry: Entry) -> str:
    note = f"  ({entry.note})" if entry.note else ""
    if entry.field is None:
        return f"  assumed  {entry.key}: {entry.value}{note}"
    where = f"{entry.field.line:>4}" if entry.field.line else "    "
    field = f"{entry.field.name}: {entry.field.shown}" if entry.field.value is not None else entry.field.name
    if entry.fate is Fate.MAPPED:
        return f"  {where}  {field}  ->  {entry.key}: {entry.value}{note}"
    return f"  {where}  {field}  {entry.fate.value}: {entry.note}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="import_config.py", allow_abbrev=False,
        description="Write a spec from settings of TensorRT-LLM, vLLM, Text Generation Inference or Ollama, and say "
        "what became of each field. The spec goes to --output or to standard output, the account to standard error.",
    )  # fmt: skip
    parser.add_argument("file", type=Path, help="build_config, vLLM's YAML, TGI's variables or arguments, a Modelfile")
    parser.add_argument("--from", dest="system", choices=SYSTEMS, help="whose settings (default: by its content)")
    parser.add_argument("--output", type=Path, help="spec to write; must not be there yet")
    parser.add_argument("--name", help="name of the spec")
    parser.add_argument("--source", help="the checkpoint, where the file does not name one that can be fetched")
    parser.add_argument("--architecture", help="as the model's config.json names it, LlamaForCausalLM")
    parser.add_argument("--config", type=Path, help="the model's config.json or its folder: architecture and context")
    parser.add_argument("--max-seq-len", type=int, help="most tokens of a sequence, where the file says nothing")
    parser.add_argument("--gpu", help="compile for this GPU: a name of plan_memory.py, H100-80GB")
    parser.add_argument("--runtime", choices=("vllm", "tensorrtllm"), help="of the spec, for settings of vLLM "
                        "(default: vllm)")  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="refuse fields that nobody knows")
    return parser


def _import(options: argparse.Namespace) -> int:
    path: Path = options.file
    if options.output is not None and options.output.exists():
        raise InvalidArgumentError(f"output must not be there yet, got {options.output}")
    text = _read(path)
    system = options.system or sniff(text, str(path))
    if options.runtime is not None and system != "vllm":
        raise InvalidArgumentError(f"--runtime is for settings of vllm, got settings of {system}")
    imported = import_text(text, system, str(path), _given(options), path.parent)
    header = f"# Imported from {path.name}, settings of {system}.\n"
    sys.stderr.write(account(imported, system, str(path)))
    if options.output is None:
        sys.stdout.write(header + imported.text)
    else:
        with options.output.open("x", encoding="utf-8") as file:
            file.write(header + imported.text)
        sys.stderr.write(f"next: {sys.executable} build_scripts/build.py --spec {options.output} --dry-run\n")
    return 0


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
        if len(content) > _LARGEST_BYTES:
            raise InvalidArgumentError(f"{path} must be at most {_LARGEST_BYTES} bytes: it is no file of settings")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"{path} cannot be read: {error}") from None


def _given(options: argparse.Namespace) -> Given:
    return Given(
        source=options.source, name=options.name, architecture=options.architecture, max_seq_len=options.max_seq_len,
        gpu=options.gpu, config=read_config(options.config) if options.config else None, strict=options.strict,
        runtime=options.runtime or "vllm",
    )  # fmt: skip
