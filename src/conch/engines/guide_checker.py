"""The process that tries guides out, so that no guide hurts the engine: started by conch.engines.guides.

A guide that cannot be compiled breaks a pipeline that computes other requests, and some bring a process down: the
compiler recurses with every bracket, and a short text may ask for hours or gigabytes. Here it costs this process alone.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from conch.engines.guide_compiler import GuideCompiler, plain_reason
from conch.engines.guide_model import GuideVocabulary
from conch.engines.messages import Started
from conch.errors import ConchError, RepositoryError
from conch.sampling import Guide

CPU_LIMIT_S = 10
MEMORY_LIMIT_BYTES = 512 << 20
_STACK_BYTES = 2 << 20  # a quarter of what the engine has: what fits here fits there
_TRIED_TOKENS = 8
_MEMORY_BEFORE_RESTART_BYTES = 1 << 30  # compiled guides are kept by the compiler for ever


class Compiler(Protocol):
    """Compiles guides for a vocabulary."""

    def compile(self, guide: Guide, max_tokens: int = 1) -> list[int]:
        """As of conch.engines.guide_compiler.GuideCompiler."""


MakeCompiler = Callable[[GuideVocabulary], Compiler]


def openvino_compiler(vocabulary: GuideVocabulary) -> Compiler:
    """The compiler that OpenVINO GenAI has."""
    return GuideCompiler(vocabulary, vocabulary.open_tokenizer())


class Checker:
    """Answers guides with what is wrong with them.

    Args:
        vocabulary: of the model, without a sentinel.
        make_compiler: makes the compiler for it, with one.
    """

    def __init__(self, vocabulary: GuideVocabulary, make_compiler: MakeCompiler) -> None:
        self._compiler = make_compiler(vocabulary.with_sentinel())

    def check(self, guide: Guide) -> str:
        """What is wrong with a guide; empty if nothing. It may also end this process."""
        reasons: list[str] = []
        limit_resources()
        thread = threading.Thread(target=lambda: reasons.append(self._reason(guide)))
        thread.start()
        thread.join()
        return reasons[0]

    def _reason(self, guide: Guide) -> str:
        try:
            ids = self._compiler.compile(guide, _TRIED_TOKENS)
        except MemoryError:
            return f"it takes more than {MEMORY_LIMIT_BYTES >> 20} MiB of memory"
        except Exception as error:
            return plain_reason(error)
        if 0 in ids:
            return "it has a place where nothing may follow" if ids[0] else "it allows no answer at all"
        return ""


def limit_resources() -> None:
    """Let this process use so much more processor time and memory than up to now."""
    used_s = int(time.process_time()) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (used_s + CPU_LIMIT_S, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + MEMORY_LIMIT_BYTES, resource.RLIM_INFINITY))


def data_bytes() -> int:
    """Private memory of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) << 10
    return 0


def main(make_compiler: MakeCompiler = openvino_compiler) -> None:
    """Arguments: file descriptor of the socket, engine folder. Takes Guide, gives str, or Started at first."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s guide-checker %(levelname)s %(message)s")
    connection = Connection(int(sys.argv[1]))
    os.nice(5)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it is meant to die
    try:
        vocabulary = GuideVocabulary.of_release(Path(sys.argv[2]))
        if vocabulary is None:
            raise RepositoryError(f"{sys.argv[2]} is not part of a release")
        checker = Checker(vocabulary, make_compiler)
    except ConchError as error:
        connection.send(Started(error))
        return
    connection.send(Started(None))
    with Path(os.devnull).open("w") as nowhere:  # xgrammar warns of guides, which is the client's business
        os.dup2(nowhere.fileno(), sys.stderr.fileno())
    threading.stack_size(_STACK_BYTES)
    start_bytes = data_bytes()
    try:
        while data_bytes() < start_bytes + _MEMORY_BEFORE_RESTART_BYTES:
            connection.send(checker.check(connection.recv()))
    except (EOFError, ConnectionError):
        return


if __name__ == "__main__":
    main()
