"""Memory that is left to this process: the machine's, or the control group's where that is less."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/")
_V1_UNLIMITED_BYTES = 1 << 60  # version 1 writes a huge number where there is no limit


def available_bytes(root: Path = ROOT) -> int | None:
    """Memory that can be taken without swapping; None where the system does not say.

    Args:
        root: file system root; another one for tests.
    """
    candidates = [_machine_bytes(root), *(_group_bytes(folder) for folder in _groups(root))]
    known = [value for value in candidates if value is not None]
    return min(known) if known else None


def _machine_bytes(root: Path) -> int | None:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _groups(root: Path) -> list[Path]:
    """Folders of this process's control group and of the groups around it: each may have a limit."""
    folders: list[Path] = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base = root / "sys/fs/cgroup"
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
        else:
            continue
        group = base / path.lstrip("/")
        # Inside a container the path is often that of the host: then only the base can be read.
        while group != base and base in group.parents:
            folders.append(group)
            group = group.parent
        folders.append(base)
    return folders


def _group_bytes(folder: Path) -> int | None:
    limit = _number(folder / "memory.max")
    used = _number(folder / "memory.current")
    if limit is None:
        limit = _number(folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.usage_in_bytes")
    if limit is None or used is None or limit >= _V1_UNLIMITED_BYTES:
        return None
    cache = 0  # file cache counts as used, and is given back when somebody needs it
    for line in _read(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            cache = max(cache, int(value))
    return max(0, limit - used + cache)


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
