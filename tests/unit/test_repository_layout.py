"""Releases in a repository: written once, whole or not at all, by one writer at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_tokenizers import small_meta, write_tokenizer

from conch.contract import ENGINE, ENSEMBLE, MODEL_NAMES, STAGES, TWIN_STAGES, model_names
from conch.errors import BuildError
from conch.repository import check, layout, pbtxt
from conch.repository.artifacts import ENGINE_DIR, GGUF_FILE, Artifacts, Provenance
from conch.repository.check import check_repository
from conch.repository.layout import release_limits, write_release
from conch.repository.manifest import Manifest, finished_versions
from conch.repository.pbtxt import CONFIG_FILE, pinned_version
from conch.repository.settings import ReleaseSettings
from conch.spec import ModelSpec, parse_spec

ROOT = Path(__file__).resolve().parents[2]
_made: dict[tuple[str, int], dict[str, str]] = {}


@pytest.fixture(autouse=True)
def _configs_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of the time of a small release goes into its configs: each is made once."""

    def make(spec: ModelSpec, version: int) -> dict[str, str]:
        key = spec.canonical_json(), version
        if key not in _made:
            _made[key] = pbtxt.model_configs(spec, version)
        return _made[key]

    for module in (layout, check):
        monkeypatch.setattr(module, "model_configs", make)


def small_spec(**engine: Any) -> ModelSpec:
    spec = parse_spec("{name: small, source: {uri: none.gguf}, engine: {runtime: echo}}", "small")
    return spec.model_copy(update={"engine": spec.engine.model_copy(update=engine)})


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    write_tokenizer(tmp_path / "tokenizer", "single_bytes")
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / GGUF_FILE).write_bytes(b"GGUF" * 1000)
    provenance = Provenance(uri="none.gguf", revision="1", sha256="0" * 64, tools={"a": "1", "b": "2"})
    return Artifacts(tmp_path / "tokenizer", tmp_path / "engine", provenance)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "repository"


def contents(repository: Path) -> dict[str, bytes | None]:
    """Every file and folder but the lock: path -> content, None for a folder."""
    return {
        str(path.relative_to(repository)): path.read_bytes() if path.is_file() else None
        for path in repository.rglob("*")
        if path.name != ".lock"
    }


def configs(found: dict[str, bytes | None]) -> dict[str, bytes | None]:
    """The config.pbtxt files among contents."""
    return {path: data for path, data in found.items() if Path(path).name == CONFIG_FILE}


def pinned(repository: Path) -> int:
    return pinned_version((repository / ENSEMBLE.name / CONFIG_FILE).read_text())


def test_a_release_has_every_model_with_its_files(repository: Path, artifacts: Artifacts) -> None:
    spec = small_spec()
    release = write_release(repository, spec, artifacts)
    assert (release.version, release.created, release.name) == (1, True, "small")
    assert {path.name for path in repository.iterdir()} == {*MODEL_NAMES, ".lock"}
    for name in MODEL_NAMES:
        settings = ReleaseSettings.read(repository / name / "1")
        assert settings == ReleaseSettings(spec, settings.limits)
    for stage in (*STAGES, *TWIN_STAGES):
        source = (ROOT / "python_backends" / stage.name / "model.py").read_bytes()
        assert (repository / stage.name / "1" / "model.py").read_bytes() == source
        assert list((repository / stage.name / "1" / "__pycache__").glob("model.*.pyc")), "not compiled beforehand"
    engine_file = repository / ENGINE.name / "1" / ENGINE_DIR / GGUF_FILE
    assert engine_file.read_bytes() == (artifacts.engine_dir / GGUF_FILE).read_bytes()
    assert Manifest.read(repository, 1).provenance == artifacts.provenance
    assert check_repository(repository).version == 1


def test_a_release_without_twins(repository: Path, artifacts: Artifacts) -> None:
    spec = small_spec()
    without = spec.model_copy(update={"serving": spec.serving.model_copy(update={"twins": False})})
    write_release(repository, without, artifacts)
    names = {*model_names(twins=False), ".lock"}
    assert len(names) < len(MODEL_NAMES)
    assert {path.name for path in repository.iterdir()} == names
    assert not check_repository(repository).twins
    # A later release may have them, and one after that may not: what an earlier one left is not in the way.
    assert write_release(repository, spec, artifacts).version == 2
    assert check_repository(repository).twins
    assert write_release(repository, without, artifacts).version == 1
    assert not check_repository(repository).twins


