"""The Python that an asynchronous engine runs in, and whether it has the engine's package.

vLLM and TensorRT-LLM bring numpy 2, torch and much else; Triton's stub dies of numpy 2. So the engine's worker, being a
process of its own, runs in another environment. CONCH_ENGINE_PYTHON names its Python; else it is the stub's.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from conch.errors import RepositoryError
from conch.spec import Runtime

VARIABLE = "CONCH_ENGINE_PYTHON"
NAME_A_PYTHON = f"Name the Python of an environment that has it with {VARIABLE} (docs/runtimes.md)"
PACKAGES = {Runtime.VLLM: "vllm", Runtime.LLMAPI: "tensorrt_llm"}  # runtimes in such an environment -> what it needs
# Conch goes behind the environment's own packages: its own environment's, older, must not shadow them.
_RUN = (
    "import runpy, sys; sys.path.append(sys.argv[1]); module = sys.argv[2]; sys.argv[1:3] = [];"
    "runpy.run_module(module, run_name='__main__', alter_sys=True)"
)
_VERSION_OF = """
import importlib.metadata, importlib.util, pathlib, re, sys
spec = importlib.util.find_spec(sys.argv[1])
if spec is not None and spec.origin is not None:
    for name in ("_version.py", "version.py"):
        path = pathlib.Path(spec.origin).with_name(name)
        found = re.search(r"^__version__ = .*?['\\"]([^'\\"]+)['\\"]", path.read_text() if path.exists() else "", re.M)
        if found:
            print(found[1])
            break
    else:
        print(importlib.metadata.version(sys.argv[1]))
"""
_LOOK_TIMEOUT_S = 60
_CONCH_AT = Path(__file__).resolve().parents[2]


def engine_command(runtime: Runtime, module: str, arguments: Sequence[str]) -> list[str]:
    """How a module of Conch is run in the Python of a runtime.

    Args:
        runtime: of the spec.
        module: its name.
        arguments: of the module.
    """
    python = os.environ.get(VARIABLE) if runtime in PACKAGES else None
    if not python:
        return [sys.executable, "-m", module, *arguments]
    return [python, "-c", _RUN, str(_CONCH_AT), module, *arguments]


def package_version_in(python: Path, package: str) -> str | None:
    """Version of a package in an environment, by its own word; nothing of it is imported, which would take seconds.

    Args:
        python: of the environment.
        package: name to import it by; it may have been installed under another one.

    Returns:
        the version; None: it is not there, or does not say.

    Raises:
        OSError: the Python cannot be run.
    """
    command = [str(python), "-c", _VERSION_OF, package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LOOK_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.strip() or None


def require_package(package: str, version: str) -> None:
    """Check that this Python has a package in a version; imports it.

    Args:
        package: vllm or tensorrt_llm.
        version: that is needed. A build number behind a plus sign is not looked at.

    Raises:
        RepositoryError: it is missing, cannot be imported, or is another version.
    """
    try:
        found = str(importlib.import_module(package).__version__)
    except ModuleNotFoundError as error:
        what = "is not installed" if error.name == package else f"lacks {error.name}"
        message = f"{package} {version} is needed, and it {what} in {sys.executable}"
        raise RepositoryError(message, mend=NAME_A_PYTHON) from None
    except Exception as error:  # a driver or a library of it is missing
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise RepositoryError(f"{package} cannot be imported in {sys.executable}: {said}", mend=NAME_A_PYTHON) from None
    if found.split("+", 1)[0] != version:
        raise RepositoryError(f"{package} {version} is needed, and {sys.executable} has {found}", mend=NAME_A_PYTHON)
