"""Hugging Face folders: what is read, and what is refused; the Hub, played by a server on this machine."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_hub import COMMIT, Hub
from small_models import small_metadata, write_small_huggingface

from conch.build.cache import Cache
from conch.build.gguf import GgufHeader
from conch.build.gguf_tokenizer import convert_gguf_tokenizer
from conch.build.huggingface_tokenizer import read_huggingface_tokenizer
from conch.build.progress import Progress
from conch.build.sources import Checkpoint, Format, fetch
from conch.errors import BuildError
from conch.spec import Source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = convert_gguf_tokenizer(GgufHeader(small_metadata(), {})).tokenizer
    return write_small_huggingface(tmp_path / "model", tokenizer.to_str())


def fetched(source: Source, tmp_path: Path) -> Checkpoint:
    progress = Progress(io.StringIO())
    cache = Cache(tmp_path / "cache", progress)
    with cache.locked():
        return fetch(source, cache, progress)


def change(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    data = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**data, **changes}))


def test_a_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "modeling_x.py").write_text("raise SystemExit")  # never read
    first = fetched(Source(uri=str(folder)), tmp_path)
    assert first.format is Format.HUGGINGFACE
    assert first.files == ("config.json", "model.safetensors", "tokenizer.json")
    assert fetched(Source(uri=f"file://{folder}"), tmp_path) == first
    change(folder, "config.json", hidden_size=128)
    assert fetched(Source(uri=str(folder)), tmp_path).sha256 != first.sha256


def remove_weights(folder: Path, instead: str = "") -> None:
    (folder / "model.safetensors").unlink()
    if instead:
        (folder / instead).write_bytes(b"\x80\x04")


def put_a_link(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder.parent / "elsewhere.json")
    (folder / "tokenizer.json").symlink_to(folder.parent / "elsewhere.json")


def cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "must hold config.json"),
        (remove_weights, r"must hold weights \(\*\.safetensors\), and holds none"),
        (
            lambda f: remove_weights(f, "pytorch_model.bin"),
            "must be safetensors, got pytorch_model.bin: loading a pickle",
        ),
        (lambda f: remove_weights(f, "model.pt"), "must be safetensors, got model.pt"),
        (put_a_link, "must be a plain file, got a symbolic link"),
        (cut_weights, "is not a usable safetensors file: its tensors take 8 bytes and 7 are there"),
        (lambda f: (f / "model.safetensors").write_text("version https://git-lfs\n"), "its header does not fit"),
        (
            lambda f: change(f, "model.safetensors.index.json", weight_map={"w": "other.safetensors"}),
            "every shard .* and other.safetensors is missing",
        ),
    ],
)
def test_a_folder_that_cannot_be_used(folder: Path, tmp_path: Path, damage: Any, message: str) -> None:
    damage(folder)
    with pytest.raises(BuildError, match=message):
        fetched(Source(uri=str(folder)), tmp_path)


def test_a_checksum_is_not_for_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"source\.sha256 is for wheels and files"):
        fetched(Source(uri=str(folder), sha256="0" * 64), tmp_path)


def test_tokenizer_of_a_folder(folder: Path) -> None:
    change(folder, "generation_config.json", eos_token_id=[1, 0], pad_token_id=-1)
    change(folder, "tokenizer_config.json", bos_token={"content": "<|user|>"}, eos_token="<|end|>")
    converted = read_huggingface_tokenizer(folder)
    assert converted.meta.eos_token_ids == (1, 0)
    assert converted.meta.pad_token_id == 1
    assert (converted.meta.bos_token, converted.meta.eos_token) == ("<|user|>", "<|end|>")
    assert (converted.meta.vocab_size, converted.meta.max_position_embeddings) == (261, 128)
    assert not converted.meta.add_special_tokens
    assert converted.chat_template is None


def test_where_a_chat_template_is_found(folder: Path) -> None:
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "from a list"}]
    change(folder, "tokenizer_config.json", chat_template=named)
    assert read_huggingface_tokenizer(folder).chat_template == "from a list"
    change(folder, "tokenizer_config.json", chat_template="from a text")
    assert read_huggingface_tokenizer(folder).chat_template == "from a text"
    change(folder, "chat_template.json", chat_template="from a file")
    assert read_huggingface_tokenizer(folder).chat_template == "from a file"
    (folder / "chat_template.jinja").write_text("from jinja")
    assert read_huggingface_tokenizer(folder).chat_template == "from jinja"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "tokenizer.json").rename(f / "tokenizer.model"), "and holds tokenizer.model only"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "is not a usable tokenizer"),
        (lambda f: change(f, "config.json", vocab_size=260), r"must be < 260 \(vocab_size\), got 260"),
        (lambda f: change(f, "config.json", vocab_size="many"), "must have vocab_size, a number > 0, got 'many'"),
        (lambda f: change(f, "config.json", eos_token_id=None), "must say which token ends an answer"),
        (lambda f: change(f, "config.json", eos_token_id=999), r"eos_token_ids must be in \[0, 261\), got 999"),
        (lambda f: change(f, "config.json", max_position_embeddings=None), "max_position_embeddings or n_positions"),
        (lambda f: (f / "config.json").write_text("[]"), "must hold a JSON object"),
        (lambda f: (f / "tokenizer_config.json").write_text("{"), "tokenizer_config.json cannot be read"),
        (lambda f: change(f, "tokenizer_config.json", chat_template=5), "chat_template .* must be a text"),
    ],
)
def test_a_tokenizer_that_cannot_be_used(folder: Path, damage: Any, message: str) -> None:
    damage(folder)
    with pytest.raises(BuildError, match=message):
        read_huggingface_tokenizer(folder)


@pytest.fixture
def hub(folder: Path) -> Iterator[Hub]:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    (folder / "modeling.py").write_text("raise SystemExit")
    found = Hub(folder)
    yield found
    found.close()


FETCH = """
import sys
from pathlib import Path
from conch.build.cache import Cache
from conch.build.progress import Progress
from conch.build.sources import fetch, look_ahead
from conch.errors import ConchError
from conch.spec import Source
if sys.argv[3] == "without":
    sys.modules["huggingface_hub"] = None
