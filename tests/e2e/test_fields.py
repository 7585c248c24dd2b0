"""Every control of a request on the real server: its effect is there, or it is refused by name.

A test for each control, with the control's name in its own; build_scripts/write_contract_docs.py puts that into the
page of the contract, and fails where one is missing.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from by_design import for_beams, refusal_of, skip_if_refused
from server_processes import DEFAULT_SPEC, SWAPPED, Server
from triton_calls import Reply, arrays_of, ask, assert_clean, chat, grpc_stub, infer, message_of, read

from conch.contract import (
    ENSEMBLE,
    LORA_TASK_ID,
    RETURN_CONTEXT_LOGITS,
    RETURN_GENERATION_LOGITS,
    TEXT_OUTPUT,
    Control,
)

pytestmark = pytest.mark.e2e

STORY = "Once upon a time there was"
FRANCE = chat("What is the capital of France?")
HOT = {"temperature": 1.5}
FREE = {"end_id": -1}
IDS = {"return_token_ids": True, "return_num_output_tokens": True}


@pytest.fixture(scope="module")
def tell(make_server: Callable[[str], Server]) -> Callable[..., Reply]:
    """Ask ``ensemble``, in the deterministic mode; a text_input is there unless messages are."""

    def tell(**fields: Any) -> Reply:
        exact = make_server(for_beams("smollm2-135m-deterministic", fields.get("beam_width", 1)))
        reply = ask(exact, ENSEMBLE.name, {**({} if "messages" in fields else {"text_input": STORY}), **fields})
        assert reply.status == "OK"
        skip_if_refused(fields, reply)
        return reply

    return tell


def tokens(reply: Reply) -> list[int]:
    """Token ids of the first sequence."""
    return [int(i) for response in reply.responses for i in response["token_ids"].reshape(-1)]


def sequences(reply: Reply, name: str) -> list[Any]:
    """An output of the only response, one element per sequence."""
    (response,) = reply.responses
    array = response[name] if name == TEXT_OUTPUT.name else response[name][0]
    return [v.decode() if isinstance(v, bytes) else v for v in array.tolist()]


def refused(reply: Reply, message: str) -> None:
    assert reply.error == f"in ensemble '{ENSEMBLE.name}', {message}"
    assert_clean(reply.error)


def test_max_tokens(tell: Callable[..., Reply]) -> None:
    for count in (1, 7):
        reply = tell(max_tokens=count, **FREE, **IDS)
        assert (len(tokens(reply)), reply.total("num_output_tokens"), reply.finish_reason) == (count, count, "length")


def test_min_tokens(tell: Callable[..., Reply]) -> None:
    short = tell(messages=FRANCE, max_tokens=60, **IDS)
    assert (short.finish_reason, short.total("num_output_tokens") < 30) == ("stop", True)
    assert tell(messages=FRANCE, max_tokens=60, min_tokens=40, **IDS).total("num_output_tokens") >= 40


def likeliest(tell: Callable[..., Reply]) -> dict[int, float]:
    """The 8 likeliest first tokens and their log probs, the best first, as beam search sees them."""
    reply = tell(beam_width=8, max_tokens=1, return_log_probs=True, **FREE, **IDS)
    (response,) = reply.responses
    return dict(zip(response["token_ids"].reshape(-1).tolist(), sequences(reply, "cum_log_probs"), strict=True))


def drawn(tell: Callable[..., Reply], count: int, **controls: Any) -> Counter[int]:
    """So many first tokens, as often as they came."""
    fixed = {"num_return_sequences": 8, "max_tokens": 1, **FREE, **IDS, **controls}
    replies = [tell(seed=seed, **fixed) for seed in range(count // 8)]
    return Counter(int(i) for reply in replies for i in reply.responses[0]["token_ids"].reshape(-1))


def test_temperature(tell: Callable[..., Reply]) -> None:
    """Of several temperatures the one that was asked for explains best how often each token came."""
    logits = np.array(list(likeliest(tell).values())[:4])
    tokens_of = list(likeliest(tell))[:4]

    def likelihood(counts: Counter[int], temperature: float) -> float:
        weights = np.exp(logits / temperature)
        return float(np.dot([counts[t] for t in tokens_of], np.log(weights / weights.sum())))

    for asked in (0.3, 1.0, 3.0):
        counts = drawn(tell, 160, temperature=asked, top_k=4)
        assert max((0.3, 0.55, 1.0, 1.7, 3.0), key=lambda t, c=counts: likelihood(c, t)) == asked
    assert len({tell(max_tokens=16, temperature=0.0, seed=n, **FREE).text for n in range(3)}) == 1


def test_top_k_and_top_p(tell: Callable[..., Reply]) -> None:
    """Tokens beyond are never drawn, those within are, and without the control others are."""
    best = likeliest(tell)
    ids, reached = list(best), np.cumsum(np.exp(list(best.values())))
    assert set(drawn(tell, 64, top_k=3, **HOT)) == set(ids[:3])
    assert set(drawn(tell, 64, top_p=float(reached[1] + reached[2]) / 2, temperature=1.0)) == set(ids[:3])
    assert not set(drawn(tell, 64, temperature=1.0)) <= set(ids[:3])
    greedy = tell(max_tokens=12, **FREE).text
    for one in ({"top_k": 1}, {"top_p": 1e-6}):
        assert tell(max_tokens=12, seed=1, **HOT, **one, **FREE).text == greedy


def test_min_p(tell: Callable[..., Reply]) -> None:
    best = likeliest(tell)
    ids, chances = list(best), np.exp(list(best.values()))
    for kept in (2, 4):
        least = float(np.sqrt(chances[kept - 1] * chances[kept]) / chances[0])
        assert set(drawn(tell, 96, min_p=least, temperature=1.0)) == set(ids[:kept])
    assert set(drawn(tell, 16, min_p=0.99, **HOT)) == set(ids[:1])
    assert tell(max_tokens=12, seed=1, min_p=1.0, **HOT, **FREE).text == tell(max_tokens=12, **FREE).text


PENALTIES = [{"repetition_penalty": 1.8}, {"presence_penalty": 2.0}, {"frequency_penalty": 2.0}]


@pytest.mark.parametrize("penalty", PENALTIES)
def test_repetition_penalty_presence_penalty_and_frequency_penalty(
    tell: Callable[..., Reply], penalty: dict[str, float]
) -> None:
    again = {"text_input": "one two one two one two one two one two", "max_tokens": 40, **FREE, **IDS}
    plain, penalized = (Counter(tokens(tell(**again, **controls))) for controls in ({}, penalty))
    assert max(plain.values()) > 4, "without a penalty it repeats itself"
    assert len(penalized) > len(plain)



def test_seed(tell: Callable[..., Reply]) -> None:
    texts = [tell(max_tokens=16, seed=seed, **HOT, **FREE).text for seed in (7, 7, 8)]
    assert texts[0] == texts[1]
    assert texts[1] != texts[2]
    assert len({tell(max_tokens=16, **HOT, **FREE).text for _ in range(3)}) == 3, "every request has one of its own"


def test_end_id(tell: Callable[..., Reply]) -> None:
    free = tokens(tell(max_tokens=12, **FREE, **IDS))
    end = next(token for token in free[3:] if token not in free[:3])
    ended = tell(max_tokens=12, end_id=end, **IDS)
    assert ended.finish_reason == "stop"
    assert tokens(ended) == free[: free.index(end) + 1]
    assert tell(messages=FRANCE, max_tokens=60, **FREE, **IDS).total("num_output_tokens") == 60


def test_pad_id(tell: Callable[..., Reply]) -> None:
    rows = {
        "text_input": np.array([[STORY.encode()], [STORY.encode()]], np.object_),
        "max_tokens": np.array([[3], [5]], np.int32), "pad_id": np.array([[9], [9]], np.int32),
        "end_id": np.array([[-1], [-1]], np.int32), "return_token_ids": np.array([[True], [True]]),
    }  # fmt: skip
    first, second = tell(**rows).responses[0]["token_ids"][:, 0].tolist()
    assert first[3:] == [9, 9]
    assert first[:3] == second[:3]


def test_stop_words(tell: Callable[..., Reply]) -> None:
    free = tell(max_tokens=24, **FREE).text
    word = free[10:14]
    for stream in (False, True):
        reply = tell(max_tokens=24, stop_words=[word, "", "never there"], stream=stream, **FREE)
        assert (reply.text, reply.finish_reason) == (free[: free.index(word)], "stop")


def test_bad_words(tell: Callable[..., Reply]) -> None:
    free = tell(max_tokens=24, **FREE).text
    word = free.split()[3]
    for stream in (False, True):
        reply = tell(max_tokens=24, bad_words=[word, ""], stream=stream, **FREE)
        assert not reply.error
        assert word not in reply.text
        assert reply.text


def test_beam_width(tell: Callable[..., Reply]) -> None:
    fixed = {"max_tokens": 12, "return_log_probs": True, **FREE}
    greedy = tell(**fixed)
    beams = tell(beam_width=4, **fixed)
    scores = sequences(beams, "cum_log_probs")
    assert len(set(sequences(beams, "text_output"))) == len(scores) == 4
    assert scores == sorted(scores, reverse=True), "the best comes first"
    assert scores[0] >= sequences(greedy, "cum_log_probs")[0] - 1e-3, "no worse than the greedy answer"
    refused(tell(beam_width=2, stream=True), "UNSUPPORTED: beam_width must be 1 when stream is true, got 2")
    refused(tell(beam_width=9), "INVALID_ARGUMENT: beam_width must be at most 8, got 9")


def test_num_return_sequences(tell: Callable[..., Reply]) -> None:
    reply = tell(num_return_sequences=3, max_tokens=12, seed=1, **HOT, **FREE, **IDS)
    assert len(set(sequences(reply, "text_output"))) == 3
    assert sequences(reply, "num_output_tokens") == [12, 12, 12]
    assert sequences(reply, "finish_reason") == ["length"] * 3
    assert len(sequences(tell(beam_width=4, num_return_sequences=2, max_tokens=8), "text_output")) == 2
    assert "num_return_sequences must be 1 in greedy decoding" in tell(num_return_sequences=2).error


def test_stop_words_of_several_answers(tell: Callable[..., Reply]) -> None:
    """Each answer is cut by itself."""
    plain = tell(num_return_sequences=4, max_tokens=30, seed=3, **HOT, **FREE)
    texts = sequences(plain, "text_output")
    cut = tell(num_return_sequences=4, max_tokens=30, seed=3, stop_words=["e", "the"], **HOT, **FREE)
    assert sequences(cut, "text_output") == [t[: t.index("e")] if "e" in t else t for t in texts]


def test_length_penalty(tell: Callable[..., Reply]) -> None:
    asked = {"messages": FRANCE, "beam_width": 4, "num_return_sequences": 1, "max_tokens": 40, **IDS}
    short, long = (tell(length_penalty=p, **asked).total("num_output_tokens") for p in (-10.0, 10.0))
    assert short < long
    assert "length_penalty needs beam_width > 1, got 2" in tell(length_penalty=2.0).error


def test_early_stopping(tell: Callable[..., Reply]) -> None:
    """With a premium on length it stops with the first answers, or looks for longer ones."""
    asked = {"messages": FRANCE, "beam_width": 2, "max_tokens": 60, "length_penalty": 10.0, **IDS}
    early, late = (tell(early_stopping=early, **asked) for early in (True, False))
    assert max(sequences(early, "num_output_tokens")) < max(sequences(late, "num_output_tokens"))
    assert "early_stopping needs beam_width > 1, got True" in tell(early_stopping=True).error


def test_no_repeat_ngram_size(tell: Callable[..., Reply]) -> None:
    again = {"text_input": "one two one two one two", "max_tokens": 30, "beam_width": 2, "num_return_sequences": 1}
    plain, checked = (tokens(tell(**again, **FREE, **IDS, **c)) for c in ({}, {"no_repeat_ngram_size": 2}))
    pairs = Counter(pairwise(checked))
    assert max(Counter(pairwise(plain)).values()) > 1
    assert max(pairs.values()) == 1
    assert "no_repeat_ngram_size needs beam_width > 1, got 2" in tell(no_repeat_ngram_size=2).error


def test_guided_decoding_guide_and_guided_decoding_guide_type(tell: Callable[..., Reply]) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    grammar = 'root ::= "Pa" [a-z] [a-z] "?"'
    guides = {"json_schema": json.dumps(schema), "regex": "(Paris|Rome)!", "ebnf_grammar": grammar}
    answers = {
        kind: tell(messages=FRANCE, max_tokens=40, guided_decoding_guide_type=kind, guided_decoding_guide=guide)
        for kind, guide in guides.items()
    }
    assert {kind: reply.finish_reason for kind, reply in answers.items()} == dict.fromkeys(guides, "stop")
    assert isinstance(json.loads(answers["json_schema"].text)["n"], int)
    assert answers["regex"].text in ("Paris!", "Rome!")
    assert re.fullmatch(r"Pa[a-z]{2}\?", answers["ebnf_grammar"].text)
    bad = tell(guided_decoding_guide_type="regex", guided_decoding_guide="((")
    assert "INVALID_ARGUMENT: guided_decoding_guide cannot be compiled as regex: " in bad.error
    assert_clean(bad.error)



def test_lora_task_id(tell: Callable[..., Reply]) -> None:
    refused(tell(lora_task_id=np.array([[3]], np.uint64)), refusal_of(LORA_TASK_ID))


def test_stream(tell: Callable[..., Reply]) -> None:
    whole, streamed = (tell(max_tokens=16, stream=stream, **FREE) for stream in (False, True))
    assert (len(whole.responses), len(streamed.responses) > 4) == (1, True)
    assert streamed.text == whole.text


def test_stop(server: Server) -> None:
    """A request is ended by another one with its id; requests of other ids go on."""
    long = arrays_of({"text_input": STORY, "max_tokens": 4000, "stream": True, **FREE})
    other = arrays_of({"text_input": STORY, "max_tokens": 40, "stream": True, **FREE})
    with grpc_stub(server) as stub, ThreadPoolExecutor(3) as pool:
        whole = {**long, "stream": np.array([[False]])}
        calls = [
            stub.ModelStreamInfer(iter([message_of(ENSEMBLE.name, arrays, name)]), timeout=60)
            for arrays, name in ((long, "end-me"), (other, "not-me"), (whole, "end-me"))
        ]
        replies = [pool.submit(read, call) for call in calls]
        time.sleep(0.7)
        stopping = read(stub.ModelStreamInfer(iter([message_of(ENSEMBLE.name, arrays_of({"stop": True}), "end-me")])))
        ended, kept, ended_whole = (reply.result(20) for reply in replies)
    assert (stopping.error, stopping.finish_reason, stopping.text) == ("", "cancelled", "")
    for reply in (ended, ended_whole):
        assert (reply.error, reply.finish_reason) == ("", "cancelled")
        assert len(reply.text) > 20, "what was there is sent"
    assert (kept.error, kept.finish_reason) == ("", "length")
    nameless = ask(server, ENSEMBLE.name, {"stop": True})
    refused(nameless, "INVALID_ARGUMENT: stop needs the request id of the request that shall end")


def test_priority(make_server: Callable[[str], Server]) -> None:
    """With both places taken, the lowest number goes first."""
    narrow = make_server("narrow")
    done: list[str] = []

    def one(name: str, priority: int, tokens: int) -> Reply:
        with grpc_stub(narrow) as stub:
            fields = {"text_input": STORY, "max_tokens": tokens, "priority": priority, **FREE}
            reply = infer(stub, ENSEMBLE.name, fields)
        done.append(name)
        return reply

    with ThreadPoolExecutor(5) as pool:
        replies = [pool.submit(one, "running", 0, 40) for _ in range(2)]
        time.sleep(0.3)
        for name, priority in (("last", 9), ("second", 0), ("first", -9)):
            replies.append(pool.submit(one, name, priority, 30))
            time.sleep(0.02)
        assert not [r.result(60).error for r in replies if r.result(60).error]
    assert done.index("first") < done.index("last")
    assert done.index("second") < done.index("last")


def test_a_full_line_refuses(make_server: Callable[[str], Server]) -> None:
    """Two run, three wait, the others are told when to come again, and those that wait too long are told so."""
    narrow = make_server("narrow")
    fields = {"text_input": STORY, "max_tokens": 700, **FREE}
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: ask(narrow, ENSEMBLE.name, fields), range(8)))
    kinds = Counter(re.sub(r"\d+ s$", "N s", reply.error) for reply in replies)
    assert kinds == {
        "": 2,
        f"in ensemble '{ENSEMBLE.name}', UNAVAILABLE: maximum queue size of 3 reached. Try again in N s": 3,
        f"in ensemble '{ENSEMBLE.name}', UNAVAILABLE: no place within the queue timeout of 4000 ms": 3,
    }
    assert not ask(narrow, ENSEMBLE.name, {"text_input": STORY, "max_tokens": 2}).error


def test_timeout_ms(tell: Callable[..., Reply]) -> None:
    """What may end in time is computed until then; what cannot is not begun, on an idle server, too."""
    late, least = {"timeout_ms": 500, "max_tokens": 4000}, "4000 tokens take at least"
    begun = time.monotonic()
    refused(tell(stop_words=["never there"], **late, **FREE), "DEADLINE_EXCEEDED: timeout_ms of 500 has passed")
    assert time.monotonic() - begun < 5, "it was not computed to the end, which takes a minute"
    assert not tell(max_tokens=40, timeout_ms=60_000, **FREE).error
    for bound in (FREE, {"min_tokens": 4000}):
        reply = tell(**late, **bound, return_perf_metrics=True)
        pattern = rf"in ensemble 'ensemble', DEADLINE_EXCEEDED: timeout_ms of 500 cannot be met: {least} \d+ ms"
        assert re.fullmatch(pattern, reply.error)


def test_return_num_input_tokens_and_return_num_output_tokens(tell: Callable[..., Reply]) -> None:
    for stream in (False, True):
        asked = {"max_tokens": 9, "stream": stream, **FREE}
        reply = tell(return_num_input_tokens=True, return_num_output_tokens=True, **asked)
        assert {int(r["num_input_tokens"][0, 0]) for r in reply.responses} == {6}
        assert reply.total("num_output_tokens") == 9
        assert not {"num_input_tokens", "num_output_tokens"} & set(tell(**asked).responses[0])



def test_return_log_probs(tell: Callable[..., Reply]) -> None:
    asked = {"max_tokens": 9, "return_log_probs": True, **FREE, **IDS}
    whole, streamed = tell(**asked), tell(stream=True, **asked)
    probabilities = [
        [float(p) for r in reply.responses for p in r["output_log_probs"].reshape(-1)] for reply in (whole, streamed)
    ]
    assert all(p <= 0 for p in probabilities[0])
    assert any(p < -0.01 for p in probabilities[0])
    assert [len(p) for p in probabilities] == [9, 9]
    assert probabilities[1] == pytest.approx(probabilities[0], abs=1e-3)
    for reply, each in zip((whole, streamed), probabilities, strict=True):
        assert float(reply.responses[-1]["cum_log_probs"][0, 0]) == pytest.approx(sum(each), abs=1e-3)
    assert not {"output_log_probs", "cum_log_probs"} & set(tell(max_tokens=2).responses[0])


def test_log_probs_are_those_of_the_model(tell: Callable[..., Reply]) -> None:
    """The greedy token's is the highest, beam search sees the same, and tokens come as often as it says."""
    best = likeliest(tell)
    ids, log_probs = list(best), list(best.values())
    greedy = tell(max_tokens=1, return_log_probs=True, **FREE, **IDS)
    assert tokens(greedy) == ids[:1]
    assert sequences(greedy, "cum_log_probs") == pytest.approx(log_probs[:1], abs=1e-3)
    assert log_probs == sorted(log_probs, reverse=True)
    assert sum(np.exp(log_probs)) < 1
    draws, counts = 160, drawn(tell, 160, temperature=1.0)
    for token, chance in zip(ids, np.exp(log_probs), strict=True):
        assert abs(counts[token] - draws * chance) < 4 * np.sqrt(draws * chance * (1 - chance)) + 1