def test_writing_the_same_again_changes_nothing(repository: Path, artifacts: Artifacts) -> None:
    write_release(repository, small_spec(), artifacts)
    before = contents(repository)
    times = {path: path.stat().st_mtime_ns for path in repository.rglob("*")}
    again = write_release(repository, small_spec(), artifacts)
    assert (again.version, again.created) == (1, False)
    assert contents(repository) == before
    # Triton loads a version anew whose folder's time has changed.
    lock = repository / ".lock"
    assert {p: t for p, t in times.items() if p not in (lock, repository)} == {
        p: p.stat().st_mtime_ns for p in repository.rglob("*") if p != lock
    }


@pytest.mark.parametrize("change", ["spec", "tokenizer", "revision", "tools"])
def test_whatever_shapes_a_release_makes_a_new_version(repository: Path, artifacts: Artifacts, change: str) -> None:
    write_release(repository, small_spec(), artifacts)
    first = {path: data for path, data in contents(repository).items() if "/1" in path}
    spec = small_spec(max_batch_size=8) if change == "spec" else small_spec()
    if change == "tokenizer":
        (artifacts.tokenizer_dir / "chat_template.jinja").write_text("{{ messages[0].content }}")
    provenance = artifacts.provenance
    if change == "revision":
        provenance = replace(provenance, revision="2")
    elif change == "tools":
        provenance = replace(provenance, tools={"a": "1", "b": "3"})
    release = write_release(repository, spec, replace(artifacts, provenance=provenance))
    assert (release.version, release.created) == (2, True)
    assert finished_versions(repository) == [1, 2]
    assert pinned(repository) == 2
    after = contents(repository)
    assert {path: after[path] for path in first} == first, "the first version was touched"
    assert check_repository(repository).version == 2


def test_the_order_of_tools_is_no_difference(repository: Path, artifacts: Artifacts) -> None:
    write_release(repository, small_spec(), artifacts)
    provenance = replace(artifacts.provenance, tools={"b": "2", "a": "1"})
    assert write_release(repository, small_spec(), replace(artifacts, provenance=provenance)).version == 1


def test_building_an_older_release_again_pins_it_again(repository: Path, artifacts: Artifacts) -> None:
    write_release(repository, small_spec(), artifacts)
    write_release(repository, small_spec(max_batch_size=8), artifacts)
    release = write_release(repository, small_spec(), artifacts)
    assert (release.version, release.created, pinned(repository)) == (1, False, 1)
    assert check_repository(repository).version == 1
    assert finished_versions(repository) == [1, 2]


def test_a_version_may_be_chosen_and_never_changes(repository: Path, artifacts: Artifacts) -> None:
    assert write_release(repository, small_spec(), artifacts, version=7).version == 7
    assert write_release(repository, small_spec(), artifacts, version=7).created is False
    before = contents(repository)
    with pytest.raises(BuildError, match=r"^version 7 of .* exists and was built from something else\. Versions never"):
        write_release(repository, small_spec(max_batch_size=8), artifacts, version=7)
    assert contents(repository) == before
    assert write_release(repository, small_spec(max_batch_size=8), artifacts).version == 8
    assert write_release(repository, small_spec(), artifacts, version=9).version == 9


def test_a_damaged_version_is_not_taken_for_an_equal_one(repository: Path, artifacts: Artifacts) -> None:
    write_release(repository, small_spec(), artifacts)
    (repository / ENGINE.name / "1" / "tokenizer.json").write_text("{}")
    release = write_release(repository, small_spec(), artifacts)
    assert (release.version, release.created) == (2, True)
    assert check_repository(repository).version == 2


def test_what_a_killed_build_left_is_removed(repository: Path, artifacts: Artifacts) -> None:
    write_release(repository, small_spec(), artifacts)
    clean = contents(repository)
    shutil.copytree(repository / "tokenizer" / "1", repository / "tokenizer" / "2")
    shutil.copytree(repository / ENSEMBLE.name / "1", repository / ENSEMBLE.name / "3")
    (repository / ".staging-99-x" / "tokenizer" / "2").mkdir(parents=True)
    (repository / ".staging-99-x" / "tokenizer" / "2" / "model.py").touch()
    write_release(repository, small_spec(), artifacts)
    assert contents(repository) == clean


