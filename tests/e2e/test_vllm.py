"""The real vLLM behind the real Triton, with a small model of random weights: where there is an environment with it.

CONCH_ENGINE_PYTHON must name a Python that has vLLM (docs/runtimes.md). Loading takes about half a minute.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server_processes import ROOT, Server, build_repository, running_server
from triton_calls import Reply, ask

from conch.contract import ENSEMBLE, TOKENIZER
from conch.engines.interpreter import VARIABLE, package_version_in
from conch.spec_vllm import VERSION

PYTHON = Path(os.environ.get(VARIABLE) or sys.executable)
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(package_version_in(PYTHON, "vllm") != VERSION, reason=f"{VARIABLE} names no vLLM {VERSION}"),
]
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 128, "intermediate_size": 256,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64, "num_hidden_layers": 2, "vocab_size": 49152,
    "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "dtype": "float32",
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "hidden_act": "silu",
}  # fmt: skip
SPEC = """
name: random-vllm
source: {{uri: {model}}}
engine:
  runtime: vllm
  max_seq_len: 1024
  max_batch_size: 8
  max_num_tokens: 256
  step_timeout_s: 30
  vllm: {{kv_cache_memory_bytes: 67108864, enforce_eager: true, dtype: float32, load_format: dummy}}
"""
FREE: dict[str, Any] = {"text_input": "The capital of France is", "end_id": -1}
ADAPTER = np.array([[1]], np.uint64)
HOT: dict[str, Any] = {**FREE, "temperature": 1.0}
RECOVERY_S = 180


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("vllm")
    model = folder / "model"
    model.mkdir()
    other = build_repository("smollm2-135m") / TOKENIZER.name
    shutil.copyfile(max(other.glob("[0-9]*")) / "tokenizer.json", model / "tokenizer.json")
    (model / "config.json").write_text(json.dumps(CONFIG))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))  # not read
    (folder / "spec.yaml").write_text(SPEC.format(model=model))
    command = [sys.executable, str(ROOT / "build_scripts/build.py"), f"--spec={folder / 'spec.yaml'}",
               f"--repository={folder / 'repository'}", f"--cache={folder / 'cache'}"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    with running_server(folder / "repository", folder / "run") as server:
        yield server


def tell(server: Server, **fields: Any) -> Reply:
    reply = ask(server, ENSEMBLE.name, fields)
    assert reply.status == "OK"
    return reply


def good(server: Server, **fields: Any) -> Reply:
    reply = tell(server, **fields)
    assert not reply.error
    return reply


def test_streams_and_wholes_are_equal(vllm: Server) -> None:
    whole = good(vllm, **FREE, max_tokens=24)
    stream = good(vllm, **FREE, max_tokens=24, stream=True)
    assert (len(whole.responses), len(stream.responses) > 1) == (1, True)
    assert stream.text == whole.text
    assert (stream.finish_reason, whole.finish_reason) == ("length", "length")


def test_seeds_and_answers(vllm: Server) -> None:
    one, same, other = (good(vllm, **HOT, max_tokens=16, seed=seed).text for seed in (1, 1, 2))
    assert one == same != other
    reply = good(vllm, **HOT, max_tokens=6, seed=3, num_return_sequences=3, return_num_output_tokens=True)
    (response,) = reply.responses
    assert len(set(response["text_output"].reshape(-1).tolist())) == 3
    assert response["num_output_tokens"].reshape(-1).tolist() == [6, 6, 6]


def test_ends(vllm: Server) -> None:
    plain = good(vllm, **FREE, max_tokens=24, return_token_ids=True)
    ids = plain.responses[0]["token_ids"].reshape(-1).tolist()
    ended = good(vllm, **{**FREE, "end_id": ids[5]}, max_tokens=24, return_num_output_tokens=True)
    assert (ended.finish_reason, ended.total("num_output_tokens")) == ("stop", ids.index(ids[5]) + 1)
    word = next(piece for piece in plain.text.split() if len(piece) > 2)
    stopped = good(vllm, **FREE, max_tokens=24, stop_words=[word])
    assert (stopped.finish_reason, stopped.text) == ("stop", plain.text[: plain.text.index(word)])
    kept = good(vllm, **FREE, max_tokens=24, bad_words=[word])
    assert word not in kept.text


def test_guides_and_log_probs(vllm: Server) -> None:
    fields = {**HOT, "guided_decoding_guide_type": "regex", "guided_decoding_guide": "[0-9]{3}-[a-z]{4}"}
    fields.pop("end_id")
    for seed in range(3):
        reply = good(vllm, **fields, max_tokens=40, seed=seed)
        assert re.fullmatch("[0-9]{3}-[a-z]{4}", reply.text)
        assert reply.finish_reason == "stop"
    error = tell(vllm, **{**fields, "guided_decoding_guide": "[0-9"}, max_tokens=40).error
    assert "guided_decoding_guide cannot be compiled as regex: Regex parsing error" in error
    (response,) = good(vllm, **FREE, max_tokens=5, return_log_probs=True).responses
    found = response["output_log_probs"].reshape(-1).tolist()
    assert len(found) == 5
    assert all(value < 0 for value in found)
    assert response["cum_log_probs"].reshape(-1)[0] == pytest.approx(sum(found), rel=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beam_width": 2}, "beam_width is not supported by the runtime vllm: its engine has no beam search"),
        ({"temperature": 2.5}, "temperature must be in [0, 2], got 2.5"),
        ({"lora_task_id": ADAPTER}, "lora_task_id is not supported by this release: its spec names no adapters"),
        ({"return_generation_logits": True}, "return_generation_logits is not supported by the runtime vllm"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(vllm: Server, fields: dict[str, Any], message: str) -> None:
    assert message in tell(vllm, **FREE, **fields).error


def test_the_death_of_vllm_s_core(vllm: Server) -> None:
    """Last: it takes the time of another start."""
    found = subprocess.run(["pgrep", "-f", "VLLM::EngineCor"], capture_output=True, text=True, check=True).stdout
    (core,) = [int(pid) for pid in found.split() if is_below(int(pid), vllm.supervisor.pid)]
    os.kill(core, signal.SIGKILL)
    deadline = time.monotonic() + RECOVERY_S
    while (reply := ask(vllm, ENSEMBLE.name, {**FREE, "max_tokens": 4})).error or reply.status != "OK":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert reply.finish_reason == "length"


def is_below(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    return False