cache = Cache(Path(sys.argv[1]), Progress())
try:
    with cache.locked():
        ahead = look_ahead(Source(uri=sys.argv[2]), cache)
        assert ahead is None or (ahead.config and ahead.size_bytes)
        checkpoint = fetch(Source(uri=sys.argv[2]), cache, Progress())
        assert look_ahead(Source(uri=sys.argv[2]), cache) is None
    print(checkpoint.revision, *sorted(p.name for p in checkpoint.path.iterdir()))
except ConchError as error:
    print(error.message, "|", error.mend)
"""


def fetch_in_child(tmp_path: Path, uri: str, endpoint: str, library: str = "with", token: str = "") -> str:
    environment = {
        **os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": token,
    }  # fmt: skip
    command = [sys.executable, "-c", FETCH, str(tmp_path / "cache"), uri, library]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_hub(hub: Hub, tmp_path: Path) -> None:
    expected = f"{COMMIT} config.json model.safetensors tokenizer.json\n"
    assert fetch_in_child(tmp_path, "hf://org/small@main", hub.url) == expected
    assert not any("modeling" in path or "pytorch" in path for path in hub.paths)
    # A commit that is in the cache needs no Hub, and not even its library.
    assert fetch_in_child(tmp_path, f"hf://org/small@{COMMIT}", "http://127.0.0.1:9", "without") == expected


def test_room_for_a_model_is_asked_for_before_it_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    hub.weights_bytes = 1 << 60
    assert "no space left at " in fetch_in_child(tmp_path, "hf://org/small@main", hub.url)
    assert not any(path.endswith(".safetensors") for path in hub.paths)


def test_hub_refuses(hub: Hub, tmp_path: Path) -> None:
    message = fetch_in_child(tmp_path, "hf://org/other@main", hub.url)
    assert message.startswith("hf://org/other@main cannot be fetched: ")
    assert "Check the name and the revision" in message


def test_a_gated_model_needs_a_token_with_access(hub: Hub, tmp_path: Path) -> None:
    uri = "hf://org/gated@main"
    refusal = f"hf://org/gated@{COMMIT} is gated, and "
    mend = " | Accept its terms on the page of org/gated, and set HF_TOKEN to a token of that account\n"
    assert fetch_in_child(tmp_path, uri, hub.url) == f"{refusal}HF_TOKEN is not set{mend}"
    other = fetch_in_child(tmp_path, uri, hub.url, token="hf_other")
    assert other == f"{refusal}HF_TOKEN is of an account without access{mend}"
    granted = fetch_in_child(tmp_path, uri, hub.url, token="granted")
    assert granted == f"{COMMIT} config.json model.safetensors tokenizer.json\n"


def test_hub_cannot_be_reached(tmp_path: Path) -> None:
    message = fetch_in_child(tmp_path, "hf://org/small@main", "http://127.0.0.1:9")
    assert message.startswith("the Hugging Face Hub cannot be reached for hf://org/small@main: ")
    assert message.endswith(
        " | Go online, or name the model's folder on this machine; what was fetched before is used offline\n"
    )
    assert message.count("\n") == 1


def test_a_branch_that_was_fetched_before_is_used_offline(hub: Hub, tmp_path: Path) -> None:
    online = fetch_in_child(tmp_path, "hf://org/small@main", hub.url)
    note, offline = fetch_in_child(tmp_path, "hf://org/small@main", "http://127.0.0.1:9").splitlines(keepends=True)
    assert offline == online
    assert note.startswith("note: the Hugging Face Hub cannot be reached; hf://org/small@main is taken as it was ")
    assert COMMIT in note
    other = fetch_in_child(tmp_path, "hf://org/small@other", "http://127.0.0.1:9")
    assert other.startswith("the Hugging Face Hub cannot be reached for hf://org/small@other: ")


def test_hub_library_is_missing(tmp_path: Path) -> None:
    message = fetch_in_child(tmp_path, "hf://org/small@main", "http://127.0.0.1:9", "without")
    assert message == (
        "hf://org/small@main needs the package huggingface_hub, which is not installed | "
        "Run pip install 'conch[hub]', or download the model and name its folder\n"
    )
