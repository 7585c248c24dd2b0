"""The check of a repository: whatever was changed is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from server_processes import echo_spec, write_echo_release

from conch.contract import ENGINE, ENSEMBLE, ENSEMBLES, MODEL_NAMES
from conch.errors import RepositoryError
from conch.repository.check import check_repository
from conch.repository.manifest import BUILD_AGAIN, Manifest, manifest_path, release_files
from conch.repository.pbtxt import CONFIG_FILE
from conch.repository.settings import SETTINGS_FILE, ReleaseSettings

PIN = "model_version: "


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    write_echo_release(folder / "repository", echo_spec(), folder / "files")
    return folder / "repository"


@pytest.fixture
def repository(pristine: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    copy: Path = shutil.copytree(pristine, tmp_path / "repository")
    return copy


def refusal(repository: Path) -> str:
    with pytest.raises(RepositoryError) as caught:
        check_repository(repository)
    return str(caught.value)


def test_a_whole_repository_is_good(repository: Path) -> None:
    release = check_repository(repository)
    assert (release.version, release.name, release.path) == (1, "echo-bytes", repository)


def test_every_file_is_missed(repository: Path) -> None:
    files = [path for name in MODEL_NAMES for path in release_files(repository / name / "1")]
    assert len(files) > 10
    for path in [*files, *(repository / name / CONFIG_FILE for name in MODEL_NAMES)]:
        content = path.read_bytes()
        path.unlink()
        assert f"{path} is missing" in refusal(repository)
        path.write_bytes(content)
    check_repository(repository)


def test_every_change_is_found(repository: Path) -> None:
    for path in (path for name in MODEL_NAMES for path in release_files(repository / name / "1")):
        content = path.read_bytes()
        for changed in (content + b" ", content[:-1], b"", content.swapcase()):
            path.write_bytes(changed)
            message = refusal(repository)
            assert message.startswith(f"{path} was changed: sha256 must be ")
            assert message.endswith(BUILD_AGAIN)
        path.write_bytes(content)
    check_repository(repository)


@pytest.mark.parametrize("place", ["tokenizer/1/extra.json", "llama_engine/1/engine/model.gguf", "ensemble/1/x/y"])
def test_a_file_that_does_not_belong_is_found(repository: Path, place: str) -> None:
    path = repository / place
    path.parent.mkdir(exist_ok=True)
    path.touch()
    assert refusal(repository) == f"{path} does not belong to version 1. {BUILD_AGAIN}"


def test_byte_code_and_other_versions_are_no_matter(repository: Path) -> None:
    (repository / "tokenizer" / "1" / "__pycache__" / "model.cpython-399.pyc").touch()
    (repository / "tokenizer" / "2").mkdir()
    (repository / "README.md").touch()
    check_repository(repository)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_changed_config_is_found(repository: Path, name: str) -> None:
    path = repository / name / CONFIG_FILE
    content = path.read_bytes()
    path.write_bytes(content + b"\n# mine\n")
    assert refusal(repository) == f"{path} was changed, or was written by another version of Conch. {BUILD_AGAIN}"
    path.write_bytes(b"\xff")
    assert refusal(repository).startswith(str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(PIN + "1", PIN + "2"), "llama_engine/2/manifest.json cannot be read"),
        (lambda text: text.replace(PIN + "1", PIN + "2", 1), "must be pinned to one version, got [1, 2]"),
        (lambda text: text.replace(PIN + "1", PIN + "-1"), "must be pinned to one version, got [-1]"),
        (lambda text: "not a config", "cannot be used"),
        (lambda text: "\x00", "cannot be used"),
        (lambda text: "", "must be pinned to one version, got []"),
    ],
)
def test_a_broken_pin_is_found(repository: Path, change: Callable[[str], str], message: str) -> None:
    path = repository / ENSEMBLE.name / CONFIG_FILE
    path.write_text(change(path.read_text()))
    assert message in refusal(repository)


def test_ensembles_that_pin_different_versions_are_found(repository: Path) -> None:
    path = repository / ENSEMBLES[1].name / CONFIG_FILE
    path.write_text(path.read_text().replace(PIN + "1", PIN + "2"))
    assert refusal(repository).startswith(f"{path} was changed")


def test_an_empty_repository_says_what_to_do(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        assert refusal(folder) == (
            f"{folder} holds no release: {folder / ENSEMBLE.name / CONFIG_FILE} is missing. Run make build"
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema must be 1"),
        ({"schema": None}, "'schema'"),
        ({"files": None}, "'files'"),
        ({"files": {"tokenizer/1/model.py": {"sha256": ""}}}, "size_bytes"),
        ({"files": []}, "cannot be read"),
        ({"provenance": {"uri": "x"}}, "cannot be read"),
        ({"name": None}, "'name'"),
        ({"colour": "red"}, "'colour'"),
        ({"version": 2}, "must be of version 1, got 2"),
    ],
)
def test_a_malformed_manifest_is_refused(repository: Path, change: dict[str, Any], message: str) -> None:
    path = manifest_path(repository, 1)
    data = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    text = refusal(repository)
    assert str(path) in text
    assert message in text


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"7", b"\xff", b'"x"', b"{"])
def test_what_is_no_manifest_is_refused(repository: Path, content: bytes) -> None:
    path = manifest_path(repository, 1)
    path.write_bytes(content)
    assert refusal(repository).startswith(f"{path} cannot be read: ")
    path.unlink()
    assert refusal(repository).startswith(f"{path} cannot be read: ")


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../outside", "tokenizer/../../outside", "..", "", ".", "tokenizer/1/a\nb", "a\x00b"]
)
def test_a_manifest_never_leads_outside(repository: Path, name: str) -> None:
    path = manifest_path(repository, 1)
    data = json.loads(path.read_text())
    data["files"][name] = {"sha256": "0" * 64, "size_bytes": 0}
    path.write_text(json.dumps(data))
    assert refusal(repository) == f"{path} names a file outside of the repository: {name!r}"


def test_a_manifest_is_read_as_written(repository: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(repository, 1)
    assert {Path(name).parts[:2] for name in manifest.files} == {(name, "1") for name in MODEL_NAMES}
    manifest_path(tmp_path, 1).parent.mkdir(parents=True)
    manifest.write(manifest_path(tmp_path, 1))
    assert Manifest.read(tmp_path, 1) == manifest


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "7", '{"spec": {}, "limits": {}}', '{"spec": [], "limits": {"eos_token_ids": [1]}}']
)
def test_malformed_settings_are_an_error_of_the_repository(repository: Path, content: str) -> None:
    folder = repository / ENGINE.name / "1"
    (folder / SETTINGS_FILE).write_text(content)
    with pytest.raises(RepositoryError) as caught:
        ReleaseSettings.read(folder)
    assert str(caught.value).startswith(f"{folder / SETTINGS_FILE} cannot be read: ")
    assert "\n" not in str(caught.value)


def test_settings_are_read_as_written(repository: Path, tmp_path: Path) -> None:
    settings = ReleaseSettings.read(repository / ENGINE.name / "1")
    assert settings.spec == echo_spec()
    settings.write(tmp_path)
    assert ReleaseSettings.read(tmp_path) == settings
