"""``manifest.json``: what a release is made of, and where it came from.

It is written last: a version folder without one was never finished.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from conch.contract import ENGINE
from conch.errors import RepositoryError
from conch.repository.artifacts import Provenance

MANIFEST_FILE = "manifest.json"
BUILD_AGAIN = "Run make build: it writes a new version"
_SCHEMA = 1
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileEntry:
    """A file of a release.

    Attributes:
        sha256: of its content.
        size_bytes: its length.
    """

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """What one release is.

    Attributes:
        name: of the model.
        version: of the release; the folder's name.
        fingerprint: equal for builds from the same spec, source, tools and code.
        created: when, UTC, ISO 8601.
        conch_version: of the code that wrote it.
        provenance: source, revision, tools.
        files: path below the repository -> entry, for every file of the release but this one and byte code.
    """

    name: str
    version: int
    fingerprint: str
    created: str
    conch_version: str
    provenance: Provenance
    files: dict[str, FileEntry]

    def write(self, path: Path) -> None:
        """Write to ``path``."""
        path.write_text(json.dumps({"schema": _SCHEMA, **asdict(self)}, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, repository: Path, version: int) -> Manifest:
        """Read the manifest of a version.

        Raises:
            RepositoryError: it is missing or malformed.
        """
        path = manifest_path(repository, version)
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data.pop("schema") != _SCHEMA:
                raise ValueError(f"schema must be {_SCHEMA}")
            files = {name: FileEntry(**entry) for name, entry in data.pop("files").items()}
            manifest = cls(provenance=Provenance(**data.pop("provenance")), files=files, **data)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RepositoryError(f"{path} cannot be read: {error}", mend=BUILD_AGAIN) from None
        if manifest.version != version:
            raise RepositoryError(f"{path} must be of version {version}, got {manifest.version!r}", mend=BUILD_AGAIN)
        for name in files:
            if not _is_safe(name):
                raise RepositoryError(f"{path} names a file outside of the repository: {name!r}")
        return manifest


def _is_safe(name: str) -> bool:
    parts = Path(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and re.search(r"[\x00-\x1f]", name) is None


def manifest_path(repository: Path, version: int) -> Path:
    """Where the manifest of a version lies: with its engine."""
    return repository / ENGINE.name / str(version) / MANIFEST_FILE


def finished_versions(repository: Path) -> list[int]:
    """Versions that have a manifest, ascending."""
    folder = repository / ENGINE.name
    if not folder.is_dir():
        return []
    names = (p.name for p in folder.iterdir() if re.fullmatch(r"[1-9][0-9]*", p.name))
    return sorted(int(n) for n in names if manifest_path(repository, int(n)).is_file())


def file_entry(path: Path) -> FileEntry:
    """Checksum and size of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_CHUNK_BYTES):
            digest.update(block)
            size += len(block)
    return FileEntry(digest.hexdigest(), size)


def release_files(folder: Path) -> list[Path]:
    """Files of a version folder that a manifest lists, sorted."""
    return sorted(
        p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts and p.name != MANIFEST_FILE
    )


def verify_files(repository: Path, manifest: Manifest) -> None:
    """Compare the files of a release with its manifest.

    Raises:
        RepositoryError: a file is missing, changed, or there and not listed.
    """
    for name, expected in manifest.files.items():
        path = repository / name
        if not path.is_file():
            raise RepositoryError(f"{path} is missing", mend=BUILD_AGAIN)
        found = file_entry(path)
        if found != expected:
            raise RepositoryError(
                f"{path} was changed: sha256 must be {expected.sha256}, got {found.sha256}", mend=BUILD_AGAIN
            )
    folders = {Path(*Path(name).parts[:2]) for name in manifest.files}
    for folder in sorted(folders):
        for path in release_files(repository / folder):
            if str(path.relative_to(repository)) not in manifest.files:
                raise RepositoryError(f"{path} does not belong to version {manifest.version}", mend=BUILD_AGAIN)
