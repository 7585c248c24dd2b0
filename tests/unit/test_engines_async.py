"""vLLM and TensorRT-LLM's LLM API behind the worker: one contract, two engines that are not there (tests/fakes)."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import tensorrt_llm
import vllm
from engine_side import LIMITS
from tensorrt_llm.llmapi import LLM, RequestError, RequestOutput
from vllm.outputs import CompletionOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import Asked, AsyncLLM, completion, count_up

from conch.engines import vllm_core
from conch.engines.async_worker import core_opener, work
from conch.engines.base import EngineState, Failure, GenerationRequest, Tokens
from conch.engines.messages import Cancel, Command, Message, Started, Step
from conch.engines.worker import EXIT_BROKEN
from conch.errors import ConchError, InternalError, InvalidArgumentError, RepositoryError, UnsupportedError
from conch.sampling import resolve
from conch.spec import Engine as EngineSpec
from conch.spec import Runtime

RUNTIMES = (Runtime.VLLM, Runtime.LLMAPI)
TIMEOUT_S = 20


def request(request_id: int, runtime: Runtime, ids: tuple[int, ...] = (5, 6), **controls: Any) -> GenerationRequest:
    limits = replace(LIMITS, runtime=runtime, eos_token_ids=(2,))
    return GenerationRequest(request_id, ids, resolve(controls, len(ids), limits))


class Wire:
    """The parent's end of a worker that runs on the test's own loop."""

    def __init__(self, spec: EngineSpec, folder: Path) -> None:
        ours, theirs = socket.socketpair()
        self._connection, connection = Connection(ours.detach()), Connection(theirs.detach())
        self.worker = asyncio.ensure_future(work(connection, core_opener(folder, spec)))
        self._theirs = connection
        self.states: list[EngineState] = []

    def send(self, command: Command) -> None:
        self._connection.send(command)

    async def receive(self) -> Message:
        def read() -> Message:
            if not self._connection.poll(TIMEOUT_S):
                raise TimeoutError("the worker says nothing")
            message: Message = self._connection.recv()
            return message

        return await asyncio.to_thread(read)

    async def started(self) -> ConchError | None:
        message = await self.receive()
        assert isinstance(message, Started)
        return message.error

    async def until(self, done: Callable[[list[Tokens | Failure]], bool]) -> list[Tokens | Failure]:
        """Events until a condition holds."""
        events: list[Tokens | Failure] = []
        while not done(events):
            message = await self.receive()
            assert isinstance(message, Step)
            events += message.events
            if message.state is not None:
                self.states.append(message.state)
        return events

    async def answer(self, asked: GenerationRequest) -> list[Tokens | Failure]:
        """All that comes of one request."""
        self.send(asked)
        ends = asked.params.num_sequences
        return await self.until(
            lambda events: sum(isinstance(e, Failure) or e.finish_reason is not None for e in events) >= ends
            or any(isinstance(e, Failure) for e in events)
        )

    async def close(self) -> int:
        self._connection.close()
        code = await asyncio.wait_for(self.worker, TIMEOUT_S)
        self._theirs.close()
        return code


@pytest.fixture(params=RUNTIMES, ids=lambda runtime: runtime.value)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    kind: Runtime = request.param
    return kind


@pytest.fixture(autouse=True)
def _fresh_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AsyncLLM, "made", [])
    monkeypatch.setattr(AsyncLLM, "script", staticmethod(count_up))
    monkeypatch.setattr(LLM, "made", [])
    monkeypatch.setattr(LLM, "prepare", staticmethod(lambda result: None))


def engine_spec(runtime: Runtime, **section: Any) -> EngineSpec:
    name = "vllm" if runtime is Runtime.VLLM else "llmapi"
    return EngineSpec.model_validate({"runtime": runtime.value, "max_seq_len": 512, name: section})


@pytest.fixture
async def wire(runtime: Runtime, tmp_path: Path) -> AsyncIterator[Wire]:
    found = Wire(engine_spec(runtime), tmp_path)
    assert await found.started() is None
    yield found
    assert await found.close() == 0
    made: list[Any] = [*AsyncLLM.made, *LLM.made]
    assert [engine.closed for engine in made] == [True]


def asked_of(runtime: Runtime) -> Any:
    """Controls of the last request, as the engine got them."""
    return AsyncLLM.made[0].asked[-1].params if runtime is Runtime.VLLM else LLM.made[0].asked[-1].params


def pieces(events: list[Tokens | Failure]) -> list[list[int]]:
    return [e.ids for e in events if isinstance(e, Tokens)]


async def test_one_answer_comes_in_pieces(wire: Wire, runtime: Runtime) -> None:
    events = await wire.answer(request(1, runtime, max_tokens=3))
    assert pieces(events) == [[100], [101], [102]]
    assert [e.finish_reason for e in events if isinstance(e, Tokens)] == [None, None, "length"]
    assert all(e.request_id == 1 and e.sequence == 0 for e in events if isinstance(e, Tokens))


async def test_several_answers_come_whole_and_in_one_message(wire: Wire, runtime: Runtime) -> None:
    wire.send(request(1, runtime, max_tokens=4, num_return_sequences=3, temperature=1.0))
    while not (message := await wire.receive()).events:  # type: ignore[union-attr]
        pass
    assert isinstance(message, Step)
    found = [(e.sequence, e.ids, e.finish_reason) for e in message.events if isinstance(e, Tokens)]
    assert found == [(n, [100, 101, 102, 103], "length") for n in range(3)]


async def test_an_end_id_ends_an_answer_and_is_part_of_it(wire: Wire, runtime: Runtime) -> None:
    events = await wire.answer(request(1, runtime, max_tokens=9, end_id=102))
    assert (pieces(events)[-1], events[-1].finish_reason) == ([102], "stop")  # type: ignore[union-attr]
    events = await wire.answer(request(2, runtime, max_tokens=6, end_id=102, min_tokens=5))
    assert sum(map(len, pieces(events))) == 6
    events = await wire.answer(request(3, runtime, max_tokens=6, end_id=-1, min_tokens=4))
    assert sum(map(len, pieces(events))) == 6


async def test_log_probs_of_the_chosen_tokens(wire: Wire, runtime: Runtime) -> None:
    events = await wire.answer(request(1, runtime, max_tokens=2, return_log_probs=True))
    assert [e.log_probs for e in events if isinstance(e, Tokens)] == [[-1.0], [-1.01]]
    controls = {"num_return_sequences": 2, "temperature": 0.5, "return_log_probs": True}
    events = await wire.answer(request(2, runtime, max_tokens=2, **controls))
    assert [e.log_probs for e in events if isinstance(e, Tokens)] == [[-1.0, -1.01]] * 2
    events = await wire.answer(request(3, runtime, max_tokens=1))
    assert [e.log_probs for e in events if isinstance(e, Tokens)] == [[]]


async def test_the_state_is_told_while_it_works_and_when_it_is_done(wire: Wire, runtime: Runtime) -> None:
    await wire.answer(request(1, runtime, max_tokens=2))
    await wire.until(lambda _: bool(wire.states) and wire.states[-1].kv_cache_usage == 0)
    if runtime is Runtime.VLLM:
        assert wire.states[-1] == EngineState(0.0, 4, 2), "two steps, each looked two tokens up and found one"


@pytest.mark.parametrize(
    ("controls", "vllm_says", "llmapi_says"),
    [
        ({}, {"temperature": 0.0, "seed": None}, {"top_k": 1, "seed": None}),
        ({"temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "seed": 3},
         {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "seed": 3},
         {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "seed": 3}),
        ({"top_p": 0.0}, {"temperature": 0.0, "top_p": 1.0}, {"top_k": 1, "top_p": None}),
        ({"seed": 2**64 - 1, "temperature": 1.0}, {"seed": 2**63 - 1}, {"seed": 2**63 - 1}),
        ({"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": -0.5},
         {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": -0.5},
         {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": -0.5}),
        ({"min_tokens": 3}, {"min_tokens": 3, "stop_token_ids": [2], "ignore_eos": True},
         {"min_tokens": 3, "end_id": 2, "stop_token_ids": None}),
        ({"end_id": -1, "min_tokens": 3}, {"min_tokens": 0, "stop_token_ids": []}, {"end_id": -1}),
        ({"stop_words": [b"x"]}, {"detokenize": False}, {"detokenize": False}),
        ({"max_tokens": 17}, {"max_tokens": 17}, {"max_tokens": 17}),
    ],
)  # fmt: skip
async def test_every_control_reaches_the_engine(
    wire: Wire, runtime: Runtime, controls: dict[str, Any], vllm_says: dict[str, Any], llmapi_says: dict[str, Any]
) -> None:
    await wire.answer(request(1, runtime, **controls))
    expected = vllm_says if runtime is Runtime.VLLM else llmapi_says
    got = asked_of(runtime)
    assert {name: getattr(got, name) for name in expected} == expected


async def test_requests_without_a_seed_draw_differently(wire: Wire, runtime: Runtime) -> None:
    for number in (1, 2):
        await wire.answer(request(number, runtime, temperature=1.0, max_tokens=1))
    if runtime is Runtime.LLMAPI:  # whose own default is one seed for all; vLLM's generator goes on
        assert len({result.params.seed for result in LLM.made[0].asked}) == 2
    else:
        assert [asked.params.seed for asked in AsyncLLM.made[0].asked] == [None, None]


@pytest.mark.parametrize(
    ("controls", "expected"),
    [
        ({"guided_decoding_guide_type": b"json"}, {"json": "{}"}),
        ({"guided_decoding_guide_type": b"regex", "guided_decoding_guide": b"[ab]+"}, {"regex": "[ab]+"}),
        ({"guided_decoding_guide_type": b"ebnf_grammar", "guided_decoding_guide": b'root ::= "a"'},
         {"grammar": 'root ::= "a"'}),
        ({"guided_decoding_guide_type": b"json_schema", "guided_decoding_guide": b'{"type": "string"}'},
         {"json": '{"type": "string"}'}),
        ({"guided_decoding_guide_type": b"json_schema",
          "guided_decoding_guide": b'{"type": "integer", "minimum": 1, "maximum": 3}'},
         {"json": '{"enum": [1, 2, 3]}'}),
    ],
)  # fmt: skip
async def test_guides(wire: Wire, runtime: Runtime, controls: dict[str, Any], expected: dict[str, str]) -> None:
    await wire.answer(request(1, runtime, **controls))
    got = asked_of(runtime)
    guide = got.structured_outputs if runtime is Runtime.VLLM else got.guided_decoding
    assert {name: value for name, value in vars(guide).items() if value} == expected
    ends = got.stop_token_ids if runtime is Runtime.VLLM else [got.end_id, *got.stop_token_ids]
    assert set(ends) == {2, 7}, "the tokenizer's own end, too: no guide lets another through"


async def test_bad_words_are_a_grammar(wire: Wire, runtime: Runtime) -> None:
    await wire.answer(request(1, runtime, bad_words=[b"no"]))
    got = asked_of(runtime)
    guide = got.structured_outputs if runtime is Runtime.VLLM else got.guided_decoding
    assert guide.grammar.startswith("root ::= s0\n")


async def test_a_request_that_is_given_up_is_aborted(
    wire: Wire, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(asked: Asked) -> AsyncGenerator[list[CompletionOutput], None]:
        yield [completion(0, [100], None, None)]
        await asked.go_on.wait()
        yield [completion(0, [101], "length", None)]

    def pause(result: RequestOutput) -> None:
        result.go_on.clear()

    monkeypatch.setattr(AsyncLLM, "script", staticmethod(hang))
    monkeypatch.setattr(LLM, "prepare", staticmethod(pause))
    wire.send(request(1, runtime))
    await wire.until(lambda _: bool([*AsyncLLM.made, *LLM.made][0].asked))
    wire.send(Cancel(1))
    while not [*AsyncLLM.made, *LLM.made][0].asked[0].aborted:
        await asyncio.sleep(0.01)
    wire.send(Cancel(99))  # nobody's
    monkeypatch.setattr(AsyncLLM, "script", staticmethod(count_up))
    monkeypatch.setattr(LLM, "prepare", staticmethod(lambda result: None))
    events = await wire.answer(request(2, runtime, max_tokens=2))
    assert {e.request_id for e in events} == {2}, "nothing more of the first"


async def test_what_the_engine_refuses_names_its_reason(
    wire: Wire, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(asked: Asked) -> AsyncGenerator[list[CompletionOutput], None]:
        raise ValueError("the grammar is not one\nat line 3")
        yield []

    def refuse_too(result: RequestOutput) -> None:
        raise ValueError("the grammar is not one\nat line 3")

    monkeypatch.setattr(AsyncLLM, "script", staticmethod(refuse))
    monkeypatch.setattr(LLM, "prepare", staticmethod(refuse_too))
    (event,) = await wire.answer(request(1, runtime))
    assert isinstance(event, Failure)
    assert isinstance(event.error, InvalidArgumentError)
    assert str(event.error) == "refused by the engine: the grammar is not one"


async def test_a_failure_of_one_request_leaves_the_others_alone(
    wire: Wire, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(asked: Asked) -> AsyncGenerator[list[CompletionOutput], None]:
        if asked.request_id == "1":
            raise RuntimeError("secret path /etc/shadow")
        async for outputs in count_up(asked):
            yield outputs

    def fail_too(result: RequestOutput) -> None:
        if result.prompt_token_ids == [1]:
            result.error = RequestError("secret path /etc/shadow")

    monkeypatch.setattr(AsyncLLM, "script", staticmethod(fail))
    monkeypatch.setattr(LLM, "prepare", staticmethod(fail_too))
    (event,) = await wire.answer(request(1, runtime, ids=(1,)))
    assert isinstance(event, Failure)
    assert isinstance(event.error, InternalError)
    assert "secret" not in str(event.error)
    assert pieces(await wire.answer(request(2, runtime, max_tokens=1))) == [[100]]


async def test_an_answer_that_the_engine_gives_up_can_be_tried_again(
    wire: Wire, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def abort(asked: Asked) -> AsyncGenerator[list[CompletionOutput], None]:
        yield [completion(0, [100], "abort", None)]

    def time_out(result: RequestOutput) -> None:
        result.outputs[0].finish_reason = "timeout"

    monkeypatch.setattr(AsyncLLM, "script", staticmethod(abort))
    monkeypatch.setattr(LLM, "prepare", staticmethod(time_out))
    (event,) = await wire.answer(request(1, runtime))
    assert isinstance(event, Failure)
    assert event.error.retryable


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.value)
async def test_a_dead_engine_ends_the_worker(runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(result: RequestOutput) -> None:
        result.error = RuntimeError("the executor has ended")

    monkeypatch.setattr(LLM, "prepare", staticmethod(die))
    wire = Wire(engine_spec(runtime), tmp_path)
    assert await wire.started() is None
    if runtime is Runtime.VLLM:
        AsyncLLM.made[0].dead = True
    wire.send(request(1, runtime))
    assert await asyncio.wait_for(wire.worker, TIMEOUT_S) == EXIT_BROKEN
    await wire.close()


async def test_the_death_of_vllm_is_seen_when_nobody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_core, "_LOOK_S", 0.01)
    wire = Wire(engine_spec(Runtime.VLLM), tmp_path)
    assert await wire.started() is None
    AsyncLLM.made[0].dead = True
    assert await asyncio.wait_for(wire.worker, TIMEOUT_S) == EXIT_BROKEN
    await wire.close()


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.value)
async def test_another_version_is_refused(runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = vllm if runtime is Runtime.VLLM else tensorrt_llm
    monkeypatch.setattr(package, "__version__", "0.1.2+cu130")
    wire = Wire(engine_spec(runtime), tmp_path)
    error = await wire.started()
    assert isinstance(error, RepositoryError)
    needed = {Runtime.VLLM: "vllm 0.24.0", Runtime.LLMAPI: "tensorrt_llm 1.2.1"}[runtime]
    assert error.message.startswith(f"{needed} is needed, and ")
    assert error.message.endswith("has 0.1.2+cu130")
    assert "CONCH_ENGINE_PYTHON" in error.mend
    assert await wire.close() == 1


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda runtime: runtime.value)
async def test_an_engine_that_cannot_be_loaded(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("No CUDA GPUs are available\nmore")

    monkeypatch.setattr(AsyncLLM, "__init__", fail)
    monkeypatch.setattr(LLM, "__init__", fail)
    wire = Wire(engine_spec(runtime), tmp_path)
    error = await wire.started()
    assert isinstance(error, RepositoryError)
    assert error.message.endswith(f"cannot load {tmp_path}: No CUDA GPUs are available")
    assert await wire.close() == 1


async def test_adapters_of_vllm(tmp_path: Path) -> None:
    modules = [{"id": 4, "name": "sql", "path": "/adapters/sql"}]
    wire = Wire(engine_spec(Runtime.VLLM, enable_lora=True, lora_modules=modules), tmp_path)
    assert await wire.started() is None
    await wire.answer(request(1, Runtime.VLLM, lora_task_id=4))
    asked = AsyncLLM.made[0].asked[-1].lora_request
    assert asked is not None
    assert (asked.lora_name, asked.lora_int_id, asked.lora_path) == ("sql", 4, "/adapters/sql")
    (event,) = await wire.answer(request(2, Runtime.VLLM, lora_task_id=5))
    assert isinstance(event, Failure)
    assert str(event.error) == "lora_task_id must be one of the spec's (4), got 5"
    await wire.answer(request(3, Runtime.VLLM))
    assert AsyncLLM.made[0].asked[-1].lora_request is None
    await wire.close()


async def test_what_depends_on_the_spec(tmp_path: Path) -> None:
    wire = Wire(engine_spec(Runtime.VLLM), tmp_path)
    assert await wire.started() is None
    (event,) = await wire.answer(request(1, Runtime.VLLM, lora_task_id=5))
    assert isinstance(event, Failure)
    assert isinstance(event.error, UnsupportedError)
    await wire.answer(request(2, Runtime.VLLM, priority=-3))
    assert AsyncLLM.made[0].asked[-1].priority == -3
    await wire.close()
    wire = Wire(engine_spec(Runtime.LLMAPI, sampler_type="TorchSampler", guided_decoding_backend=None), tmp_path)
    assert await wire.started() is None
    refusals: list[dict[str, Any]] = [
        {"repetition_penalty": 1.1}, {"presence_penalty": 0.1}, {"frequency_penalty": 0.1}, {"bad_words": [b"a"]},
        {"guided_decoding_guide_type": b"json"},
    ]  # fmt: skip
    for number, controls in enumerate(refusals):
        (event,) = await wire.answer(request(10 + number, Runtime.LLMAPI, **controls))
        assert isinstance(event, Failure)
        assert isinstance(event.error, UnsupportedError)
        assert next(iter(controls)) in str(event.error)
    assert pieces(await wire.answer(request(3, Runtime.LLMAPI, max_tokens=1))) == [[100]]
    await wire.close()


def test_refusals_of_every_spec() -> None:
    for kind in RUNTIMES:
        for controls in ({"beam_width": 2}, {"return_context_logits": True}, {"return_generation_logits": True}):
            with pytest.raises(UnsupportedError, match=f"by the runtime {kind.value}: "):
                request(1, kind, **controls)
    with pytest.raises(UnsupportedError, match="lora_task_id is not supported by the runtime tensorrt_llm"):
        request(1, Runtime.LLMAPI, lora_task_id=1)
    with pytest.raises(InvalidArgumentError, match=r"^temperature must be in \[0, 2\], got 2\.5$"):
        request(1, Runtime.VLLM, temperature=2.5)
    assert request(1, Runtime.LLMAPI, temperature=2.5).params.temperature == 2.5


async def test_what_the_spec_says_reaches_the_engine(wire: Wire, runtime: Runtime, tmp_path: Path) -> None:
    if runtime is Runtime.VLLM:
        args = AsyncLLM.made[0].args
        assert (args.model, args.max_model_len, args.max_num_seqs, args.max_num_batched_tokens) == (
            str(tmp_path), 512, 256, 8192,
        )  # fmt: skip
        assert (args.enable_prefix_caching, args.generation_config, args.trust_remote_code) == (True, "vllm", False)
        assert args.structured_outputs_config == {"backend": "xgrammar"}
        return
    made = LLM.made[0].args
    assert (made["model"], made["max_seq_len"], made["max_batch_size"], made["max_num_tokens"]) == (
        str(tmp_path), 512, 256, 8192,
    )  # fmt: skip
    assert made["kv_cache_config"].enable_block_reuse
    assert made["scheduler_config"].capacity_scheduler_policy.value == "GUARANTEED_NO_EVICT"
    assert (made["backend"], made["max_beam_width"], made["sampler_type"]) == ("pytorch", 1, "TRTLLMSampler")


# --- against what vLLM declares -------------------------------------------------------------------------------------

RECORDED: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[1] / "reference" / "vllm_0_24.json").read_text(encoding="utf-8")
)


def test_vllm_declares_all_that_is_used() -> None:
    lora = {"enable_lora": True, "lora_modules": [{"id": 1, "name": "a", "path": "/a"}]}
    args = vllm_core.engine_args(Path("/model"), engine_spec(Runtime.VLLM, **lora))
    assert set(args) <= set(RECORDED["engine_args"])
    controls = vllm_core.sampling_params(request(1, Runtime.VLLM, temperature=1.0).params, 7)
    assert {*controls, "output_kind", "structured_outputs"} <= set(RECORDED["sampling_params"])
    assert {"lora_request", "priority", "prompt", "sampling_params", "request_id"} <= set(RECORDED["generate"])
    assert "stat_loggers" in RECORDED["from_engine_args"]
    assert {"generate", "shutdown", "errored", "get_tokenizer", "from_engine_args"} <= set(RECORDED["async_llm"])
    assert RECORDED["stat_logger_methods"] == ["__init__", "log_engine_initialized", "record"]
    assert RECORDED["version"] == vllm_core.VERSION


def test_the_fake_vllm_has_nothing_that_the_real_one_lacks() -> None:
    import dataclasses
    import inspect

    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.lora.request import LoRARequest
    from vllm.outputs import Logprob
    from vllm.sampling_params import StructuredOutputsParams
    from vllm.v1.metrics.loggers import StatLoggerBase
    from vllm.v1.metrics.stats import PrefixCacheStats, SchedulerStats

    for kind, recorded in (
        (AsyncEngineArgs, "engine_args"), (vllm.SamplingParams, "sampling_params"), (Logprob, "logprob"),
        (StructuredOutputsParams, "structured_outputs_params"), (CompletionOutput, "completion_output"),
        (LoRARequest, "lora_request"), (SchedulerStats, "scheduler_stats"), (PrefixCacheStats, "prefix_cache_stats"),
    ):  # fmt: skip
        assert {field.name for field in dataclasses.fields(kind)} <= set(RECORDED[recorded]), kind
    for function, recorded in (
        (AsyncLLM.generate, "generate"), (AsyncLLM.from_engine_args, "from_engine_args"),
        (StatLoggerBase.record, "record"), (vllm.RequestOutput.__init__, "request_output"),
    ):  # fmt: skip
        names = [name for name in inspect.signature(function).parameters if name != "self"]
        assert set(names) <= set(RECORDED[recorded])
    assert [kind.name for kind in RequestOutputKind] == RECORDED["request_output_kind"]


def test_choices_of_the_spec_are_vllm_s() -> None:
    from typing import get_args

    from conch import spec_vllm

    assert set(get_args(spec_vllm.Quantization)) <= set(RECORDED["quantization"])
    assert set(get_args(spec_vllm.KvCacheDtype)) <= set(RECORDED["kv_cache_dtype"])
    assert set(get_args(spec_vllm.LoadFormat)) <= set(RECORDED["load_format"])
    ranks = spec_vllm.Vllm.model_fields["max_lora_rank"].annotation
    assert set(get_args(ranks)) == set(RECORDED["max_lora_rank"])
    assert set(spec_vllm.OTHER_NAMES) <= set(RECORDED["engine_args"])
    others = set(spec_vllm.Vllm.model_fields) - {"version", "container", "lora_modules"}
    assert others <= set(RECORDED["engine_args"])
