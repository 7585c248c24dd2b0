"""Checks a repository before Triton is asked to load it: every file there, none changed, every pin resolvable."""

from __future__ import annotations

from pathlib import Path

from conch.contract import ENSEMBLE
from conch.errors import RepositoryError
from conch.repository.layout import Release
from conch.repository.manifest import Manifest, file_entry, release_files
from conch.repository.pbtxt import CONFIG_FILE, model_configs, pinned_version
from conch.repository.settings import ReleaseSettings

_MEND = "Run make build: it writes a new version"


def check_repository(repository: Path) -> Release:
    """Check the release that the ensembles pin.

    Returns:
        That release.

    Raises:
        RepositoryError: something is missing or was changed; names it, and what to do.
    """
    path = repository / ENSEMBLE.name / CONFIG_FILE
    if not path.is_file():
        raise RepositoryError(f"{repository} holds no release: {path} is missing", mend="Run make build")
    try:
        version = pinned_version(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RepositoryError(f"{path} cannot be used: {error}", mend=_MEND) from None
    manifest = Manifest.read(repository, version)
    verify_files(repository, manifest)
    settings = ReleaseSettings.read(repository / ENSEMBLE.name / str(version))
    for name, text in model_configs(settings.spec, version).items():
        config = repository / name / CONFIG_FILE
        if not config.is_file():
            raise RepositoryError(f"{config} is missing", mend=_MEND)
        if config.read_text(encoding="utf-8") != text:
            raise RepositoryError(f"{config} was changed, or was written by another version of Conch", mend=_MEND)
    return Release(repository, manifest.name, version)


def verify_files(repository: Path, manifest: Manifest) -> None:
    """Compare the files of a release with its manifest.

    Raises:
        RepositoryError: a file is missing, changed, or there and not listed.
    """
    for name, expected in manifest.files.items():
        path = repository / name
        if not path.is_file():
            raise RepositoryError(f"{path} is missing", mend=_MEND)
        found = file_entry(path)
        if found != expected:
            raise RepositoryError(
                f"{path} was changed: sha256 must be {expected.sha256}, got {found.sha256}", mend=_MEND
            )
    folders = {Path(*Path(name).parts[:2]) for name in manifest.files}
    for folder in sorted(folders):
        for path in release_files(repository / folder):
            if str(path.relative_to(repository)) not in manifest.files:
                raise RepositoryError(f"{path} does not belong to version {manifest.version}", mend=_MEND)
