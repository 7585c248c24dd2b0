"""Where runs go: a folder of its own for each, so that no run takes the place of another."""

from __future__ import annotations

import contextlib
from datetime import datetime, timezone
from pathlib import Path

from conch_load.config import ConfigError

REPORTS = Path("reports/load")
LATEST = "latest"


def stamped(name: str, parent: Path = REPORTS) -> Path:
    """A folder that is not there yet: ``NAME-TIME`` below a parent, UTC. It is not made."""
    made = first = parent / f"{name}-{datetime.now(timezone.utc):%Y%m%d-%H%M%S}"
    number = 2
    while made.exists():
        made, number = first.with_name(f"{first.name}-{number}"), number + 1
    return made


def check_free(folder: Path) -> None:
    """Refuse a folder that holds something: it may be a run.

    Raises:
        ConfigError: names it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"out must be a new or an empty folder, got {folder}")


def point_latest(folder: Path) -> None:
    """Let ``reports/load/latest`` lead to a folder beside it; where it is no link, or none can be made, do nothing."""
    link, new = folder.with_name(LATEST), folder.with_name(f".{LATEST}-{folder.name}")
    if folder.parent != REPORTS or (link.exists() and not link.is_symlink()):
        return
    with contextlib.suppress(OSError):
        new.symlink_to(folder.name)
        new.replace(link)