def test_log_probs_belong_to_the_tokens_that_are_sent(tell: Callable[..., Reply]) -> None:
    """Tokens that a stop word holds back, or cuts, keep or lose theirs."""
    asked = {"max_tokens": 24, "return_log_probs": True, **FREE, **IDS}
    free = tell(**asked)
    word = free.text[12:15]
    for stream in (False, True):
        reply = tell(stop_words=[word], stream=stream, **asked)
        counts = [(r["token_ids"].size, r["output_log_probs"].size) for r in reply.responses]
        assert all(ids == log_probs for ids, log_probs in counts)
        assert 0 < sum(ids for ids, _ in counts) < 24


def test_return_token_ids(tell: Callable[..., Reply]) -> None:
    whole, streamed = (tell(max_tokens=9, stream=stream, **FREE, **IDS) for stream in (False, True))
    assert len(tokens(whole)) == 9
    assert tokens(whole) == tokens(streamed)
    assert "token_ids" not in tell(max_tokens=2).responses[0]


def test_return_perf_metrics(tell: Callable[..., Reply]) -> None:
    names = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
    for stream in (False, True):
        sent = time.time_ns()
        reply = tell(max_tokens=9, return_perf_metrics=True, stream=stream, **FREE)
        times = [sent, *(int(reply.responses[-1][name][0, 0]) for name in names), time.time_ns()]
        assert times == sorted(times)
        assert times[4] > times[3]
        assert not any(set(names) & set(response) for response in reply.responses[:-1])


