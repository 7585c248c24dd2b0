"""Many requests in one batch: each gets its own answer, and the same as alone where that is promised."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from repeated_words import WORDS, prompt_of, strangers
from server_processes import ROOT, Server
from triton_calls import Reply, infer, version_folder

from benchmarks.workload import PromptMaker
from conch.contract import ENSEMBLE

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STREAMS = 64
ALONE = 16  # of them are also asked one at a time, where it is for a share and not for all
PROMPT_TOKENS, ANSWER_TOKENS = 24, 10  # the prompt is shorter than a block of the KV cache: nothing of it is cached
BARE_TIMEOUT_S = 240


def at_once(ask: Callable[[int], Reply], count: int = STREAMS) -> list[Reply]:
    """Answers to requests that are sent at the same moment."""
    barrier = threading.Barrier(count)

    def one(number: int) -> Reply:
        barrier.wait()
        return ask(number)

    with ThreadPoolExecutor(count) as pool:
        replies = list(pool.map(one, range(count)))
    assert not [reply.error for reply in replies if reply.error]
    return replies


def by_ids(stub: Any, ids: list[int]) -> Reply:
    """A greedy stream of the engine itself."""
    fields = {"input_ids": np.array([ids], np.int32), "input_lengths": len(ids), "streaming": True}
    return infer(stub, "llama_engine", {**fields, "request_output_len": ANSWER_TOKENS, "end_id": -1})


@contextmanager
def bare_engine(folder: Path) -> Iterator[Callable[[list[list[int]], int], list[list[int]]]]:
    """The engine without a server, in a child: (prompts, concurrency) -> answers, as token ids."""
    command = [sys.executable, "-m", "benchmarks.bare_engine", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        alarm = threading.Timer(BARE_TIMEOUT_S, child.kill)
        alarm.start()
        assert child.stdin is not None
        assert child.stdout is not None

        def run(prompts: list[list[int]], concurrency: int) -> list[list[int]]:
            asked = {"prompts": prompts, "concurrency": concurrency, "max_tokens": ANSWER_TOKENS}
            child.stdin.write(json.dumps(asked) + "\n")
            child.stdin.flush()
            answers: list[list[int]] = json.loads(child.stdout.readline())["answers"]
            return answers

        try:
            assert json.loads(child.stdout.readline()) == {"ready": True}
            yield run
        finally:
            alarm.cancel()
            child.kill()


def prompts_of(server: Server) -> list[list[int]]:
    maker = PromptMaker(version_folder(server, "tokenizer"))
    return [prompt.ids for prompt in maker.make(STREAMS, PROMPT_TOKENS, seed=11)]


def share(answers: list[list[int]], alone: list[list[int]]) -> str:
    equal = sum(one == other for one, other in zip(answers, alone, strict=False))  # fewer were asked alone
    return f"{equal}/{len(alone)}"


def test_64_streams_are_each_as_alone_in_deterministic_mode(deterministic: Server, deterministic_stub: Any) -> None:
    prompts = prompts_of(deterministic)
    together = [reply.ids for reply in at_once(lambda n: by_ids(deterministic_stub, prompts[n]))]
    alone = [by_ids(deterministic_stub, ids).ids for ids in prompts]
    assert {len(ids) for ids in alone} == {ANSWER_TOKENS}
    assert len({tuple(ids) for ids in alone}) > STREAMS // 2, "answers that are all alike would prove nothing"
    assert together == alone


def test_tokens_are_never_mixed_between_requests(stub: Any) -> None:
    """Streams of different length come and go, and every one says its own word from its first token to its last."""

    def ask(number: int) -> Reply:
        fields = {"text_input": prompt_of(WORDS[number]), "max_tokens": 8 + number % 29, "end_id": -1, "stream": True}
        return infer(stub, ENSEMBLE.name, {**fields, "return_num_output_tokens": True})

    replies = at_once(ask)
    assert {w: r.text for w, r in zip(WORDS, replies, strict=True) if strangers(w, r.text)} == {}
    for number, (word, reply) in enumerate(zip(WORDS, replies, strict=True)):
        assert reply.total("num_output_tokens") == 8 + number % 29
        assert reply.text.strip().startswith(word)


def test_the_fast_default_beside_the_bare_engine(server: Server, stub: Any, record_property, capsys) -> None:
    """Alone, the served answers are the bare engine's. Together, in either, some differ: that share is shown.

    How many differ depends on which requests met in which step, so that no number is right or wrong.
    """
    prompts = prompts_of(server)
    served_alone = [by_ids(stub, ids).ids for ids in prompts[:ALONE]]
    served_together = [reply.ids for reply in at_once(lambda n: by_ids(stub, prompts[n]))]
    with bare_engine(version_folder(server, "llama_engine")) as bare:
        bare_alone, bare_together = bare(prompts[:ALONE], 1), bare(prompts, STREAMS)
    shares = {"served": share(served_together, served_alone), "bare": share(bare_together, bare_alone)}
    with capsys.disabled():
        print(f"\nfast default, {STREAMS} together as alone: served {shares['served']}, bare engine {shares['bare']}")
    for name, value in shares.items():
        record_property(f"{name}_together_as_alone", value)
    assert served_alone == bare_alone
    assert {len(ids) for ids in served_together} == {ANSWER_TOKENS}