def test_what_somebody_else_put_there_is_never_removed(repository: Path, artifacts: Artifacts) -> None:
    write_release(repository, small_spec(), artifacts)
    kept = [repository / "README.md", repository / "tokenizer" / "1.bak", repository / "ensemble" / "2024-notes"]
    for path in kept[:2]:
        path.write_text("mine")
    kept[2].mkdir()
    write_release(repository, small_spec(max_batch_size=8), artifacts)
    assert all(path.exists() for path in kept)


def test_a_version_of_somebody_else_s_model_is_an_error_and_stays(repository: Path, artifacts: Artifacts) -> None:
    theirs = repository / "tokenizer" / "1" / "model.onnx"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("weights")
    with pytest.raises(BuildError, match=r"tokenizer/1 was not written by Conch"):
        write_release(repository, small_spec(), artifacts)
    assert theirs.read_text() == "weights"


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"max_seq_len": 257}, "engine.max_seq_len must be at most 256, the model's context, got 257"),
        ({"max_input_len": 256}, "engine.max_input_len must be < 256, the context, got 256"),
    ],
)
def test_a_spec_that_asks_for_more_than_the_model_can_leaves_nothing(
    repository: Path, artifacts: Artifacts, engine: dict[str, int], message: str
) -> None:
    with pytest.raises(BuildError) as caught:
        write_release(repository, small_spec(**engine), artifacts)
    assert str(caught.value) == message
    assert contents(repository) == {}


def test_limits_come_from_spec_and_model() -> None:
    meta = small_meta(300)
    limits = release_limits(small_spec(), meta)
    assert (limits.max_seq_len, limits.max_input_len, limits.vocab_size) == (256, 255, 300)
    limits = release_limits(small_spec(max_seq_len=100), meta)
    assert (limits.max_seq_len, limits.max_input_len) == (100, 99)
    limits = release_limits(small_spec(max_seq_len=100, max_input_len=10), meta)
    assert (limits.max_seq_len, limits.max_input_len) == (100, 10)


def test_a_second_writer_is_refused(repository: Path, artifacts: Artifacts) -> None:
    repository.mkdir()
    with (repository / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BuildError, match=r"^another build is writing to .*\. Wait for it to end, then try again$"):
            write_release(repository, small_spec(), artifacts)
    assert write_release(repository, small_spec(), artifacts).version == 1