@pytest.mark.parametrize("control", [RETURN_CONTEXT_LOGITS, RETURN_GENERATION_LOGITS], ids=lambda control: control.name)
def test_return_context_logits_and_return_generation_logits(tell: Callable[..., Reply], control: Control) -> None:
    refused(tell(**{control.name: True}), refusal_of(control))
    assert not tell(max_tokens=2, **{control.name: False}).error



def test_exclude_input_in_output(tell: Callable[..., Reply]) -> None:
    """TensorRT-LLM puts the prompt in front, and streams only what is new; all that is counted is the answer's."""
    asked = {"max_tokens": 6, "return_num_output_tokens": True, "return_log_probs": True, **IDS, **FREE}
    alone = tell(exclude_input_in_output=True, **asked)
    behind = tell(exclude_input_in_output=False, **asked)
    assert behind.text == STORY + alone.text
    assert behind.total("num_output_tokens") == 6
    for name in ("token_ids", "output_log_probs"):
        assert behind.responses[0][name].shape == (1, 1, 6)
    assert tell(exclude_input_in_output=False, stream=True, **asked).text == alone.text
    word = alone.text[3:7]
    cut = tell(exclude_input_in_output=False, stop_words=[word, STORY[5:9]], **asked)
    assert (cut.text, cut.finish_reason) == (STORY + alone.text[: alone.text.index(word)], "stop")


