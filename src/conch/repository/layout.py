"""Writes a release into a model repository: beside first, then renamed, so that nobody ever sees half of one.

A version is immutable: its folders are written once. What changes is which version the config.pbtxt files pin.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import py_compile
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version as package_version
from pathlib import Path

from conch.contract import ENGINE, ENSEMBLES, STAGES, TOKENIZER, TWIN_STAGES, TWINS
from conch.errors import BuildError, RepositoryError
from conch.repository.artifacts import ENGINE_DIR, Artifacts
from conch.repository.manifest import (
    MANIFEST_FILE,
    Manifest,
    file_entry,
    finished_versions,
    manifest_path,
    release_files,
    verify_files,
)
from conch.repository.models import ALL_MODELS, release_models
from conch.repository.pbtxt import CONFIG_FILE, model_configs
from conch.repository.settings import SETTINGS_FILE, ReleaseSettings
from conch.sampling import Limits
from conch.spec import ModelSpec
from conch.text.files import TOKENIZER_FILE, TokenizerMeta
from conch.trtllm.tensors import BACKEND_MODEL

BACKENDS_DIR = Path(__file__).resolve().parents[3] / "python_backends"
MODEL_FILE = "model.py"
_STAGING_PREFIX = ".staging-"


@dataclass(frozen=True)
class Release:
    """A release in a repository.

    Attributes:
        path: the repository.
        name: of the model.
        version: its number.
        created: False: an equal one was there already.
        twins: serving.twins of its spec.
        backend_slots: requests that the model ``tensorrt_llm`` takes at once; 0: the release has no such model.
    """

    path: Path
    name: str
    version: int
    created: bool = False
    twins: bool = True
    backend_slots: int = 0


def backend_slots(spec: ModelSpec) -> int:
    """Of Release."""
    return 0 if spec.engine.tensorrt_llm is None else spec.engine.max_batch_size


def release_limits(spec: ModelSpec, meta: TokenizerMeta) -> Limits:
    """What spec and model allow together.

    Raises:
        BuildError: the spec asks for more context than the model has.
    """
    context = meta.max_position_embeddings
    max_seq_len = spec.engine.max_seq_len or context
    if max_seq_len > context:
        raise BuildError(f"engine.max_seq_len must be at most {context}, the model's context, got {max_seq_len}")
    max_input_len = spec.engine.max_input_len or max_seq_len - 1
    if max_input_len >= max_seq_len:
        raise BuildError(f"engine.max_input_len must be < {max_seq_len}, the context, got {max_input_len}")
    return Limits(
        vocab_size=meta.vocab_size,
        max_input_len=max_input_len,
        max_seq_len=max_seq_len,
        default_max_tokens=spec.serving.default_max_tokens,
        eos_token_ids=meta.eos_token_ids,
        pad_token_id=meta.pad_token_id,
        max_stop_words=spec.serving.max_stop_words,
        max_stop_word_chars=spec.serving.max_stop_word_chars,
        max_sequences=min(spec.serving.max_sequences, spec.engine.max_batch_size),
        max_guide_bytes=spec.serving.max_guide_bytes,
        runtime=spec.engine.runtime,
    )


def write_release(repository: Path, spec: ModelSpec, artifacts: Artifacts, version: int | None = None) -> Release:
    """Write a release and pin the ensembles to it.

    An equal release that is there already is kept, and pinned again.

    Args:
        repository: model repository; made if missing.
        spec: model spec.
        artifacts: finished files.
        version: its number; None: the next free one.

    Raises:
        BuildError: the version is there and differs, or the spec asks for what the model cannot do.
        OSError: no space, no permission; nothing is left behind.
    """
    repository.mkdir(parents=True, exist_ok=True)
    with _locked(repository):
        _remove_leftovers(repository)
        fingerprint = _fingerprint(spec, artifacts)
        equal = [v for v in finished_versions(repository) if _is_equal(repository, v, fingerprint)]
        if version is not None and version in finished_versions(repository) and version not in equal:
            raise BuildError(
                f"version {version} of {repository} exists and was built from something else",
                mend="Versions never change: choose another number, or leave it out to get the next one",
            )
        found = version if version in equal else (equal[-1] if equal and version is None else None)
        chosen = found or version or max(finished_versions(repository), default=0) + 1
        if found is None:
            _write_version(repository, spec, artifacts, chosen, fingerprint)
        pin(repository, spec, chosen)
        slots = backend_slots(spec)
        return Release(repository, spec.name, chosen, found is None, spec.serving.twins, slots)


def pin(repository: Path, spec: ModelSpec, version: int) -> None:
    """Write every config.pbtxt for ``version``, the ensembles last; files that are right already are left alone.

    All are written beside first and then renamed, one right after the other. An error or a signal on the way puts back
    what was there; only a process that is killed within these renames leaves some of both, and the next build mends it.

    Args:
        repository: model repository; the caller holds its lock.
        spec: of the version.
        version: a finished one.

    Raises:
        OSError: no space, no permission; what was pinned before still is.
    """
    configs = {name: text.encode() for name, text in model_configs(spec, version).items()}
    names = [name for name in configs if not _holds(repository / name / CONFIG_FILE, configs[name])]
    if not names:
        return
    staging = Path(tempfile.mkdtemp(prefix=f"{_STAGING_PREFIX}{os.getpid()}-", dir=repository))
    begun: list[str] = []
    try:
        for name in names:
            path = repository / name / CONFIG_FILE
            (staging / f"{name}.new").write_bytes(configs[name])
            if path.is_file():
                _link_or_copy(path, staging / f"{name}.former")
        for name in names:
            begun.append(name)
            (staging / f"{name}.new").replace(repository / name / CONFIG_FILE)
    except BaseException:
        for name in begun:
            former = staging / f"{name}.former"
            if former.is_file():
                former.replace(repository / name / CONFIG_FILE)
            else:
                (repository / name / CONFIG_FILE).unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _write_version(repository: Path, spec: ModelSpec, artifacts: Artifacts, version: int, fingerprint: str) -> None:
    settings = ReleaseSettings(spec, release_limits(spec, TokenizerMeta.read(artifacts.tokenizer_dir)))
    names = release_models(spec)
    staging = Path(tempfile.mkdtemp(prefix=f"{_STAGING_PREFIX}{os.getpid()}-", dir=repository))
    moved: list[Path] = []
    try:
        for name in names:
            _write_model(staging / name / str(version), name, artifacts, settings)
        files = {
            str(path.relative_to(staging)): file_entry(path)
            for name in names
            for path in release_files(staging / name / str(version))
        }
        Manifest(
            name=spec.name,
            version=version,
            fingerprint=fingerprint,
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            conch_version=package_version("conch"),
            provenance=artifacts.provenance,
            files=files,
        ).write(staging / MANIFEST_FILE)
        for name in names:
            moved.append(repository / name / str(version))
            moved[-1].parent.mkdir(exist_ok=True)
            (staging / name / str(version)).rename(moved[-1])
        # The manifest is what makes a release: it comes last.
        (staging / MANIFEST_FILE).rename(manifest_path(repository, version))
    except BaseException:
        for folder in moved:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # it holds other versions
                folder.parent.rmdir()
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_model(folder: Path, name: str, artifacts: Artifacts, settings: ReleaseSettings) -> None:
    folder.mkdir(parents=True)
    settings.write(folder)
    if name in {e.name for e in (*ENSEMBLES, *TWINS)} or name == BACKEND_MODEL:
        return
    shutil.copyfile(BACKENDS_DIR / name / MODEL_FILE, folder / MODEL_FILE)
    # Compiled now: the first load would write __pycache__, change the folder's time, and make Triton reload the
    # version later.
    mode = py_compile.PycInvalidationMode.CHECKED_HASH
    py_compile.compile(str(folder / MODEL_FILE), doraise=True, invalidation_mode=mode)
    if name in {s.name for s in TWIN_STAGES}:
        return
    if name == TOKENIZER.name:
        for path in sorted(artifacts.tokenizer_dir.iterdir()):
            shutil.copyfile(path, folder / path.name)
    else:
        shutil.copyfile(artifacts.tokenizer_dir / TOKENIZER_FILE, folder / TOKENIZER_FILE)
    if name == ENGINE.name:
        _link_or_copy_all(artifacts.engine_dir, folder / ENGINE_DIR)


def _link_or_copy_all(source: Path, target: Path) -> None:
    # Not shutil.copytree: the error that it raises no longer says that the disk is full.
    target.mkdir()
    for path in sorted(source.iterdir()):
        copy = _link_or_copy_all if path.is_dir() else _link_or_copy
        copy(path, target / path.name)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _fingerprint(spec: ModelSpec, artifacts: Artifacts) -> str:
    digest = hashlib.sha256(spec.canonical_json().encode())
    digest.update(json.dumps(asdict(artifacts.provenance), sort_keys=True).encode())
    digest.update(package_version("conch").encode())
    for stage in (*STAGES, *TWIN_STAGES):
        digest.update((BACKENDS_DIR / stage.name / MODEL_FILE).read_bytes())
    for path in sorted(artifacts.tokenizer_dir.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _is_equal(repository: Path, version: int, fingerprint: str) -> bool:
    """Whether a version is the same build and all its files are still what they were."""
    try:
        manifest = Manifest.read(repository, version)
        if manifest.fingerprint != fingerprint:
            return False
        verify_files(repository, manifest)
    except RepositoryError:
        return False
    return True


def _remove_leftovers(repository: Path) -> None:
    """Remove what a killed build left: staging folders, and version folders that never got their manifest.

    Raises:
        BuildError: a version folder is in the way that is not ours.
    """
    _remove_staging(repository)
    finished = {str(v) for v in finished_versions(repository)}
    for name in ALL_MODELS:
        for path in (repository / name).glob("[1-9]*"):
            if not re.fullmatch("[0-9]+", path.name) or path.name in finished or not path.is_dir():
                continue
            if any(path.iterdir()) and not (path / SETTINGS_FILE).is_file():
                raise BuildError(
                    f"{path} was not written by Conch", mend="Move it away, or choose another folder as repository"
                )
            # Renamed before it is removed: half of it would look as if it were not ours.
            path.rename(repository / f"{_STAGING_PREFIX}{name}-{path.name}")
    _remove_staging(repository)


def _remove_staging(repository: Path) -> None:
    for path in repository.glob(f"{_STAGING_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(repository: Path) -> Iterator[None]:
    """One writer at a time; the lock goes with the process, however it ends."""
    with (repository / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuildError(
                f"another build is writing to {repository}", mend="Wait for it to end, then try again"
            ) from None
        yield
