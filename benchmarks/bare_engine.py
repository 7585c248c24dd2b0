"""The engine alone: OpenVINO GenAI driven directly, in a process of its own, with the settings of the served release.

Speaks JSON lines on standard input and output: ``{"prompts": [[ids]], "concurrency": n, "max_tokens": n}`` in,
``{"wall_s", "tokens", "ttft_ms": [...], "answers": [[ids]]}`` out.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

from conch.engines.openvino import create_pipeline
from conch.repository.artifacts import ENGINE_DIR
from conch.repository.settings import ReleaseSettings


class BareEngine:
    """Closed loop over a ContinuousBatchingPipeline: the least that any server must do.

    Args:
        version_folder: llama_engine/<version> of the repository.
    """

    def __init__(self, version_folder: Path) -> None:
        spec = ReleaseSettings.read(version_folder).spec.engine
        self._pipeline = create_pipeline(version_folder / ENGINE_DIR, spec)
        self._next_id = 0

    def run(self, prompts: list[list[int]], concurrency: int, max_tokens: int) -> dict[str, Any]:
        """Answer all prompts greedily, at most ``concurrency`` at a time, each with exactly ``max_tokens``."""
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = max_tokens
        config.ignore_eos = True
        none = openvino_genai.GenerationFinishReason.NONE
        pipeline = self._pipeline
        answers: list[list[int]] = [[] for _ in prompts]
        ttft_ms = [0.0] * len(prompts)
        waiting = list(range(len(prompts)))[::-1]
        live: dict[int, tuple[Any, float]] = {}
        start = time.perf_counter()
        while live or waiting:
            while waiting and len(live) < concurrency:
                index = waiting.pop()
                ids = openvino.Tensor(np.asarray([prompts[index]], dtype=np.int64))
                self._next_id += 1
                live[index] = (pipeline.add_request(self._next_id, ids, config), time.perf_counter())
            pipeline.step()
            for index, (handle, sent) in list(live.items()):
                if not handle.can_read():
                    continue
                output = next(iter(handle.read().values()))
                if not answers[index]:
                    ttft_ms[index] = (time.perf_counter() - sent) * 1e3
                answers[index] += output.generated_ids
                if output.finish_reason != none:
                    del live[index]
        wall_s = time.perf_counter() - start
        return {"wall_s": wall_s, "tokens": sum(map(len, answers)), "ttft_ms": ttft_ms, "answers": answers}


def main() -> None:
    """Serve requests from standard input until it ends."""
    engine = BareEngine(Path(sys.argv[1]))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(engine.run(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