def test_the_engine_takes_them_under_its_own_names(make_server: Callable[[str], Server]) -> None:
    """What the TensorRT-LLM backend calls its inputs."""
    engine = {"input_ids": np.array([[504, 3575, 282]], np.int32), "input_lengths": 3, "request_output_len": 6}
    controls = {"end_id": -1, "beam_width": 2, "len_penalty": 0.5, "return_log_probs": True}
    reply = ask(make_server(for_beams(DEFAULT_SPEC.removesuffix(SWAPPED))), "llama_engine", {**engine, **controls})
    (response,) = reply.responses
    assert response["output_ids"].shape == response["output_log_probs"].shape == (1, 2, 6)
    assert response["cum_log_probs"].shape == response["sequence_length"].shape == (1, 2)


def test_echo_refuses_what_needs_a_model(make_server: Callable[[str], Server]) -> None:
    echo = make_server("echo")
    for name, value in (("beam_width", 2), ("bad_words", ["x"]), ("return_log_probs", True)):
        reply = ask(echo, ENSEMBLE.name, {"text_input": "x", name: value})
        refused(reply, f"UNSUPPORTED: {name} is not supported by the runtime echo: it has no model")
    neutral = {"temperature": 0.7, "beam_width": 1, "bad_words": [""]}
    assert not ask(echo, ENSEMBLE.name, {"text_input": "x", "max_tokens": 2, **neutral}).error
