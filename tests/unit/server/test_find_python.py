import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "requirements" / "find_python.sh"

# A Python that says of itself what the line in the middle makes it say.
FAKE = """#!/bin/sh
exec {python} -c '
import sys, sysconfig
{lie}
exec(sys.argv[1])
' "$2"
"""


def find(python: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHON": python, "PATH": "/usr/bin:/bin"}
    return subprocess.run([SCRIPT], env=environment, capture_output=True, text=True, check=False)


def fake(folder: Path, lie: str) -> str:
    path = folder / "python"
    path.write_text(FAKE.format(python=sys.executable, lie=lie))
    path.chmod(0o755)
    return str(path)


def test_the_running_one_will_do() -> None:
    found = find(sys.executable)
    assert (found.returncode, found.stdout, found.stderr) == (0, f"{sys.executable}\n", "")


@pytest.mark.parametrize(
    ("lie", "complaint"),
    [
        ("sys.version_info = (3, 13, 0)", "is Python 3.13; it must be 3.10, 3.11 or 3.12"),
        ("sys.version_info = (3, 9, 9)", "is Python 3.9; it must be 3.10, 3.11 or 3.12"),
        (
            'sys.version_info = (3, 11, 2); sys.modules["ensurepip"] = None; sys.modules["venv"] = None',
            "lacks python3.11-venv",
        ),
        (
            'sys.version_info = (3, 11, 2); sys.base_prefix = sysconfig.get_config_vars()["LIBDIR"] = "/none"',
            "lacks libpython3.11 (Debian and Ubuntu: apt-get install libpython3.11)",
        ),
    ],
)
def test_what_a_python_lacks_is_said(tmp_path: Path, lie: str, complaint: str) -> None:
    python = fake(tmp_path, lie)
    found = find(python)
    assert (found.returncode, found.stdout) == (1, "")
    assert f"  {python} {complaint}" in found.stderr


def test_none_of_that_name() -> None:
    found = find("no-such-python")
    assert found.returncode == 1
    assert "PYTHON must name a Python 3.10, 3.11 or 3.12 that can run Conch, got 'no-such-python'" in found.stderr
