"""A Hugging Face checkpoint, exported for real and asked a question. Wants the export environment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conch_client import Client
from server_processes import running_server
from small_index import ROOT

from conch.build.compile import DEFAULT_EXPORT_PYTHON, EXPORT_PYTHON_VARIABLE
from conch.build.gguf import read_gguf
from conch.build.gguf_tokenizer import convert_gguf_tokenizer
from conch.build.pipeline import BuildOptions, build_release
from conch.build.progress import Progress
from conch.engines.openvino import create_pipeline
from conch.repository.artifacts import ENGINE_DIR
from conch.spec import parse_spec
from conch.text.chat_template import ChatTemplate, Message
from conch.text.files import CHAT_TEMPLATE_FILE, TOKENIZER_FILE, TokenizerMeta

EXPORT_PYTHON = Path(os.environ.get(EXPORT_PYTHON_VARIABLE) or ROOT / DEFAULT_EXPORT_PYTHON)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not EXPORT_PYTHON.is_file(), reason=f"{EXPORT_PYTHON} is missing; make setup-export makes it"),
]

SAVE = """
import sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM
gguf, folder = map(Path, sys.argv[1:])
model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float16)
model.save_pretrained(folder)
"""


@pytest.fixture(scope="module")
def checkpoint(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model as a Hugging Face folder. Its tokenizer is ours: transformers' adds BOS to every text."""
    folder = tmp_path_factory.mktemp("checkpoint")
    subprocess.run([EXPORT_PYTHON, "-c", SAVE, smollm2_gguf, folder], check=True, capture_output=True)
    converted = convert_gguf_tokenizer(read_gguf(smollm2_gguf))
    (folder / TOKENIZER_FILE).write_text(converted.tokenizer.to_str())
    (folder / CHAT_TEMPLATE_FILE).write_text(converted.chat_template or "")
    return folder


def answer(engine_dir: Path, spec: Any, prompt_ids: list[int], eos_id: int) -> list[int]:
    import openvino
    import openvino_genai

    pipeline = create_pipeline(engine_dir, spec)
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.eos_token_id, config.stop_token_ids = 16, eos_id, {eos_id}
    handle = pipeline.add_request(0, openvino.Tensor(np.asarray([prompt_ids], dtype=np.int64)), config)
    while pipeline.has_non_finished_requests():
        pipeline.step()
    ids: list[int] = handle.read_all()[0].generated_ids
    return ids


@pytest.mark.parametrize("weights", ["as_is", "int8", "int4"])
def test_exported_model_answers(checkpoint: Path, tmp_path: Path, weights: str) -> None:
    from tokenizers import Tokenizer

    spec = parse_spec(f"name: exported\nsource: {{uri: {checkpoint}}}\nengine: {{weights: {weights}}}\n", "test")
    options = BuildOptions(tmp_path / "repository", tmp_path / "cache", export_python=EXPORT_PYTHON)
    release = build_release(spec, options, Progress())
    assert release.created
    assert not build_release(spec, options, Progress()).created

    folder = options.repository / "tokenizer" / "1"
    meta = TokenizerMeta.read(folder)
    template = ChatTemplate.load(folder, meta)
    assert template is not None
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    prompt = template.render([Message("user", "What is the capital of France?")])
    ids = tokenizer.encode(prompt, add_special_tokens=False).ids
    engine_dir = options.repository / "llama_engine" / "1" / ENGINE_DIR
    assert "Paris" in tokenizer.decode(answer(engine_dir, spec.engine, ids, meta.eos_token_ids[0]))
    size_mb = (engine_dir / "openvino_model.bin").stat().st_size / 1e6
    low, high = {"as_is": (260, 280), "int8": (130, 140), "int4": (80, 95)}[weights]
    assert low < size_mb < high


@pytest.mark.e2e
def test_an_exported_model_is_served(checkpoint: Path, tmp_path: Path) -> None:
    """Triton loads it with a tokenizer for guides, which the pipeline of the tests above goes without."""
    spec = parse_spec(f"name: exported\nsource: {{uri: {checkpoint}}}\nengine: {{weights: int8}}\n", "test")
    options = BuildOptions(tmp_path / "repository", tmp_path / "cache", export_python=EXPORT_PYTHON)
    build_release(spec, options, Progress())
    question = [{"role": "user", "content": "What is the capital of France?"}]
    served = running_server(options.repository, tmp_path / "run")
    with served as server, Client(f"{server.host}:{server.grpc_port}") as client:
        assert "Paris" in client.generate(messages=question, max_tokens=16).text
        guided = {"guided_decoding_guide_type": "regex", "guided_decoding_guide": "(red|green|blue)"}
        assert client.generate("A colour:", max_tokens=16, **guided).text in {"red", "green", "blue"}
