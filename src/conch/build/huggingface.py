"""Hugging Face checkpoints: a folder on this machine, or a repository of the Hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from conch.build.disk import disk_errors
from conch.errors import BuildError
from conch.repository.manifest import FileEntry, file_entry

CONFIG_FILE = "config.json"
INDEX_FILE = "model.safetensors.index.json"
# What a checkpoint is made of. Nothing else of a folder is read: no code, no pickles.
CHECKPOINT_FILES = (
    CONFIG_FILE, "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "vocab.json", "merges.txt", "tokenizer.model",
    INDEX_FILE,
)  # fmt: skip
WEIGHTS_PATTERN = "*.safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# What is raised where no server answers: of huggingface_hub, httpx and requests, whichever its version uses.
_UNREACHABLE = frozenset(
    ("ConnectionError", "TransportError", "Timeout", "OfflineModeIsEnabled", "LocalEntryNotFoundError")
)


class HubUnreachableError(BuildError):
    """The Hub does not answer: no network, or it was told to be offline."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; an empty one where there is no such file.

    Raises:
        BuildError: cannot be read, or is not a JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise BuildError(f"{path} cannot be read: {error}") from None
    if not isinstance(data, dict):
        raise BuildError(f"{path} must hold a JSON object")
    return data


def checkpoint_files(folder: Path) -> list[Path]:
    """The files of a checkpoint folder that a build reads, after a look at whether they can be used.

    Raises:
        BuildError: no config.json, no safetensors weights (pickles are not loaded), a shard is missing, a weights file
            is cut off, or a file is a link.
    """
    found = [folder / name for name in CHECKPOINT_FILES if (folder / name).exists() or (folder / name).is_symlink()]
    weights = sorted(folder.glob(WEIGHTS_PATTERN))
    for path in (*found, *weights):
        if path.is_symlink():
            raise BuildError(
                f"{path} must be a plain file, got a symbolic link",
                mend="Copy the folder with cp -RL, or name the model as hf://org/name@revision",
            )
    if folder / CONFIG_FILE not in found:
        raise BuildError(f"{folder} must hold {CONFIG_FILE}, and does not", mend="Name a Hugging Face model folder")
    if not weights:
        raise _no_weights(folder)
    shards = set(read_json(folder / INDEX_FILE).get("weight_map", {}).values())
    missing = sorted(shards - {p.name for p in weights})
    if missing:
        raise BuildError(f"{folder} must hold every shard that {INDEX_FILE} names, and {missing[0]} is missing")
    for path in weights:
        _require_whole(path)
    return sorted((*found, *weights))


def _no_weights(folder: Path) -> BuildError:
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in _PICKLES)
    if pickles:
        return BuildError(
            f"weights of {folder} must be safetensors, got {pickles[0]}: loading a pickle runs whatever code is in it",
            mend="Load the model with transformers where you trust it, and save_pretrained it as safetensors",
        )
    return BuildError(f"{folder} must hold weights ({WEIGHTS_PATTERN}), and holds none")


def _require_whole(path: Path) -> None:
    """Refuse a safetensors file that is cut off, or is a placeholder of Git LFS."""
    size_bytes = path.stat().st_size
    try:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if not 2 <= header_bytes <= size_bytes - 8:
                raise ValueError("its header does not fit")
            tensors = json.loads(file.read(header_bytes))
        data_bytes = max((t["data_offsets"][1] for name, t in tensors.items() if name != "__metadata__"), default=0)
        if data_bytes != size_bytes - 8 - header_bytes:
            raise ValueError(f"its tensors take {data_bytes} bytes and {size_bytes - 8 - header_bytes} are there")
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise BuildError(
            f"{path} is not a usable safetensors file: {error}",
            mend="Fetch it again; a file of a few lines is a placeholder that git lfs pull replaces",
        ) from None


