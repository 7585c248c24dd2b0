"""Compiles a checkpoint for the engine that the spec names."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from conch.build import export_openvino
from conch.build.cache import Cache
from conch.build.children import last_lines, run_child
from conch.build.disk import full_disk_error, link_or_copy, require_space
from conch.build.gguf import GgufHeader, read_gguf
from conch.build.huggingface import CONFIG_FILE, read_json
from conch.build.progress import Progress
from conch.build.sources import Checkpoint, Format
from conch.errors import BuildError
from conch.repository.artifacts import GGUF_FILE, IR_FILE
from conch.spec import Engine, Runtime, Weights

ENGINES = "engines"
EXPORT_PYTHON_VARIABLE = "CONCH_EXPORT_PYTHON"
DEFAULT_EXPORT_PYTHON = Path(".venv-export/bin/python")
_EXPORT_SCRIPT = Path(export_openvino.__file__)
_IR_FILES = (IR_FILE, "openvino_model.bin", CONFIG_FILE, "generation_config.json")
# What OpenVINO GenAI builds a graph for, out of a GGUF file.
GGUF_ARCHITECTURES = ("llama", "qwen2", "qwen3")
# Tensor types that it reads. It fails on BF16, Q5_0 and Q5_1, at load and without saying which tensor.
GGUF_TENSOR_TYPES = ("F32", "F16", "Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K")


@dataclass(frozen=True)
class CompiledEngine:
    """A compiled engine.

    Attributes:
        path: its folder.
        tools: name -> version of what shaped it.
        made: it was not in the cache before.
    """

    path: Path
    tools: dict[str, str]
    made: bool = False


def compile_engine(
    checkpoint: Checkpoint, engine: Engine, cache: Cache, progress: Progress, export_python: Path | None = None
) -> CompiledEngine:
    """Compile a checkpoint, or find the engine in the cache. The cache must be locked.

    Args:
        checkpoint: what to compile.
        engine: engine section of the spec.
        cache, progress: see there.
        export_python: Python of the export environment; None: from the environment variable, or the default place.

    Raises:
        BuildError: this checkpoint cannot be compiled like that, the export environment is missing, or the export
            failed.
    """
    if engine.runtime is Runtime.ECHO:
        entry = cache.get(ENGINES, "echo", lambda _: {})
        return CompiledEngine(entry.files_dir, {}, entry.made)
    if checkpoint.format is Format.GGUF:
        require_gguf_engine(read_gguf(checkpoint.path / GGUF_FILE), engine)
        return CompiledEngine(checkpoint.path, _openvino_genai_version(), False)
    return _export(checkpoint, engine, cache, progress, find_export_python(export_python))


def require_gguf_engine(header: GgufHeader, engine: Engine) -> None:
    """Refuse a GGUF file that OpenVINO GenAI cannot run, or would run wrongly.

    Raises:
        BuildError: names key, rule and value.
    """
    mend = "Use the model's Hugging Face folder"
    if engine.weights is not Weights.AS_IS:
        raise BuildError(
            f"engine.weights must be as_is for a GGUF file, which has its weights packed, got {engine.weights.value}",
            mend=f"{mend}, or a GGUF file with other weights",
        )
    name = header.architecture
    if name not in GGUF_ARCHITECTURES:
        raise BuildError(
            f"general.architecture of a GGUF file must be one of {', '.join(GGUF_ARCHITECTURES)}, got {name!r}",
            mend=mend,
        )
    for tensor, kind in header.tensors.items():
        if kind not in GGUF_TENSOR_TYPES:
            raise BuildError(
                f"tensors of a GGUF file must be of the types {', '.join(GGUF_TENSOR_TYPES)}, got {tensor} of {kind}",
                mend=f"{mend}, or a GGUF file with other weights",
            )
    scaling = header.metadata.get(f"{name}.rope.scaling.type", "none")
    if scaling != "none" or "rope_freqs.weight" in header.tensors:
        raise BuildError(
            f"{name}.rope.scaling of a GGUF file must be none, got {scaling}: OpenVINO GenAI ignores it",
            mend=mend,
        )


def find_export_python(given: Path | None) -> Path:
    """Python of the export environment.

    Raises:
        BuildError: it is not there.
    """
    path = given or Path(os.environ.get(EXPORT_PYTHON_VARIABLE, "") or DEFAULT_EXPORT_PYTHON)
    if not path.is_file() or not os.access(path, os.X_OK):
        raise BuildError(
            f"export of a Hugging Face checkpoint needs an environment of its own, and {path} is not there",
            mend=f"Run make setup-export, or name its Python with --export-python or {EXPORT_PYTHON_VARIABLE}",
        )
    return path


def export_versions(export_python: Path) -> dict[str, str]:
    """Versions of what shapes an export.

    Raises:
        BuildError: a package is missing there.
    """
    done = subprocess.run(
        [str(export_python), "-I", str(_EXPORT_SCRIPT), "versions"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BuildError(
            f"{export_python} cannot export: {last_lines(done.stderr, 1)} is missing", mend="Run make setup-export"
        )
    versions: dict[str, str] = json.loads(done.stdout)
    return versions


def require_group_size(folder: Path, engine: Engine) -> None:
    """Check that int4 groups fit the layers.

    Raises:
        BuildError: they do not.
    """
    if engine.weights is not Weights.INT4:
        return
    config = read_json(folder / CONFIG_FILE)
    for key in ("hidden_size", "intermediate_size"):
        columns = config.get(key)
        if isinstance(columns, int) and columns % engine.weights_group_size:
            raise BuildError(
                f"engine.weights_group_size must divide the model's {key} {columns}, got {engine.weights_group_size}"
            )


def _export(
    checkpoint: Checkpoint, engine: Engine, cache: Cache, progress: Progress, export_python: Path
) -> CompiledEngine:
    require_group_size(checkpoint.path, engine)
    tools = export_versions(export_python)

    def make(files_dir: Path) -> dict[str, str]:
        work = Path(tempfile.mkdtemp(dir=files_dir.parent))
        source, target = work / "source", work / "target"
        source.mkdir()
        for name in checkpoint.files:  # these and nothing else: no code, no pickles
            link_or_copy(checkpoint.path / name, source / name)
        # As large as the weights at most, and once more while they are being packed.
        require_space(work, 2 * sum((source / name).stat().st_size for name in checkpoint.files))
        _run_export(source, target, engine, progress, export_python, work)
        for name in _IR_FILES:
            if (target / name).is_file():
                (target / name).rename(files_dir / name)
        shutil.rmtree(work)
        return {"checkpoint_sha256": checkpoint.sha256, **tools}

    entry = cache.get(ENGINES, _key(checkpoint, engine, tools), make)
    return CompiledEngine(entry.files_dir, {**tools, **_openvino_genai_version()}, entry.made)


def _run_export(
    source: Path, target: Path, engine: Engine, progress: Progress, export_python: Path, work: Path
) -> None:
    status, output = run_child(
        [
            str(export_python), "-I", str(_EXPORT_SCRIPT), "export", str(source), str(target), engine.weights.value,
            str(engine.weights_group_size),
        ],
        progress=progress,
        title=f"exporting to OpenVINO IR, weights {engine.weights.value}",
        environment={**os.environ, "TMPDIR": str(work)},
    )  # fmt: skip
    if status == 0 and (target / IR_FILE).is_file():
        return
    if "No space left on device" in output or "Disk quota exceeded" in output:
        raise full_disk_error(work, None)
    if status in (-9, 137):
        raise BuildError("the export was killed, most likely because memory ran out", mend="Close other programs")
    raise BuildError(f"the export to OpenVINO IR failed (status {status}): {last_lines(output)}")


def _key(checkpoint: Checkpoint, engine: Engine, tools: dict[str, str]) -> str:
    """Changes with all that an export depends on."""
    group_size = engine.weights_group_size if engine.weights is Weights.INT4 else None
    settings = [checkpoint.sha256, engine.weights.value, group_size, tools]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(_EXPORT_SCRIPT.read_bytes())
    return digest.hexdigest()


def _openvino_genai_version() -> dict[str, str]:
    try:
        return {"openvino-genai": version("openvino-genai")}
    except PackageNotFoundError:
        return {}
