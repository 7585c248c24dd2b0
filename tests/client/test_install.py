"""The client is enough: installed alone, in an environment with nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import venv
from pathlib import Path

import pytest
from fake_servers import Chunk, GrpcServer, HttpServer

CLIENT = Path(__file__).resolve().parents[2] / "client"
CODE = """
import asyncio, importlib.util, sys
from conch_client import AsyncClient, AsyncHttpClient, Client, HttpClient, Retry, UnavailableError
assert importlib.util.find_spec("conch") is None
grpc, http = sys.argv[1:]

async def stream(kind, url):
    async with kind(url) as client, client.stream("x") as answer:
        return [chunk.text async for chunk in answer]

for kind, url in ((Client, grpc), (HttpClient, http)):
    with kind(url) as client, client.stream("x") as answer:
        print([chunk.text for chunk in answer], client.health().ok)
for kind, url in ((AsyncClient, grpc), (AsyncHttpClient, http)):
    print(asyncio.run(stream(kind, url)))
try:
    Client("127.0.0.1:1", retry=Retry(max_attempts=1)).generate("x", timeout_s=10)
except UnavailableError as error:
    print(error.message)
"""


@pytest.mark.slow
def test_the_client_alone(tmp_path) -> None:
    source = tmp_path / "client"
    shutil.copytree(CLIENT, source, ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__"))
    venv.create(tmp_path / "venv", with_pip=True)
    bin_dir = tmp_path / "venv" / "bin"
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "CONCH_HOST")}
    environment["PYTHONUTF8"] = "1"

    def run(*command: str) -> str:
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(str(bin_dir / "python"), "-m", "pip", "install", "--quiet", str(source))
    assert "ask once" in run(str(bin_dir / "conch"), "--help")
    grpc, http = GrpcServer(), HttpServer()
    grpc.plans.plans = http.plans.plans = [[Chunk("Grü"), Chunk("ße 🐚", "stop")]]
    pieces = "['Grü', 'ße 🐚']"
    assert run(str(bin_dir / "python"), "-c", CODE, grpc.url, http.url).splitlines() == [
        f"{pieces} True", f"{pieces} True", pieces, pieces, "cannot reach 127.0.0.1:1: Connection refused",
    ]  # fmt: skip
    for url in (f"grpc://{grpc.url}", f"http://{http.url}"):
        assert run(str(bin_dir / "conch"), "ask", "--url", url, "Hi") == "Grüße 🐚\n"
    assert len(grpc.plans.seen) == len(http.plans.seen) == 3
    grpc.close()
    http.close()
    installed = run(str(bin_dir / "python"), "-m", "pip", "list", "--format=freeze")
    assert "conch-client==" in installed
