from pathlib import Path

import pytest

from conch.server.memory import available_bytes

MIB = 1 << 20


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MACHINE = {"proc/meminfo": "MemTotal: 8388608 kB\nMemAvailable:    4194304 kB\n"}


def test_the_machine_alone(tmp_path: Path) -> None:
    assert available_bytes(write(tmp_path, MACHINE)) == 4096 * MIB


def test_nothing_is_known(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None


def test_this_machine_says_something() -> None:
    assert (available_bytes() or 0) > 0


def test_a_group_of_version_2_may_be_the_limit(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/a/b\n",
        "sys/fs/cgroup/a/b/memory.max": "max\n",
        "sys/fs/cgroup/a/b/memory.current": f"{100 * MIB}\n",
        "sys/fs/cgroup/a/memory.max": f"{1024 * MIB}\n",
        "sys/fs/cgroup/a/memory.current": f"{524 * MIB}\n",
        "sys/fs/cgroup/a/memory.stat": f"anon 5\ninactive_file {100 * MIB}\n",
    }
    assert available_bytes(write(tmp_path, {**MACHINE, **files})) == 600 * MIB


def test_inside_a_container_the_base_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/docker/of-the-host\n",
        "sys/fs/cgroup/memory.max": f"{300 * MIB}\n",
        "sys/fs/cgroup/memory.current": f"{200 * MIB}\n",
    }
    assert available_bytes(write(tmp_path, {**MACHINE, **files})) == 100 * MIB


@pytest.mark.parametrize(("limit", "expected_mib"), [(200 * MIB, 150), (0x7FFFFFFFFFFFF000, 4096)])
def test_a_group_of_version_1(tmp_path: Path, limit: int, expected_mib: int) -> None:
    files = {
        "proc/self/cgroup": "11:cpuset:/\n4:cpu,memory:/job\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{limit}\n",
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{60 * MIB}\n",
        "sys/fs/cgroup/memory/job/memory.stat": f"total_inactive_file {10 * MIB}\n",
    }
    assert available_bytes(write(tmp_path, {**MACHINE, **files})) == expected_mib * MIB


def test_more_used_than_allowed_is_nothing_left(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/memory.max": "10\n",
        "sys/fs/cgroup/memory.current": "20\n",
    }
    assert available_bytes(write(tmp_path, {**MACHINE, **files})) == 0
