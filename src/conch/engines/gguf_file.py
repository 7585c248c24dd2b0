"""A GGUF file for OpenVINO GenAI, which opens it for reading and writing (2026.4: O_RDWR, a shared mapping).

It writes nothing to it, and closes it once the model is loaded. But it cannot open one on a read-only mount or of
another user, which is how a repository gets into a container. Then it is given a copy, for as long as it loads.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conch.errors import RepositoryError


@contextmanager
def writable(path: Path) -> Iterator[Path]:
    """The file itself where it may be written, else a copy in the folder for temporary files, gone after the block.

    Raises:
        RepositoryError: it cannot be read, or there is no room for the copy.
    """
    if os.access(path, os.W_OK):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="conch-gguf-") as folder:
        copy = Path(folder) / path.name
        try:
            shutil.copyfile(path, copy)
        except OSError as error:
            raise RepositoryError(
                f"OpenVINO opens {path} for writing, which is not allowed, and it cannot be copied to {folder}: "
                f"{error.strerror}",
                mend=f"Make {path.stat().st_size >> 20} MiB of room there, or name another folder with TMPDIR",
            ) from None
        yield copy
