"""What is asked: seeded, of the right length, and refused when it cannot be."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from conch_load.calibrate.letters import write_letters_tokenizer
from conch_load.config import RunConfig, checked
from conch_load.workloads import Ask, Tokens, Workload, WorkloadError, make_workload
from conch_load.workloads.base import check_context
from conch_load.workloads.chat import SIDE_BY_SIDE
from conch_load.workloads.tokens import release_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

BURSTGPT = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
TRACES = Path(__file__).resolve().parents[3] / "load_tests" / "traces"


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    """Every token is one byte."""
    file = tmp_path_factory.mktemp("letters") / "tokenizer.json"
    write_letters_tokenizer(file)
    return Tokens(file)


def write_words_tokenizer(file: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["".join(pair) for pair in itertools.product("abcdefghijkl", repeat=2)]
    vocabulary = [*alphabet, *(f"Ġ{first}" for first in "abcdefghijkl"), *(f"Ġ{word}" for word in words)]
    merges = [*(("Ġ", first) for first in "abcdefghijkl"), *((f"Ġ{first}", second) for first, second in words)]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(vocabulary)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(file))


def mooncake(at: int, prompt: int, output: int = 1) -> str:
    return json.dumps({"timestamp": at, "input_length": prompt, "output_length": output}) + "\n"


def made(tokens: Tokens, seed: int = 1, salt: str = "none", **workload: Any) -> Workload:
    config: RunConfig = checked({"workload": workload, "seed": seed, "salt": salt})
    return make_workload(config, tokens)


def test_equal_seeds_give_equal_requests_in_any_order(tokens: Tokens) -> None:
    one = made(tokens, kind="distribution", input_tokens="normal:40:9", output_tokens="uniform:1:9")
    two = made(tokens, kind="distribution", input_tokens="normal:40:9", output_tokens="uniform:1:9")
    other = made(tokens, seed=2, kind="distribution", input_tokens="normal:40:9", output_tokens="uniform:1:9")
    forwards = [one.ask(i) for i in range(30)]
    assert forwards == [two.ask(i) for i in reversed(range(30))][::-1]
    assert forwards != [other.ask(i) for i in range(30)]
    assert len({ask.text for ask in forwards}) == 30
    assert all(ask.prompt_tokens == len(ask.text or "") for ask in forwards)
    assert len({ask.prompt_tokens for ask in forwards}) > 10


def texts(ask: Ask) -> list[str]:
    return [ask.text] if ask.text is not None else [str(one["content"]) for one in ask.messages or ()]


@pytest.fixture(scope="module")
def word_tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    """Words with a space in front are one token each; without it they are letters."""
    file = tmp_path_factory.mktemp("words") / "tokenizer.json"
    write_words_tokenizer(file)
    return Tokens(file)


@pytest.mark.parametrize("kind", ["fixed", "distribution", "chat", "prompts", "prompts-chat", "mooncake", "burstgpt"])
def test_a_salt_changes_the_front_of_each_prompt_and_no_length(
    word_tokens: Tokens, tmp_path: Path, kind: str
) -> None:
    fields: dict[str, Any] = {"kind": kind.partition("-")[0], "output_tokens": "3"}
    if kind == "distribution":
        fields["input_tokens"] = "uniform:8:40"
    elif kind == "chat":
        fields |= {"turns": 2, "system_tokens": 20, "input_tokens": "9"}
    elif kind.startswith("prompts"):
        file = tmp_path / "prompts.jsonl"
        prompt = {"prompt": "one two"} if kind == "prompts" else {"messages": [{"role": "user", "content": "one two"}]}
        file.write_text(json.dumps(prompt) + "\n")
        fields["path"] = file
    elif kind == "mooncake":
        fields["path"] = TRACES / "mooncake_synthetic.jsonl"
    elif kind == "burstgpt":
        fields["path"] = TRACES / "burstgpt_synthetic.csv"
    one, again, other = (made(word_tokens, salt=salt, **fields) for salt in ("a", "a", "b"))
    for index in range(20):
        asks = [workload.ask(index) for workload in (one, again, other)]
        assert asks[0] == asks[1]
        assert asks[0].prompt_tokens == asks[2].prompt_tokens
        assert asks[0].output_tokens == asks[2].output_tokens
        ours, theirs = (texts(ask)[0] for ask in (asks[0], asks[2]))
        assert ours.split(" ")[:6] != theirs.split(" ")[:6]
        assert ours.split(" ")[6:30] == theirs.split(" ")[6:30]
    if kind == "chat":  # within a run, what is shared stays shared
        assert len({texts(one.ask(index))[0] for index in range(20)}) == 1
        assert one.ask(0).messages == (one.ask(SIDE_BY_SIDE).messages or ())[:2]


def test_turns_of_a_conversation_begin_with_the_turn_before(tokens: Tokens) -> None:
    chat = made(tokens, kind="chat", turns=3, system_tokens=20, input_tokens="5", output_tokens="7", shared_prompts=2)
    for number in (0, 1, SIDE_BY_SIDE + 3):
        turns = [chat.ask(index) for index in chat.chain(number)]
        assert [(t.conversation, t.turn) for t in turns] == [(number, 0), (number, 1), (number, 2)]
        for before, after in itertools.pairwise(turns):
            assert before.messages is not None
            assert after.messages is not None
            assert after.messages[: len(before.messages)] == before.messages
            assert [m["role"] for m in after.messages[len(before.messages) :]] == ["assistant", "user"]
    systems = [(chat.ask(chat.chain(number)[0]).messages or ())[0]["content"] for number in range(4)]
    assert systems[0] == systems[2] != systems[1] == systems[3]


def test_chains_cover_every_index_once(tokens: Tokens) -> None:
    chat = made(tokens, kind="chat", turns=3, system_tokens=2, input_tokens="1", output_tokens="1")
    indexes = [index for number in range(2 * SIDE_BY_SIDE) for index in chat.chain(number)]
    assert sorted(indexes) == list(range(3 * 2 * SIDE_BY_SIDE))


def test_prompts_of_a_file_come_in_a_seeded_order_each_once_before_any_twice(tokens: Tokens, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("one\n\ntwo\nthree\n")
    prompts = made(tokens, kind="prompts", path=file)
    texts = [prompts.ask(i).text for i in range(6)]
    assert sorted(map(str, texts[:3])) == sorted(map(str, texts[3:])) == ["one", "three", "two"]
    assert prompts.ask(0).prompt_tokens == len(texts[0] or "")


def test_prompts_of_jsonl_may_be_chats_and_say_their_length(tokens: Tokens, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}\n')
    ask = made(tokens, kind="prompts", path=file).ask(0)
    assert (ask.text, ask.output_tokens) == (None, 3)
    assert ask.messages == ({"role": "user", "content": "hello"},)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("{", ":1: not JSON"),
        ('{"prompt": "a", "messages": []}', ":1: must be an object with exactly one of prompt and messages"),
        ('{"prompt": ""}', "prompt must be a text that is not empty"),
        ('{"prompt": "a", "max_tokens": 0}', "max_tokens must be a whole number >= 1, got 0"),
        ('{"prompt": "a", "temperature": 1}', "unknown field temperature"),
        ('{"messages": [{"role": "user"}]}', "messages must be a list of {role, content}"),
        (" ", "is empty"),
    ],
)
def test_a_bad_line_of_prompts_is_named(tokens: Tokens, tmp_path: Path, line: str, text: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(WorkloadError, match=text):
        made(tokens, kind="prompts", path=file)


def test_the_example_traces_can_be_read(tokens: Tokens) -> None:
    blocks = made(tokens, kind="mooncake", path=TRACES / "mooncake_synthetic.jsonl")
    burst = made(tokens, kind="burstgpt", path=TRACES / "burstgpt_synthetic.csv")
    for trace in (blocks, burst):
        assert trace.times_ns
        assert trace.times_ns[0] == 0
        assert list(trace.times_ns) == sorted(trace.times_ns)
    assert burst.describe()["left_out_failed"] == 2
    row = json.loads((TRACES / "mooncake_synthetic.jsonl").read_text().splitlines()[5])
    assert (blocks.ask(5).prompt_tokens, blocks.ask(5).output_tokens) == (row["input_length"], row["output_length"])


def test_equal_blocks_of_a_trace_are_equal_texts(tokens: Tokens, tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    lines = [(0, 600, [1, 2]), (10, 700, [1, 3]), (20, 1100, [1, 2, 4])]
    file.write_text("".join(
        json.dumps({"timestamp": at, "input_length": n, "output_length": 3, "hash_ids": ids}) + "\n"
        for at, n, ids in lines
    ))  # fmt: skip
    texts = [made(tokens, kind="mooncake", path=file).ask(i).text or "" for i in range(3)]
    assert [len(text) for text in texts] == [600, 700, 1100]
    assert texts[0][:512] == texts[1][:512] == texts[2][:512]
    assert texts[0][512:600] == texts[2][512:600] != texts[1][512:600]


@pytest.mark.parametrize(
    ("kind", "content", "text"),
    [
        ("mooncake", "", "is empty"),
        ("mooncake", '{"timestamp": 1}\n', "must have timestamp, input_length"),
        ("mooncake", mooncake(1, 0), "input length must be .* >= 1, got 0"),
        ("mooncake", mooncake(-1, 2), "timestamp must be a number >= 0"),
        ("mooncake", mooncake(5, 2) + mooncake(4, 2), ":2: out of order: the timestamp 4 is before 5"),
        ("burstgpt", "a,b\n1,2\n", "the header must be Timestamp,Model"),
        ("burstgpt", BURSTGPT, "has no request"),
        ("burstgpt", f"{BURSTGPT}x,m,1,1,2,l\n", ":2: could not"),
    ],
)
def test_a_bad_trace_is_refused_by_line(tokens: Tokens, tmp_path: Path, kind: str, content: str, text: str) -> None:
    file = tmp_path / "trace"
    file.write_text(content)
    with pytest.raises(WorkloadError, match=text):
        made(tokens, kind=kind, path=file)


def test_a_workload_longer_than_the_context_is_refused(tokens: Tokens) -> None:
    fixed = made(tokens, input_tokens="90", output_tokens="20")
    check_context(fixed, 10, 90, 110)
    with pytest.raises(WorkloadError, match=r"request 0 .* 90 \+ 20 = 110 tokens, the model's context has 109"):
        check_context(fixed, 10, 90, 109)
    with pytest.raises(WorkloadError, match="prompt of 90 tokens, the model takes at most 89"):
        check_context(fixed, 10, 89, 1000)
    drawn = made(tokens, kind="distribution", input_tokens="uniform:1:50", output_tokens="4")
    with pytest.raises(WorkloadError, match="the model's context has 40"):
        check_context(drawn, 200, None, 40)
    chat = made(tokens, kind="chat", turns=4, system_tokens=10, input_tokens="10", output_tokens="10")
    with pytest.raises(WorkloadError, match="the model's context has 60"):
        check_context(chat, 1, None, 60)


def test_the_longest_chat_is_found_among_all_of_the_run(tokens: Tokens) -> None:
    chat = made(tokens, kind="chat", turns=2, system_tokens=5, input_tokens="uniform:1:400", output_tokens="2")
    index, prompt, output = chat.longest(300)
    every = [chat.ask(number) for number in range(300)]
    assert (prompt, output) == max((ask.prompt_tokens, ask.output_tokens) for ask in every)
    assert index > SIDE_BY_SIDE * 2


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match=r"tokenizer .* cannot be read"):
        Tokens(tmp_path / "tokenizer.json")
    assert release_of(tmp_path) is None
