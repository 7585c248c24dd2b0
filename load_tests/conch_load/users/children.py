"""Processes beside Locust, for runs that no ``python -m conch_load run`` looks after: the page's, and plain Locust's.

The server is watched, and the report made, outside Locust: its loop has stamps to take.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_COMMAND = (sys.executable, "-m", "conch_load")
_END_S = 40


class ServerWatch:
    """Samples of the server into a run folder, until :meth:`end`, or until this process is gone.

    Args:
        folder: has its ``run.json``.
    """

    def __init__(self, folder: Path) -> None:
        self._child = subprocess.Popen([*_COMMAND, "watch", str(folder)], stdin=subprocess.PIPE)

    def end(self) -> None:
        """The last sample is taken before this returns."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            self._child.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._child.kill()


def finish(folder: Path) -> int:
    """Check and report a run folder; the exit code of ``python -m conch_load finish``."""
    return subprocess.Popen([*_COMMAND, "finish", str(folder)]).wait()