def folder_checksum(files: dict[str, FileEntry]) -> str:
    """sha256 of the list of files' checksums, as ``sha256sum`` prints it, by name."""
    lines = (f"{files[name].sha256}  {name}\n" for name in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def hash_files(paths: list[Path]) -> dict[str, FileEntry]:
    """Checksums of files, by name."""
    return {path.name: file_entry(path) for path in paths}


def resolve_commit(name: str, revision: str) -> str:
    """The commit that a branch, tag or commit of a Hub repository stands for.

    Raises:
        BuildError: huggingface_hub is not installed, or the Hub has no such revision.
        HubUnreachableError: it cannot be asked.
    """
    if _COMMIT.fullmatch(revision):
        return revision
    hub = _hub(f"{name}@{revision}")
    try:
        commit = hub.HfApi().model_info(name, revision=revision).sha
    except Exception as error:  # its errors come from several libraries, depending on its version
        raise _hub_error(name, revision, error) from None
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise BuildError(f"the Hub gives no commit for {name}@{revision}, got {commit!r}")
    return commit


def hub_config(name: str, commit: str) -> dict[str, Any]:
    """The config.json of a commit, by itself.

    Raises:
        BuildError: as resolve_commit, and where it is no JSON object.
    """
    hub = _hub(f"{name}@{commit}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = hub.hf_hub_download(name, CONFIG_FILE, revision=commit, local_dir=folder)
        except Exception as error:
            raise _hub_error(name, commit, error) from None
        return read_json(Path(path))


def snapshot_bytes(name: str, commit: str) -> int:
    """Bytes of the files that download_snapshot fetches, as the Hub says; a file whose size it does not say counts 0.

    Raises:
        BuildError: as resolve_commit.
    """
    hub = _hub(f"{name}@{commit}")
    try:
        files = hub.HfApi().model_info(name, revision=commit, files_metadata=True).siblings or []
    except Exception as error:
        raise _hub_error(name, commit, error) from None
    wanted = (*CHECKPOINT_FILES, WEIGHTS_PATTERN)
    return sum(file.size or 0 for file in files if any(fnmatch(file.rfilename, pattern) for pattern in wanted))


def download_snapshot(name: str, commit: str, folder: Path) -> None:
    """Download the checkpoint files of a commit into an empty folder.

    Raises:
        BuildError: as resolve_commit, and for a checkpoint that cannot be used.
    """
    hub = _hub(f"{name}@{commit}")
    try:
        with disk_errors(folder):
            hub.snapshot_download(
                name, revision=commit, local_dir=folder, allow_patterns=[*CHECKPOINT_FILES, WEIGHTS_PATTERN]
            )
    except BuildError:
        raise
    except Exception as error:
        raise _hub_error(name, commit, error) from None
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # its own notes
    checkpoint_files(folder)


def _hub(what: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise BuildError(
            f"hf://{what} needs the package huggingface_hub, which is not installed",
            mend="Run pip install 'conch[hub]', or download the model and name its folder",
        ) from None
    return huggingface_hub


def _hub_error(name: str, revision: str, error: Exception) -> BuildError:
    if type(error).__name__ == "GatedRepoError":
        have = "HF_TOKEN is of an account without access" if os.environ.get("HF_TOKEN") else "HF_TOKEN is not set"
        return BuildError(
            f"hf://{name}@{revision} is gated, and {have}",
            mend=f"Accept its terms on the page of {name}, and set HF_TOKEN to a token of that account",
        )
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    if _is_unreachable(error):
        return HubUnreachableError(
            f"the Hugging Face Hub cannot be reached for hf://{name}@{revision}: {type(error).__name__}: {reason}",
            mend="Go online, or name the model's folder on this machine; what was fetched before is used offline",
        )
    return BuildError(
        f"hf://{name}@{revision} cannot be fetched: {type(error).__name__}: {reason}",
        mend="Check the name and the revision, and HF_TOKEN for a model that is gated",
    )


def _is_unreachable(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that no server answered."""
    while error is not None:
        if any(kind.__name__ in _UNREACHABLE for kind in type(error).__mro__):
            return True
        error = error.__cause__ or error.__context__
    return False
