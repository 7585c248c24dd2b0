from dataclasses import replace
from pathlib import Path

import pytest

from conch.errors import ServerError
from conch.server.locate import Installation, Interpreter, locate

STUB = "pytriton/tritonserver/python_backend_stubs/3.11/triton_python_backend_stub"


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.fixture
def interpreter(tmp_path: Path) -> Interpreter:
    """A whole installation, of empty files."""
    site = tmp_path / "site-packages"
    for name in (
        "pytriton/tritonserver/bin/tritonserver",
        "pytriton/tritonserver/backends/python/libtriton_python.so",
        "pytriton/tritonserver/backends/python/__pycache__/a.pyc",
        STUB,
        "nvidia_pytriton.libs/libtritonserver.so",
    ):
        touch(site / name)
    touch(tmp_path / "bin/python3")
    touch(tmp_path / "lib/libpython3.11.so.1.0")
    return Interpreter(
        version="3.11",
        bin_dir=tmp_path / "bin",
        site_packages=site,
        library="libpython3.11.so.1.0",
        library_dirs=(tmp_path / "elsewhere", tmp_path / "lib"),
        debian=True,
    )


def test_everything_is_found(interpreter: Interpreter, tmp_path: Path) -> None:
    found = locate(interpreter)
    assert found.stub == tmp_path / "site-packages" / STUB
    assert found.libpython_dir == tmp_path / "lib"


def test_the_running_interpreter_has_everything() -> None:
    assert locate(Interpreter.current()).tritonserver.is_file()


def test_without_pytriton(interpreter: Interpreter) -> None:
    with pytest.raises(ServerError, match="nvidia-pytriton, which carries tritonserver, is not installed") as caught:
        locate(replace(interpreter, site_packages=None))
    assert "make setup" in caught.value.mend


@pytest.mark.parametrize(("debian", "mend"), [(True, "apt-get install libpython3.11"), (False, "--enable-shared")])
def test_without_libpython(interpreter: Interpreter, tmp_path: Path, debian: bool, mend: str) -> None:
    (tmp_path / "lib/libpython3.11.so.1.0").unlink()
    with pytest.raises(ServerError, match=r"libpython3\.11\.so\.1\.0, .* is missing") as caught:
        locate(replace(interpreter, debian=debian))
    assert mend in caught.value.mend


@pytest.mark.parametrize(
    "name",
    ["pytriton/tritonserver/bin/tritonserver", "pytriton/tritonserver/backends/python/libtriton_python.so", STUB],
)
def test_a_missing_part_is_named(interpreter: Interpreter, tmp_path: Path, name: str) -> None:
    (tmp_path / "site-packages" / name).unlink()
    with pytest.raises(ServerError, match=Path(name).name):
        locate(interpreter)


def test_without_python3_for_the_stub(interpreter: Interpreter, tmp_path: Path) -> None:
    (tmp_path / "bin/python3").unlink()
    with pytest.raises(ServerError, match="there is no python3"):
        locate(interpreter)


def test_the_environment_puts_ours_first_and_keeps_the_rest(interpreter: Interpreter, tmp_path: Path) -> None:
    environment = locate(interpreter).environment({"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/opt/lib", "HOME": "/h"})
    assert environment["PATH"] == f"{tmp_path}/bin:/usr/bin"
    assert environment["LD_LIBRARY_PATH"] == f"{tmp_path}/site-packages/nvidia_pytriton.libs:{tmp_path}/lib:/opt/lib"
    assert environment["HOME"] == "/h"


def test_the_environment_has_no_empty_parts(interpreter: Interpreter) -> None:
    environment = locate(interpreter).environment({})
    # An empty part would mean the working directory, to the loader and to a search for programs.
    assert "" not in environment["PATH"].split(":")
    assert "" not in environment["LD_LIBRARY_PATH"].split(":")


def test_the_backend_is_made_anew(interpreter: Interpreter, tmp_path: Path) -> None:
    found: Installation = locate(interpreter)
    folder = tmp_path / "run" / "backends"
    touch(folder / "python" / "left-by-an-older-version")
    assert found.install_backend(folder) == folder
    assert {p.name for p in (folder / "python").iterdir()} == {"libtriton_python.so", "triton_python_backend_stub"}
    assert (folder / "python" / "triton_python_backend_stub").stat().st_mode & 0o111
