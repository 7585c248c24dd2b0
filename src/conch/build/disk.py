"""Room on the disk: asked for beforehand where the size is known, and a clear word where it ran out all the same."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conch.build.progress import format_bytes
from conch.errors import BuildError

# A quota and a limit on the size of a file are a full disk to the one who writes.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SPARE_BYTES = 1 << 20
_COPY_BYTES = 4 << 20


def require_space(folder: Path, needed_bytes: int) -> None:
    """Ask for room below ``folder``.

    Raises:
        BuildError: the file system has less; names the folder, what is needed and what is there.
    """
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes + _SPARE_BYTES:
        raise full_disk_error(folder, needed_bytes, free_bytes)


def full_disk_error(folder: Path, needed_bytes: int | None, free_bytes: int | None = None) -> BuildError:
    """The error for a disk that is full; sizes that are not known stay out of it."""
    needed = "" if needed_bytes is None else f": {format_bytes(needed_bytes)} are needed"
    free = "" if free_bytes is None else f", {format_bytes(free_bytes)} are free"
    return BuildError(f"no space left at {folder}{needed}{free}", mend="Make room there, or choose another folder")


@contextmanager
def disk_errors(folder: Path, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn the system's word for a disk that is full, or not to be written to, into ours."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise full_disk_error(folder, needed_bytes) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise BuildError(f"{error.filename or folder} cannot be written: {error.strerror}") from None
        raise


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content, after asking for room.

    Raises:
        BuildError: no room.
    """
    size_bytes = source.stat().st_size
    require_space(target.parent, size_bytes)
    with disk_errors(target.parent, size_bytes), source.open("rb") as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer, _COPY_BYTES)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard link where the file system allows it, else copy."""
    try:
        os.link(source, target)
    except OSError:
        copy_file(source, target)
