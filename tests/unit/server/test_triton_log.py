"""Excerpts of real logs of tritonserver 2.51."""

import pytest

from conch.server.triton_log import failure_reason, loading

LOADING = """\
I1123 20:33:54.269681 12784 model_lifecycle.cc:472] "loading: detokenizer:1"
I1123 20:33:54.269752 12784 model_lifecycle.cc:472] "loading: llama_engine:2"
I1123 20:33:54.270367 12784 model_lifecycle.cc:472] "loading: tokenizer:1"
I1123 20:33:54.521889 12784 model_lifecycle.cc:839] "successfully loaded 'detokenizer'"
"""

IMPORT_ERROR = r"""
E1123 20:37:27.265893 15539 model_lifecycle.cc:642] "failed to load 'tokenizer' version 1: Internal: ModuleNotFoundError: No module named 'nothere'\n\nAt:\n  model.py(1): <module>\n"
E1123 20:37:32.646136 15539 model_repository_manager.cc:703] "Invalid argument: ensemble 'ensemble' depends on 'tokenizer' which has no loaded version. Model 'tokenizer' loading failed with error: version 1 is at UNAVAILABLE state"
error: creating server: Invalid argument - load failed for model 'ensemble': ensemble 'ensemble' depends on 'tokenizer'
"""  # noqa: E501

NONSENSE = """\
[libprotobuf ERROR text_format.cc:337] Error parsing text-format inference.ModelConfig: 1:10: no field named "nonsense".
E1123 20:37:18.092105 15318 model_repository_manager.cc:1460] "Poll failed for model directory 'tokenizer': failed to read text proto from repo/tokenizer/config.pbtxt"
E1123 20:37:18.092164 15318 model_repository_manager.cc:703] "Invalid argument: ensemble ensemble contains models that are not available or ambiguous: tokenizer"
error: creating server: Invalid argument - load failed for model 'ensemble': ensemble contains models that are not available
"""  # noqa: E501

PORT = """\
E1123 20:34:41.674679425   13609 chttp2_server.cc:1060]  UNKNOWN:No address added out of total 1 resolved
E1123 20:34:41.678228 13609 main.cc:245] "failed to start GRPC service: Unavailable - Socket '127.0.0.1:18101' already in use "
"""  # noqa: E501

LIBRARY = "tritonserver: error while loading shared libraries: libb64-98cb6333.so.0d: cannot open shared object file\n"


def test_what_is_being_loaded() -> None:
    assert loading(LOADING) == ["llama_engine", "tokenizer"]
    assert loading("") == []


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (IMPORT_ERROR, "model tokenizer version 1 failed to load: ModuleNotFoundError: No module named 'nothere'"),
        (
            NONSENSE,
            "model tokenizer: failed to read text proto from repo/tokenizer/config.pbtxt "
            '(1:10: no field named "nonsense".)',
        ),
        (PORT, "GRPC could not be served: Socket '127.0.0.1:18101' already in use"),
        (LIBRARY, "a shared library is missing: libb64-98cb6333.so.0d: cannot open shared object file"),
        ("error: creating server: Internal - failed to load all models\n", "failed to load all models"),
        (
            "tritonserver: unrecognized option '--nonsense'\nUsage:\n",
            "tritonserver refused its flags: unrecognized option '--nonsense'",
        ),
        (LOADING, ""),
        ("", ""),
    ],
)
def test_the_reason_of_a_failure_in_one_line(log: str, reason: str) -> None:
    assert failure_reason(log) == reason


@pytest.mark.parametrize(
    "line",
    [
        '2026-11-24T00:41:08.100Z llama_engine INFO request id="{evil}" model=small finish=stop',
        '{{"time": "2026-11-24T00:41:08.100Z", "event": "request", "id": "{evil}", "finish": "stop"}}',
    ],
)
@pytest.mark.parametrize(
    "evil", ["failed to load 'tokenizer' version 1: forged", "failed to start GRPC service: X - forged", "loading: a:1"]
)
def test_a_request_cannot_speak_for_triton(line: str, evil: str) -> None:
    log = line.format(evil=evil) + "\n"
    assert failure_reason(log) == ""
    assert loading(log) == []
    real = "E failed to load 'llama_engine' version 2: Internal: no memory"
    assert failure_reason(log + real) == "model llama_engine version 2 failed to load: no memory"
