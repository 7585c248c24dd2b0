"""Checks a repository before Triton is asked to load it: every file there, none changed, every pin resolvable."""

from __future__ import annotations

from pathlib import Path

from conch.contract import ENSEMBLE
from conch.errors import RepositoryError
from conch.repository.layout import Release, backend_slots
from conch.repository.manifest import BUILD_AGAIN, Manifest, verify_files
from conch.repository.pbtxt import CONFIG_FILE, model_configs, pinned_version
from conch.repository.settings import ReleaseSettings


def pinned_manifest(repository: Path) -> Manifest:
    """The manifest of the release that the ensembles pin; its files are not looked at.

    Raises:
        RepositoryError: nothing is pinned, or what is pinned has no manifest.
    """
    path = repository / ENSEMBLE.name / CONFIG_FILE
    if not path.is_file():
        raise RepositoryError(f"{repository} holds no release: {path} is missing", mend="Run make build")
    try:
        version = pinned_version(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RepositoryError(f"{path} cannot be used: {error}", mend=BUILD_AGAIN) from None
    return Manifest.read(repository, version)


def check_repository(repository: Path) -> Release:
    """Check the release that the ensembles pin.

    Returns:
        That release.

    Raises:
        RepositoryError: something is missing or was changed; names it, and what to do.
    """
    manifest = pinned_manifest(repository)
    version = manifest.version
    verify_files(repository, manifest)
    settings = ReleaseSettings.read(repository / ENSEMBLE.name / str(version))
    for name, text in model_configs(settings.spec, version).items():
        config = repository / name / CONFIG_FILE
        if not config.is_file():
            raise RepositoryError(f"{config} is missing", mend=BUILD_AGAIN)
        if config.read_bytes() != text.encode():
            raise RepositoryError(f"{config} was changed, or was written by another version of Conch", mend=BUILD_AGAIN)
    spec = settings.spec
    return Release(repository, manifest.name, version, twins=spec.serving.twins, backend_slots=backend_slots(spec))
