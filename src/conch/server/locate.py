"""Finds the tritonserver that nvidia-pytriton carries, and what its Python stub needs to start."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from conch.errors import ServerError

_SETUP = "Run `make setup`"
BACKENDS_VARIABLE = "CONCH_TRITON_BACKENDS"


@dataclass(frozen=True)
class Interpreter:
    """The Python that runs Conch, and that Triton's stub must match.

    Attributes:
        version: "3.11".
        bin_dir: folder of its ``python3``; the stub finds site-packages through the first one on PATH.
        site_packages: where nvidia-pytriton would be; None where it is not installed.
        library: file name of the shared library ("libpython3.11.so.1.0").
        library_dirs: folders where that may be, best first.
        debian: whether apt-get is the way to install a system package.
    """

    version: str
    bin_dir: Path
    site_packages: Path | None
    library: str
    library_dirs: tuple[Path, ...]
    debian: bool

    @classmethod
    def current(cls) -> Interpreter:
        """The running one."""
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        spec = importlib.util.find_spec("pytriton")
        origin = None if spec is None else spec.origin
        library_dir = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib")
        multiarch = sysconfig.get_config_var("MULTIARCH") or ""
        return cls(
            version=version,
            bin_dir=Path(sys.executable).parent,
            site_packages=None if origin is None else Path(origin).parent.parent,
            library=f"libpython{version}.so.1.0",
            library_dirs=(
                library_dir,
                library_dir / multiarch,
                Path(sys.base_prefix) / "lib",
                Path("/usr/lib") / multiarch,
            ),
            debian=shutil.which("apt-get") is not None,
        )


@dataclass(frozen=True)
class Installation:
    """Everything that starting tritonserver needs, found and there.

    Attributes:
        tritonserver: the binary.
        backend_dir: folder of the Python backend's library and helpers.
        stub: the stub for this Python version.
        libraries: folder of the shared libraries that come with the wheel.
        libpython_dir: folder of libpython.
        bin_dir: folder to put first on PATH.
    """

    tritonserver: Path
    backend_dir: Path
    stub: Path
    libraries: Path
    libpython_dir: Path
    bin_dir: Path

    def environment(self, base: dict[str, str]) -> dict[str, str]:
        """``base`` with what tritonserver and its stubs need."""
        libraries = [str(self.libraries), str(self.libpython_dir)]
        if base.get("LD_LIBRARY_PATH"):
            libraries.append(base["LD_LIBRARY_PATH"])
        path = [str(self.bin_dir), *([base["PATH"]] if base.get("PATH") else [])]
        return {**base, "LD_LIBRARY_PATH": os.pathsep.join(libraries), "PATH": os.pathsep.join(path)}

    def install_backend(self, folder: Path, more: Path | None = None) -> Path:
        """Copy the Python backend with the matching stub, as Triton wants them together.

        Args:
            folder: made anew.
            more: folder of other backends, a folder each; they are linked.

        Returns:
            what to pass as --backend-directory.
        """
        python = folder / "python"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.backend_dir, python, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy2(self.stub, python / self.stub.name)
        (python / self.stub.name).chmod(0o755)
        for backend in sorted(more.iterdir()) if more is not None else ():
            (folder / backend.name).symlink_to(backend.resolve())
        return folder


def more_backends(environment: Mapping[str, str]) -> Path | None:
    """Folder of backends beside the Python backend, from the environment; None: there are none.

    Raises:
        ServerError: it is not there.
    """
    named = environment.get(BACKENDS_VARIABLE)
    if not named:
        return None
    if not Path(named).is_dir():
        raise ServerError(f"{BACKENDS_VARIABLE} must be a folder of Triton backends, and {named} is not there")
    return Path(named)


def locate(interpreter: Interpreter) -> Installation:
    """Find tritonserver for this Python.

    Raises:
        ServerError: a part is missing; the mend says how to get it.
    """
    site = interpreter.site_packages
    if site is None:
        raise ServerError("nvidia-pytriton, which carries tritonserver, is not installed", mend=_SETUP)
    server = site / "pytriton" / "tritonserver"
    stub = server / "python_backend_stubs" / interpreter.version / "triton_python_backend_stub"
    parts = {
        "tritonserver": server / "bin" / "tritonserver",
        "the Python backend": server / "backends" / "python" / "libtriton_python.so",
        f"the Python backend's stub for Python {interpreter.version}": stub,
        "the folder of its shared libraries": site / "nvidia_pytriton.libs",
    }
    for what, path in parts.items():
        if not path.exists():
            mend = "Reinstall it: pip install --force-reinstall --no-deps nvidia-pytriton==0.7.0"
            raise ServerError(f"{what} is missing from nvidia-pytriton: {path}", mend=mend)
    if not (interpreter.bin_dir / "python3").exists():
        mend = f"Use an environment made by `python{interpreter.version} -m venv`"
        raise ServerError(f"there is no python3 in {interpreter.bin_dir}, where Triton's stub looks for it", mend=mend)
    return Installation(
        tritonserver=parts["tritonserver"],
        backend_dir=server / "backends" / "python",
        stub=stub,
        libraries=site / "nvidia_pytriton.libs",
        libpython_dir=_libpython_dir(interpreter),
        bin_dir=interpreter.bin_dir,
    )


def _libpython_dir(interpreter: Interpreter) -> Path:
    for folder in interpreter.library_dirs:
        if (folder / interpreter.library).exists():
            return folder
    if interpreter.debian:
        mend = f"Install it: apt-get install libpython{interpreter.version}"
    else:
        mend = "Use a Python that was built with --enable-shared, or install your system's package of that library"
    raise ServerError(f"{interpreter.library}, which Triton's Python stub needs, is missing", mend=mend)
