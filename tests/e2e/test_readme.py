"""The commands of the README do what it says: every block under ``<!-- run -->`` is run against a real server.

``<!-- run: Paris -->`` means that the output must hold that word.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass

import pytest
from server_processes import ROOT, Server, server_environment

pytestmark = pytest.mark.e2e

TIMEOUT_S = 120
BLOCK = re.compile(r"^<!-- run(?:: (?P<word>.+?))? -->\n+```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
COMMANDS = {"sh": ["bash", "-euo", "pipefail", "-c"], "bash": ["bash", "-euo", "pipefail", "-c"]}
COMMANDS["python"] = [sys.executable, "-c"]


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        number: its place among those that are run.
        language: as behind the fence.
        code: what is run.
        word: what the output must hold; may be empty.
    """

    number: int
    language: str
    code: str
    word: str

    def __str__(self) -> str:
        return f"{self.number}-{self.language}"


def blocks() -> list[Block]:
    found = BLOCK.finditer((ROOT / "README.md").read_text(encoding="utf-8"))
    return [Block(n, m["language"], m["code"], m["word"] or "") for n, m in enumerate(found, start=1)]


def test_every_mark_belongs_to_a_block() -> None:
    marks = (ROOT / "README.md").read_text(encoding="utf-8").count("<!-- run")
    assert marks == len(blocks()) >= 3
    assert {block.language for block in blocks()} <= set(COMMANDS)


@pytest.mark.parametrize("block", blocks(), ids=str)
def test_the_readme_says_the_truth(server: Server, block: Block) -> None:
    environment = server_environment([server.http_port, server.grpc_port, server.metrics_port])
    done = subprocess.run(
        [*COMMANDS[block.language], block.code],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert block.word in done.stdout
