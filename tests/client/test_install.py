"""The client is enough: installed alone, in an environment with nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import venv
from pathlib import Path

import pytest

CLIENT = Path(__file__).resolve().parents[2] / "client"
CODE = """
import importlib.metadata, importlib.util, conch_client
assert importlib.util.find_spec("conch") is None
client = conch_client.Client("127.0.0.1:1", retry=conch_client.Retry(max_attempts=1))
try:
    client.generate("x", timeout_s=10)
except conch_client.UnavailableError as error:
    print(error.message)
conch_client.HttpClient("127.0.0.1:1"), conch_client.AsyncClient("127.0.0.1:1"), conch_client.AsyncHttpClient("h:1")
"""


@pytest.mark.slow
def test_the_client_alone(tmp_path) -> None:
    source = tmp_path / "client"
    shutil.copytree(CLIENT, source, ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__"))
    venv.create(tmp_path / "venv", with_pip=True)
    bin_dir = tmp_path / "venv" / "bin"
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "CONCH_HOST")}

    def run(*command: str) -> str:
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(str(bin_dir / "python"), "-m", "pip", "install", "--quiet", str(source))
    assert "ask once" in run(str(bin_dir / "conch"), "--help")
    assert "cannot reach 127.0.0.1:1" in run(str(bin_dir / "python"), "-c", CODE)
    installed = run(str(bin_dir / "python"), "-m", "pip", "list", "--format=freeze")
    assert "conch-client==" in installed
