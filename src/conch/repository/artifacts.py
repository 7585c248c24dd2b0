"""What a build hands over to the repository writer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

ENGINE_DIR = "engine"  # folder of the compiled engine inside llama_engine/<version>/
GGUF_FILE = "model.gguf"
IR_FILE = "openvino_model.xml"


@dataclass(frozen=True)
class Provenance:
    """Where a release came from.

    Attributes:
        uri: the source as the spec names it.
        revision: what it resolved to: a version, a commit, or the sha256 of a local file.
        sha256: checksum of the checkpoint file, or of the list of its files' checksums for a folder.
        tools: name -> version of everything that shaped the engine (openvino-genai, optimum-intel, ...).
    """

    uri: str
    revision: str
    sha256: str
    tools: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifacts:
    """Folders with finished files; the repository writer links or copies them and never changes them.

    Attributes:
        tokenizer_dir: tokenizer.json, chat_template.jinja, tokenizer_meta.json (conch.text.files).
        engine_dir: the compiled engine: GGUF_FILE, or IR_FILE and its .bin; empty for the echo engine.
        provenance: for the manifest.
    """

    tokenizer_dir: Path
    engine_dir: Path
    provenance: Provenance
