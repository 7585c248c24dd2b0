"""Makes a TensorRT engine: convert or quantize, then trtllm-build, each in a process of its own and kept in the cache.

TensorRT-LLM leaves GPU memory behind in the process that compiled, so nothing of it is imported here. What a step made
stays in the cache: a build that was killed goes on after the last step that ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from conch.build.cache import Cache, CacheEntry
from conch.build.children import folder_bytes, last_lines, run_child
from conch.build.compile import ENGINES, CompiledEngine
from conch.build.disk import full_disk_error, require_space
from conch.build.huggingface import CONFIG_FILE, read_json
from conch.build.progress import Progress, format_bytes
from conch.build.sources import Ahead, Checkpoint, Format
from conch.build.tensorrt_llm_host import Workplace
from conch.build.tensorrt_llm_memory import require_memory
from conch.build.tensorrt_llm_plan import no_gguf
from conch.errors import BuildError, RepositoryError
from conch.repository.manifest import file_entry
from conch.spec import Engine
from conch.spec_trtllm import TensorRtLlm
from conch.trtllm.commands import TIMING_CACHE, checkpoint_command, container_command, engine_command
from conch.trtllm.engine_match import check_spec, read_engine, write_build_file
from conch.trtllm.model_config import check_model

CHECKPOINTS = "tensorrt_llm_checkpoints"
LOGS = "logs"
_KILL_S = 30


def check_before_fetch(ahead: Ahead, engine: Engine, cache: Cache, workplace: Workplace) -> None:
    """Refuse what compile_tensorrt_llm would, for the model or for room, before its weights are downloaded.

    Args:
        ahead: the checkpoint.
        engine, cache, workplace: as there.

    Raises:
        BuildError: the model does not fit the spec, or the GPUs; or the disk has no room for the checkpoint and the one
            that is made of it.
    """
    assert engine.tensorrt_llm is not None
    model = check_model(ahead.config, engine, engine.tensorrt_llm)
    require_memory(model, engine, engine.tensorrt_llm, workplace.host)
    require_space(cache.root, 2 * ahead.size_bytes)


def compile_tensorrt_llm(
    checkpoint: Checkpoint, engine: Engine, cache: Cache, progress: Progress, workplace: Workplace
) -> CompiledEngine:
    """Make the engine of a spec, or find it in the cache. The cache must be locked.

    Args:
        checkpoint: of a Hugging Face model.
        engine: section ``engine`` of the spec, of the runtime tensorrtllm.
        cache, progress: see there.
        workplace: see find_workplace.

    Raises:
        BuildError: the model does not fit the spec, a step failed, or what it made is not whole.
    """
    assert engine.tensorrt_llm is not None
    settings = _with_absolute_folders(engine.tensorrt_llm)
    if checkpoint.format is not Format.HUGGINGFACE:
        raise no_gguf()
    model = check_model(read_json(checkpoint.path / CONFIG_FILE), engine, settings)
    estimate = require_memory(model, engine, settings, workplace.host)
    if estimate:
        progress.say(estimate)
    steps = _Steps(checkpoint, engine, settings, cache, progress, workplace)
    entry = steps.engine(steps.converted())
    tools = {
        "tensorrt_llm": settings.version, "gpu": workplace.host.gpu_name,
        "compute_capability": workplace.host.compute_capability,
    }  # fmt: skip
    if workplace.container is not None:
        tools["container"] = workplace.container
    return CompiledEngine(entry.files_dir, tools, entry.made)


class _Steps:
    """The two steps of one build, run here or in the container, each with a log of its own."""

    def __init__(
        self, checkpoint: Checkpoint, engine: Engine, settings: TensorRtLlm, cache: Cache, progress: Progress,
        workplace: Workplace,
    ) -> None:  # fmt: skip
        self._checkpoint, self._engine, self._settings = checkpoint, engine, settings
        self._cache, self._progress, self._workplace = cache, progress, workplace
        self._calibration = _folders(settings.quantization.calib_dataset) if settings.quantization.needed else []
        self._adapters = _folders(*settings.build.lora_dir)
        self._key = _key(
            checkpoint.sha256, settings.version, checkpoint_command(settings, "", "", ""), _content(self._calibration)
        )
        weights = [name for name in checkpoint.files if name.endswith(".safetensors")]
        self.weight_bytes = sum((checkpoint.path / name).stat().st_size for name in weights)

    def converted(self) -> CacheEntry:
        """The checkpoint of TensorRT-LLM's."""
        source, settings = self._checkpoint, self._settings

        def make(files_dir: Path) -> dict[str, str]:
            require_space(files_dir, self.weight_bytes)
            command = checkpoint_command(settings, _path(source.path), _path(files_dir), self._workplace.examples_dir)
            self._run("checkpoint", command, files_dir, [source.path, *self._calibration])
            for name in (CONFIG_FILE, *(f"rank{rank}.safetensors" for rank in range(settings.world_size))):
                if not (files_dir / name).is_file():
                    raise BuildError(f"the checkpoint must hold {name}, and does not: it was not finished")
            return {"source_sha256": source.sha256, "command": json.dumps(command)}

        return self._cache.get(CHECKPOINTS, self._key, make)

    def engine(self, converted: CacheEntry) -> CacheEntry:
        """The compiled engine."""
        settings = self._settings

        def make(files_dir: Path) -> dict[str, str]:
            require_space(files_dir, sum(entry.size_bytes for entry in converted.files.values()))
            command = engine_command(self._engine, settings, _path(converted.files_dir), _path(files_dir))
            self._run("engine", command, files_dir, [converted.files_dir, *self._adapters])
            (files_dir / TIMING_CACHE).unlink(missing_ok=True)
            write_build_file(files_dir, self._workplace.host)
            try:
                check_spec(read_engine(files_dir), settings)
            except RepositoryError as error:
                raise BuildError(f"trtllm-build made something else: {error.message}") from None
            return {"checkpoint": self._key, "command": json.dumps(command)}

        command = engine_command(self._engine, settings, "", "")
        key = _key(self._key, self._workplace.host.compute_capability, command, _content(self._adapters))
        return self._cache.get(ENGINES, key, make)

    def _run(self, step: str, command: list[str], output_dir: Path, inputs: list[Path]) -> None:
        """Run one step to its end.

        Raises:
            BuildError: it failed.
        """
        logs = self._cache.root / LOGS
        logs.mkdir(parents=True, exist_ok=True)
        log = logs / f"tensorrt_llm-{step}.log"
        id_file = logs / f"tensorrt_llm-{step}.container"
        if self._workplace.container is not None:
            stop_container(id_file)  # of a build that was killed
            folders = [_path(path) for path in (output_dir, *inputs)]
            user = f"{os.getuid()}:{os.getgid()}"
            command = container_command(command, self._workplace.container, folders, user, _path(id_file))
        self._progress.say(f"{step}: {Path(command[0]).name}; its output goes to {log}")
        try:
            status, output = run_child(
                command, progress=self._progress, title=f"making the {step}",
                environment={**os.environ, "TMPDIR": _path(output_dir.parent)}, so_far=_size_of(output_dir), log=log,
            )  # fmt: skip
        finally:
            stop_container(id_file)
        if status == 0:
            return
        if "No space left on device" in output or "Disk quota exceeded" in output:
            raise full_disk_error(output_dir, None)
        if status in (-9, 137):
            raise BuildError(f"the {step} was killed, most likely because memory ran out", mend=f"See {log}")
        raise BuildError(f"the {step} could not be made (status {status}): {last_lines(output)}", mend=f"See {log}")


