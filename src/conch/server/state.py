"""The run folder: pid file with its lock, the state of the server for other commands, the admin key, the logs."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO

from conch.errors import ServerError
from conch.server.procfs import Process, process
from conch.server.settings import Settings

STARTING, READY, REPAIRING, STOPPING = "starting", "ready", "repairing", "stopping"
_LOCK_ATTEMPTS, _LOCK_PAUSE_S = 5, 0.05


@dataclass(frozen=True)
class RunDir:
    """Names of the files in a run folder."""

    path: Path

    @property
    def pid_file(self) -> Path:
        """Pid of the supervisor, which holds a lock on it as long as it lives."""
        return self.path / "server.pid"

    @property
    def up_lock(self) -> Path:
        """Locked by whoever starts a server in the background, until that is ready."""
        return self.path / "up.lock"

    @property
    def state_file(self) -> Path:
        """State, as JSON."""
        return self.path / "state.json"

    @property
    def admin_key_file(self) -> Path:
        """Key of the management API; readable by its owner alone."""
        return self.path / "admin.key"

    @property
    def triton_log(self) -> Path:
        """Log of tritonserver and of the stages."""
        return self.path / "triton.log"

    @property
    def former_triton_log(self) -> Path:
        """What triton_log was before this start, or before it grew too large."""
        return self.path / "triton.log.1"

    @property
    def supervisor_log(self) -> Path:
        """What a supervisor in the background says."""
        return self.path / "supervisor.log"

    @property
    def backends(self) -> Path:
        """Triton's --backend-directory."""
        return self.path / "backends"


@dataclass(frozen=True)
class State:
    """What other commands want to know of a server.

    Attributes:
        phase: starting, ready, repairing or stopping.
        supervisor: its process.
        triton: tritonserver's process, None before it is started.
        settings: where it listens.
        release_name, release_version: what was pinned at the start.
        started_at_s: Unix time of the start.
        repairs: how often a dead stage made a restart necessary.
        shm_regions: names of shared memory regions that this server's stubs made.
        twins: serving.twins of the release.
    """

    phase: str
    supervisor: Process
    triton: Process | None
    settings: Settings
    release_name: str
    release_version: int
    started_at_s: float
    repairs: int = 0
    shm_regions: tuple[str, ...] = field(default=())
    twins: bool = True

    def write(self, run_dir: RunDir) -> None:
        """Write beside and rename: a reader never sees half of it."""
        data = asdict(self)
        data["settings"] = {k: str(v) if isinstance(v, Path) else v for k, v in data["settings"].items()}
        beside = run_dir.state_file.with_suffix(".new")
        beside.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        beside.replace(run_dir.state_file)

    @classmethod
    def read(cls, run_dir: RunDir) -> State | None:
        """The last state written; None where there is none, or another version of Conch wrote it."""
        try:
            data = json.loads(run_dir.state_file.read_text(encoding="utf-8"))
            if set(data) != {f.name for f in fields(cls)}:
                return None
            settings = data.pop("settings")
            settings.update(repository=Path(settings["repository"]), run_dir=Path(settings["run_dir"]))
            triton, regions = data.pop("triton"), data.pop("shm_regions")
            return cls(
                settings=Settings(**settings),
                supervisor=Process(**data.pop("supervisor")),
                triton=None if triton is None else Process(**triton),
                shm_regions=tuple(regions),
                **data,
            )
        except (OSError, ValueError, TypeError, KeyError):
            return None


class PidFile:
    """Held by a supervisor for its whole life; the lock goes with the process, however that ends.

    Raises:
        ServerError: another supervisor holds it.
    """

    def __init__(self, run_dir: RunDir) -> None:
        run_dir.path.mkdir(parents=True, exist_ok=True)
        self._path = run_dir.pid_file
        self._file: IO[str] = self._path.open("a+")
        if not _lock(self._file):
            self._file.close()
            raise ServerError(
                f"a server of {run_dir.path} is up already (pid {holder_pid(run_dir) or 'not known yet'})",
                mend="Stop it with `python -m conch.server down`, or choose another folder with --run-dir",
            ) from None
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def close(self) -> None:
        """Give the lock back."""
        self._file.truncate(0)
        self._file.close()


def _lock(file: IO[str]) -> bool:
    for _ in range(_LOCK_ATTEMPTS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_S)  # is_held of another command takes the lock for a moment
    return False


def is_held(run_dir: RunDir) -> bool:
    """Whether a supervisor lives."""
    try:
        with run_dir.pid_file.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def holder_pid(run_dir: RunDir) -> int | None:
    """Pid of the supervisor that holds the pid file; None where it has not written it yet."""
    try:
        text = run_dir.pid_file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def write_admin_key(run_dir: RunDir) -> str:
    """Make a new key for this start.

    Returns:
        the key; the file has mode 0600 from its first moment on.
    """
    key = secrets.token_urlsafe(24)
    run_dir.admin_key_file.unlink(missing_ok=True)
    descriptor = os.open(run_dir.admin_key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key + "\n")
    return key


def this_process() -> Process:
    """The running process."""
    found = process(os.getpid())
    if found is None:
        raise ServerError("/proc is not mounted", mend="Mount it: mount -t proc proc /proc")
    return found
