"""A release of the real model with something wrong in it: refused by the server command before anything is loaded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from server_processes import Server, free_ports, run_command

from conch.contract import DETOKENIZER, ENGINE, ENSEMBLE, TOKENIZER
from conch.repository.artifacts import ENGINE_DIR, GGUF_FILE
from conch.repository.manifest import MANIFEST_FILE
from conch.repository.pbtxt import CONFIG_FILE
from conch.text.files import TOKENIZER_FILE

pytestmark = pytest.mark.e2e

VERSION = "{version}"
WEIGHTS = f"{ENGINE.name}/{VERSION}/{ENGINE_DIR}/{GGUF_FILE}"


def remove(path: Path) -> None:
    path.unlink()


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    replace(path, bytes(data))


def cut(path: Path) -> None:
    replace(path, path.read_bytes()[:-1])


def add_a_line(path: Path) -> None:
    replace(path, path.read_bytes() + b"\n")


def create(path: Path) -> None:
    path.write_bytes(b"")


def pin_another(path: Path) -> None:
    replace(path, path.read_bytes().replace(b"model_version: ", b"model_version: 9"))


def replace(path: Path, data: bytes) -> None:
    """Write a new file under the name: the old one is shared with the repository that it was linked from."""
    path.unlink()
    path.write_bytes(data)


def link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        (WEIGHTS, remove, "is missing"),
        (WEIGHTS, flip_a_bit, "was changed: sha256 must be "),
        (WEIGHTS, cut, "was changed: sha256 must be "),
        (f"{TOKENIZER.name}/{VERSION}/{TOKENIZER_FILE}", cut, "was changed: sha256 must be "),
        (f"{DETOKENIZER.name}/{VERSION}/model.py", add_a_line, "was changed: sha256 must be "),
        (f"{TOKENIZER.name}/{VERSION}/notes.txt", create, "does not belong to version "),
        (f"{ENGINE.name}/{VERSION}/{MANIFEST_FILE}", remove, "cannot be read: "),
        (f"{ENGINE.name}/{CONFIG_FILE}", remove, "is missing"),
        (f"{ENSEMBLE.name}/{CONFIG_FILE}", remove, "is missing"),
        (f"{ENSEMBLE.name}/{CONFIG_FILE}", add_a_line, "was changed, or was written by another version of Conch"),
        (f"{ENSEMBLE.name}/{CONFIG_FILE}", pin_another, "manifest.json cannot be read: "),
    ],
)
def test_it_is_refused_in_one_sentence(
    server: Server, tmp_path: Path, file: str, damage: Callable[[Path], None], said: str
) -> None:
    repository, run_dir = tmp_path / "repository", tmp_path / "run"
    shutil.copytree(server.repository, repository, copy_function=link)
    path = repository / file.format(version=server.state.release_version)
    damage(path)
    done = run_command("serve", repository=repository, run_dir=run_dir, ports=free_ports(3))
    assert done.returncode == 1
    (line, *_) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said in line
    assert path.name in line or "manifest.json" in line
    assert "Run make build" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (run_dir / "triton.log").exists()


def test_a_folder_that_is_no_repository(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        done = run_command("serve", repository=folder, run_dir=tmp_path / "run", ports=free_ports(3))
        assert done.returncode == 1
        assert "holds no release" in done.stderr
        assert "Traceback" not in done.stderr