def stop_container(id_file: Path) -> None:
    """End the container whose id a file holds, if it runs: Docker's command may be dead while its container is not."""
    try:
        container = id_file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return
    if container:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):  # no Docker, or none that answers
            subprocess.run(["docker", "kill", container], capture_output=True, timeout=_KILL_S, check=False)
    id_file.unlink()


def _size_of(folder: Path) -> Callable[[], str]:
    return lambda: f", {format_bytes(folder_bytes(folder))} so far"


def _with_absolute_folders(settings: TensorRtLlm) -> TensorRtLlm:
    """Folders that a spec names, as a container sees them; calib_dataset may be the name of a data set, too.

    Raises:
        BuildError: a folder of adapters is not there.
    """
    missing = [name for name in settings.build.lora_dir if not Path(name).is_dir()]
    if missing:
        raise BuildError(f"engine.tensorrt_llm.build.lora_dir must be folders that exist, got {missing[0]}")
    adapters = tuple(_path(Path(name)) for name in settings.build.lora_dir)
    data_set = settings.quantization.calib_dataset
    quantization = {"calib_dataset": _path(Path(data_set)) if Path(data_set).is_dir() else data_set}
    return settings.model_copy(update={
        "build": settings.build.model_copy(update={"lora_dir": adapters}),
        "quantization": settings.quantization.model_copy(update=quantization),
    })  # fmt: skip


def _folders(*names: str) -> list[Path]:
    return [Path(name) for name in names if Path(name).is_dir()]


def _content(folders: list[Path]) -> list[list[tuple[str, str]]]:
    """Names and checksums of the files in folders: the same path may hold something else by the next build."""
    files = ([path for path in sorted(folder.rglob("*")) if path.is_file()] for folder in folders)
    return [[(str(path.relative_to(folder)), file_entry(path).sha256) for path in paths]
            for folder, paths in zip(folders, files, strict=True)]  # fmt: skip


def _path(path: Path) -> str:
    return str(path.resolve())


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
