"""The build: fetch, compile, write the repository, check it. Each step finds its result in the cache if it was done."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path

from conch.build.cache import Cache
from conch.build.compile import compile_engine
from conch.build.disk import disk_errors, require_space
from conch.build.progress import Progress, format_bytes
from conch.build.served import lay_out_checkpoint, serving_notes
from conch.build.sources import Checkpoint, fetch, look_ahead
from conch.build.tensorrt_llm import check_before_fetch, compile_tensorrt_llm
from conch.build.tensorrt_llm_host import find_workplace
from conch.build.tensorrt_llm_plan import how_to_build
from conch.build.tokenizer_files import tokenizer_entry
from conch.errors import BuildError
from conch.repository.artifacts import Artifacts, Provenance
from conch.repository.check import check_repository
from conch.repository.layout import Release, write_release
from conch.spec import ModelSpec


@dataclass(frozen=True)
class BuildOptions:
    """What a build is told beside the spec.

    Attributes:
        repository: model repository to write to.
        cache: folder of what builds keep.
        version: number of the release; None: the next free one.
        export_python: Python of the export environment; None: the usual place.
    """

    repository: Path = Path("model_repository")
    cache: Path = Path(".cache")
    version: int | None = None
    export_python: Path | None = None


def fetch_model(spec: ModelSpec, options: BuildOptions, progress: Progress) -> Checkpoint:
    """Bring the checkpoint of a spec to this machine, and nothing else.

    Raises:
        BuildError: it cannot be had.
    """
    cache = Cache(options.cache, progress)
    with cache.locked():
        checkpoint = fetch(spec.source, cache, progress)
    size = sum((checkpoint.path / name).stat().st_size for name in checkpoint.files)
    state = "fetched" if checkpoint.made else "is there"
    progress.say(f"{spec.source.uri} {state}: {checkpoint.path}, {format_bytes(size)}, sha256 {checkpoint.sha256}")
    return checkpoint


def build_release(spec: ModelSpec, options: BuildOptions, progress: Progress) -> Release:
    """Do everything that is not done yet, and pin the repository to the release.

    Raises:
        BuildError: a step cannot be done. What earlier steps made stays in the cache.
        RepositoryError: the repository that was written is not whole.
    """
    cache = Cache(options.cache, progress)
    with cache.locked():
        artifacts = _make_artifacts(spec, options, cache, progress)
        progress.hint(f"writing to {options.repository}")
        release = _write(spec, options, artifacts)
        progress.hint("checking every file of the release")
        check_repository(options.repository)
    progress.done()
    if release.created:
        progress.say(f"{release.name}, version {release.version}, is in {options.repository}")
    else:
        progress.say(
            f"nothing to do: {options.repository} holds {release.name}, version {release.version}, and is whole"
        )
    return release


def _make_artifacts(spec: ModelSpec, options: BuildOptions, cache: Cache, progress: Progress) -> Artifacts:
    settings = spec.engine.tensorrt_llm
    workplace = None if settings is None else find_workplace(settings, how_to_build(spec))
    progress.hint(f"looking for {spec.source.uri}")
    if workplace is not None:
        ahead = look_ahead(spec.source, cache)
        if ahead is not None:
            check_before_fetch(ahead, spec.engine, cache, workplace)
    checkpoint = fetch(spec.source, cache, progress)
    progress.done()
    if checkpoint.made:
        progress.say(f"fetched {spec.source.uri} (sha256 {checkpoint.sha256})")
    tokenizer = tokenizer_entry(checkpoint, cache, progress)
    if tokenizer.made:
        progress.say("made the tokenizer files")
    if workplace is not None:
        engine = compile_tensorrt_llm(checkpoint, spec.engine, cache, progress, workplace)
    elif spec.engine.served is not None:
        engine = lay_out_checkpoint(checkpoint, spec.engine, cache)
        for note in serving_notes(spec.engine.served):
            progress.say(f"note: {note}")
    else:
        engine = compile_engine(checkpoint, spec.engine, cache, progress, options.export_python)
    if engine.made and spec.engine.served is None:
        progress.say(f"compiled for {spec.engine.runtime.value}")
    tools = {"tokenizers": package_version("tokenizers"), **engine.tools}
    provenance = Provenance(spec.source.uri, checkpoint.revision, checkpoint.sha256, tools)
    return Artifacts(tokenizer.files_dir, engine.path, provenance)


def _write(spec: ModelSpec, options: BuildOptions, artifacts: Artifacts) -> Release:
    repository = options.repository
    if repository.exists() and not repository.is_dir():
        raise BuildError(f"repository must be a folder, got the file {repository}")
    engine_bytes = sum(p.stat().st_size for p in artifacts.engine_dir.rglob("*") if p.is_file())
    with disk_errors(repository, engine_bytes):
        repository.mkdir(parents=True, exist_ok=True)
        _require_room(repository, artifacts, engine_bytes)
        return write_release(repository, spec, artifacts, options.version)


def _require_room(repository: Path, artifacts: Artifacts, engine_bytes: int) -> None:
    """The engine's files are linked where they can be; on another file system they are copied."""
    if repository.stat().st_dev != artifacts.engine_dir.stat().st_dev:
        require_space(repository, engine_bytes)
