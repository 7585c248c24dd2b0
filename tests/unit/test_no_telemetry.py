"""Nothing that Conch imports reports its uses to anybody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def imported(first: str, home: Path) -> list[str]:
    environment = {**os.environ, "HOME": str(home)}
    code = f"import {first}\nimport openvino_genai\nfrom openvino.tools.ovc import utils\nprint(utils.tm.__name__)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_openvino_finds_no_telemetry_and_leaves_nothing_in_the_home_folder(tmp_path: Path) -> None:
    assert imported("conch", tmp_path) == ["openvino.tools.ovc.telemetry_stub"]
    assert list(tmp_path.rglob("*")) == []

