"""Ollama's Modelfile: a spec for the runtime openvino, which takes GGUF files as they are."""

from __future__ import annotations

import re
from pathlib import Path

from conch.importers import values
from conch.importers.draft import Draft, Field, Imported
from conch.importers.modelfile import Instruction, parse_modelfile
from conch.importers.models import SOURCE, Given, name_spec

_REQUEST = "a control of the request: send {}"
_CONTROLS = {
    **{name: name for name in ("temperature", "top_k", "top_p", "min_p", "seed", "presence_penalty",
                               "frequency_penalty")},
    "repeat_penalty": "repetition_penalty", "stop": "stop_words", "num_keep": "",
}  # fmt: skip
_NO_CONTROL = {"mirostat", "mirostat_eta", "mirostat_tau", "tfs_z", "typical_p", "repeat_last_n", "penalize_newline"}
_HARDWARE = {
    "num_gpu", "main_gpu", "low_vram", "f16_kv", "use_mmap", "use_mlock", "numa", "vocab_only", "logits_all", "num_gqa",
    "embedding_only", "rope_frequency_base", "rope_frequency_scale", "draft_num_predict",
}  # fmt: skip
_INSTRUCTIONS = {
    "TEMPLATE": "the chat template of the GGUF file or checkpoint is used, which is Jinja and not Go's",
    "SYSTEM": 'send it as the first message: {"role": "system", "content": ...}',
    "MESSAGE": "send it with the messages of each request",
    "LICENSE": "it stays with the model",
    "REQUIRES": "a version of Ollama",
    "CAPABILITY": "the contract says what a request may ask for",
}
_REGISTRY = re.compile(r"(?:[\w.-]+/){0,3}[\w.-]+(?::[\w.-]+)?")


def import_ollama(text: str, origin: str, given: Given, folder: Path = Path()) -> Imported:
    """Read a Modelfile and write a spec for the runtime openvino.

    Args:
        text: of the Modelfile.
        origin: its name, for messages.
        given: what the person said.
        folder: of the Modelfile; FROM is relative to it.

    Raises:
        InvalidArgumentError: not such a file, or what cannot be honoured; all of it, by name.
    """
    draft = Draft()
    draft.assume("engine.runtime", "openvino", "it takes GGUF files as they are, on a CPU")
    seen: dict[str, Field] = {}
    for instruction in parse_modelfile(text, origin):
        name = f"{instruction.name} {instruction.argument}".rstrip()
        field = Field(name, instruction.value, instruction.line)
        repeated = instruction.name in ("FROM", "ADAPTER") or (
            instruction.name == "PARAMETER" and instruction.argument != "stop")  # fmt: skip
        if repeated and name in seen:
            draft.refuse(f"{name} is written twice (lines {seen[name].line} and {field.line})")
            continue
        seen[name] = field
        _one(draft, instruction, field, given, folder)
    name_spec(draft, given)
    return draft.finish(origin, given.strict)


def _one(draft: Draft, instruction: Instruction, field: Field, given: Given, folder: Path) -> None:
    if instruction.name == "FROM":
        _from(draft, field, given, folder)
    elif instruction.name == "PARAMETER":
        _parameter(draft, instruction.argument, field)
    elif instruction.name != "ADAPTER":
        draft.drop(field, _INSTRUCTIONS[instruction.name])
    elif given.source is not None:
        draft.drop(field, "--source is taken to be the model with the adapter merged into it")
    else:
        draft.refuse(f"ADAPTER cannot be honoured: the runtime openvino loads none, got {field.shown}",
                     mend="Merge the adapter into the model, and name that with --source")  # fmt: skip


def _from(draft: Draft, field: Field, given: Given, folder: Path) -> None:
    value = str(field.value)
    if given.source is not None:
        draft.assume(SOURCE, given.source, "given with --source")
        draft.drop(field, "--source is given")
        return
    if "\x00" in value or not value.isprintable():
        draft.refuse(f"FROM must be a name or a path, got {value[:60]!r}")
        return
    path = folder / Path(value).expanduser() if value.startswith("~/") else folder / value
    is_path = value in (".", "..") or value.startswith(("/", "./", "../", "~/")) or value.lower().endswith(".gguf")
    if is_path or _exists(path):
        draft.map(field, SOURCE, str(path), "" if _exists(path) else "there is no such file here")
    elif _REGISTRY.fullmatch(value):
        draft.refuse(f"FROM names a model of Ollama's registry, which cannot be fetched here, got {field.shown}",
                     mend="Name a GGUF file or a Hugging Face checkpoint with --source")  # fmt: skip
    else:
        draft.refuse(f"FROM must be a name or a path, got {field.shown}")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, say
        return False


def _parameter(draft: Draft, name: str, field: Field) -> None:
    numbers = {"num_ctx": ("engine.max_seq_len", 2), "num_batch": ("engine.max_num_tokens", 16),
               "num_thread": ("engine.num_threads", 0)}  # fmt: skip
    if name in numbers:
        key, least = numbers[name]
        value = values.whole(draft, field, least)
        if value is not None:
            draft.map(field, key, value)
    elif name == "num_predict":
        _num_predict(draft, field)
    elif _CONTROLS.get(name):
        draft.drop(field, _REQUEST.format(_CONTROLS[name]))
    elif name in _NO_CONTROL or name in _CONTROLS:
        draft.drop(field, "Conch has no such control")
    elif name in _HARDWARE:
        draft.drop(field, "the runtime openvino decides it, or the model")
    else:
        draft.unknown(field, "Ollama")


def _num_predict(draft: Draft, field: Field) -> None:
    if str(field.value).strip() in ("-1", "-2"):
        draft.drop(field, "without a limit; here max_tokens of the request, up to what the context has left")
        return
    value = values.whole(draft, field)
    if value is not None:
        draft.map(field, "serving.default_max_tokens", value)