def test_many_writers_at_once_leave_whole_releases(repository: Path, artifacts: Artifacts) -> None:
    def build(spec: ModelSpec) -> None:
        while True:
            try:
                write_release(repository, spec, artifacts)
                return
            except BuildError as error:
                assert "another build" in str(error)  # noqa: PT017

    threads = [threading.Thread(target=build, args=(small_spec(max_batch_size=n % 3 + 1),)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert finished_versions(repository) == [1, 2, 3]
    check_repository(repository)


# --- a disk that fills up, a build that is killed -----------------------------------------------------------------

_WRITING = ("os.mkdir", "os.link", "os.rename", "shutil.copyfile")
_hook: Callable[[str, str], None] | None = None  # takes the event, and the last path of it
_watched = ""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Calls the hook before everything that writes below the watched folder."""
    if _hook is None:
        return
    if event == "open":
        path, mode, flags = arguments
        writes = (isinstance(mode, str) and set(mode) & set("wxa+")) or (isinstance(flags, int) and flags & os.O_CREAT)
        targets = [path] if writes else []
    else:
        targets = list(arguments) if event in _WRITING else []
    below = [str(os.fspath(t)) for t in targets if isinstance(t, (str, os.PathLike))]
    below = [path for path in below if path.startswith(_watched)]
    if below:
        _hook(event, below[-1])


_audit_added = threading.Event()


@contextmanager
def before_every_write(folder: Path, hook: Callable[[str, str], None]) -> Iterator[None]:
    """Call ``hook`` before every open for writing, mkdir, link, copy and rename below ``folder``."""
    global _hook, _watched
    if not _audit_added.is_set():
        sys.addaudithook(_audit)  # cannot be removed again; does nothing without a hook
        _audit_added.set()
    _hook, _watched = hook, str(folder)
    try:
        yield
    finally:
        _hook = None


class FullAfter:
    """A disk that takes ``count`` more writes and then none, but for renames over a file, which need no room."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self, event: str, target: str) -> None:
        if event == "os.rename" and Path(target).is_file():
            return
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("has_release", [False, True])
def test_a_disk_that_is_full_at_any_moment_leaves_nothing(
    tmp_path: Path, artifacts: Artifacts, has_release: bool
) -> None:
    spec = small_spec(max_batch_size=8)
    template = tmp_path / "template"
    template.mkdir()
    if has_release:
        write_release(template, small_spec(), artifacts)
    count = 0
    while True:
        repository = shutil.copytree(template, tmp_path / f"repository-{count}")
        before = contents(repository)
        try:
            with before_every_write(repository, FullAfter(count)):
                write_release(repository, spec, artifacts)
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017
        else:
            break
        finished = finished_versions(repository)
        if len(finished) == has_release:
            assert contents(repository) == before
        else:  # the release is whole; only the pins could not be written, and are all as they were
            assert finished == list(range(1, 2 + has_release))
            assert configs(contents(repository)) == configs(before)
            assert not [path for path in contents(repository) if Path(path).name.startswith(".")]
            if has_release:
                assert check_repository(repository).version == 1
        release = write_release(repository, spec, artifacts)
        assert (check_repository(repository).version, release.version) == (1 + has_release, 1 + has_release)
        shutil.rmtree(repository)
        count += 3  # every third moment: what is written in pairs is cut off on both sides of a pair
    assert count > 30, "the disk was never full at an interesting moment"


class InterruptAt:
    """Ctrl-C before the rename number ``count`` of a config.pbtxt, once."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self, event: str, target: str) -> None:
        if event == "os.rename" and Path(target).name == CONFIG_FILE:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


@pytest.mark.parametrize("count", [1, 2, 7, 11])
def test_an_interrupt_between_two_pins_puts_back_what_was_pinned(
    repository: Path, artifacts: Artifacts, count: int
) -> None:
    write_release(repository, small_spec(), artifacts)
    before = configs(contents(repository))
    with before_every_write(repository, InterruptAt(count)), pytest.raises(KeyboardInterrupt):
        write_release(repository, small_spec(max_batch_size=8), artifacts)
    assert configs(contents(repository)) == before
    assert check_repository(repository).version == 1
    assert not [path for path in contents(repository) if Path(path).name.startswith(".")]


def test_an_interrupt_between_the_first_pins_leaves_none(repository: Path, artifacts: Artifacts) -> None:
    with before_every_write(repository, InterruptAt(5)), pytest.raises(KeyboardInterrupt):
        write_release(repository, small_spec(), artifacts)
    assert configs(contents(repository)) == {}
    assert write_release(repository, small_spec(), artifacts).version == check_repository(repository).version == 1


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[4:]
from test_repository_layout import before_every_write, small_spec
from conch.repository import check, layout, pbtxt
from conch.repository.artifacts import Artifacts, Provenance
from conch.repository.layout import write_release
left = int(sys.argv[3])
def die(event, target):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
files = Path(sys.argv[2])
artifacts = Artifacts(files / "tokenizer", files / "engine", Provenance("none.gguf", "1", "0" * 64))
with before_every_write(Path(sys.argv[1]), die):
    write_release(Path(sys.argv[1]), small_spec(max_batch_size=8), artifacts)
"""


@pytest.mark.parametrize("writes", [1, 12, 30, 37, 39, 42])
def test_a_build_that_is_killed_is_made_good_by_the_next(
    repository: Path, artifacts: Artifacts, writes: int, tmp_path: Path
) -> None:
    write_release(repository, small_spec(), artifacts)
    search_path = [str(Path(__file__).parent), str(ROOT / "tests")]
    command = [sys.executable, "-c", _KILLED, str(repository), str(tmp_path), str(writes), *search_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    release = write_release(repository, small_spec(max_batch_size=8), artifacts)
    assert check_repository(repository) == replace(release, created=False)
    assert not [path for path in contents(repository) if path.startswith(".")]
    for name in MODEL_NAMES:
        versions = {path.name for path in (repository / name).iterdir() if path.is_dir()}
        assert versions == {str(version) for version in finished_versions(repository)}
