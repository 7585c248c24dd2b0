"""The process that tries guides out, and the engine behind it: the real compiler, over a vocabulary of bytes."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from engine_side import LIMITS, TIMEOUT_S, Sink
from server_processes import echo_spec, write_echo_release

from conch.contract import ENGINE
from conch.engines.base import Engine, GenerationRequest, Tokens
from conch.engines.guides import CheckerProcess, GuideChecks
from conch.engines.queue import RequestQueue
from conch.errors import InvalidArgumentError, RepositoryError, UnavailableError
from conch.repository.artifacts import ENGINE_DIR
from conch.sampling import Guide, resolve


@pytest.fixture(scope="module")
def engine_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    release = write_echo_release(folder / "repository", echo_spec(), folder / "scratch")
    return folder / "repository" / ENGINE.name / str(release.version) / ENGINE_DIR


@pytest.fixture(scope="module")
def checker(engine_dir: Path) -> Iterator[CheckerProcess]:
    checker = CheckerProcess(engine_dir)
    yield checker
    checker.close()


@pytest.mark.parametrize(
    ("guide", "reason"),
    [
        (Guide("json", ""), ""),
        (Guide("json_schema", '{"type": "object", "properties": {"a": {"type": "string"}}}'), ""),
        (Guide("json_schema", '{"properties": {"next": {"$ref": "#"}}}'), ""),
        (Guide("json_schema", "{"), "Failed to parse JSON: syntax error at line 1 near: ."),
        (Guide("json_schema", "[1]"), "Schema should be an object or bool, but got [1]"),
        (Guide("json_schema", '{"type": "nonsense"}'), 'Unsupported type "nonsense"'),
        (Guide("json_schema", '{"$ref": "#/nope"}'), 'Cannot find field nope in {"$ref":"#\\/nope"}'),
        (Guide("json_schema", '{"$ref": "#"}'), "it allows no answer at all"),
        (Guide("regex", "(Paris|Rome) is [a-z]{3,10}"), ""),
        (Guide("regex", "(("), "Regex parsing error at position 3: The parenthesis is not closed."),
        (Guide("regex", "(?<=a)b"), "Regex parsing error at position 3: Lookbehind is not supported yet."),
        (Guide("regex", "a\0b"), ""),
        (Guide("ebnf_grammar", 'root ::= "yes" | "no" | ""'), ""),
        (Guide("ebnf_grammar", "root ::= x"), 'EBNF parser error at line 1, column 10: Rule "x" is not defined'),
        (Guide("ebnf_grammar", 'root ::= "a" x\nx ::= x "b"'), "it has a place where nothing may follow"),
    ],
)
def test_what_is_wrong_with_a_guide(checker: CheckerProcess, guide: Guide, reason: str) -> None:
    assert checker.check(guide) == reason


@pytest.mark.parametrize(
    "guide",
    [
        Guide("regex", "(" * 20_000 + "a" + ")" * 20_000),
        Guide("ebnf_grammar", "root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000),
    ],
)
def test_a_guide_that_kills_the_checker_is_refused_and_the_next_one_is_checked(
    checker: CheckerProcess, guide: Guide
) -> None:
    assert checker.check(guide) == (
        "it takes more than 10 s of processor time or 512 MiB of memory, or is nested too deeply"
    )
    assert checker.check(Guide("regex", "a")) == ""


@pytest.mark.parametrize(
    ("number", "too_costly"),
    [
        (signal.SIGKILL, False),
        (signal.SIGTERM, False),
        (signal.SIGXCPU, True),
        (signal.SIGSEGV, True),
        (signal.SIGABRT, True),
    ],
)
def test_only_its_own_limits_make_a_guide_too_costly(
    engine_dir: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, too_costly: bool
) -> None:
    checker = CheckerProcess(engine_dir)
    dying = ["-c", f"import os, signal; signal.signal({number}, signal.SIG_DFL); os.kill(os.getpid(), {number})"]

    def start() -> Connection:
        ours, theirs = multiprocessing.Pipe()
        with theirs:
            checker._process = subprocess.Popen([sys.executable, "-I", "-S", *dying], pass_fds=[theirs.fileno()])
        checker._connection = ours
        return ours

    monkeypatch.setattr(checker, "_start", start)
    if too_costly:
        assert "it takes more than 10 s" in checker.check(Guide("regex", "a"))
    else:
        with pytest.raises(UnavailableError, match=r"^the guide could not be checked: the guide checker was ended$"):
            checker.check(Guide("regex", "a"))
    checker.close()


def test_a_checker_without_a_release_says_so(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="is not part of a release"):
        CheckerProcess(tmp_path / "engine").check(Guide("regex", "a"))


class Behind(Engine):
    """Answers at once with one token; remembers who came.

    Attributes:
        queue: the line in front of it.
    """

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.queue = RequestQueue(2, 8, 0, sink)
        self.queue.engine = self
        self.came: list[int] = []
        self.cancelled: list[int] = []
        self.closed = False

    def submit(self, request: GenerationRequest) -> None:
        self.came.append(request.request_id)
        threading.Thread(target=self.queue.tokens, args=(Tokens(request.request_id, [1], "stop"),)).start()

    def cancel(self, request_id: int) -> None:
        self.cancelled.append(request_id)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def behind() -> Behind:
    return Behind(Sink())


@pytest.fixture
def checks(behind: Behind, engine_dir: Path) -> Iterator[GuideChecks]:
    before = set(threading.enumerate())
    checks = GuideChecks(behind.queue, engine_dir)
    yield checks
    checks.close()
    assert behind.closed
    assert not set(threading.enumerate()) - before


def request(request_id: int, **controls: object) -> GenerationRequest:
    return GenerationRequest(request_id, [1, 2], resolve(controls, 2, replace(LIMITS, max_guide_bytes=100_000)))


def regex(text: str) -> dict[str, object]:
    return {"guided_decoding_guide_type": b"regex", "guided_decoding_guide": text.encode()}


def test_requests_without_guides_go_through_and_start_nothing(checks: GuideChecks, behind: Behind) -> None:
    checks.submit(request(1))
    behind.sink.wait_end(1)
    assert behind.came == [1]
    assert checks._checker._process is None


def test_good_guides_reach_the_engine_and_bad_ones_do_not(checks: GuideChecks, behind: Behind) -> None:
    checks.submit(request(1, **regex("a")))
    checks.submit(request(2, **regex("((")))
    checks.submit(request(3, bad_words=[b"x"]))
    error = behind.sink.wait_end(2)[1]
    assert isinstance(error, InvalidArgumentError)
    assert str(error) == (
        "guided_decoding_guide cannot be compiled as regex: Regex parsing error at position 3: The parenthesis is not "
        "closed."
    )
    behind.sink.wait_end(1)
    behind.sink.wait_end(3)
    assert behind.came == [1, 3]


def test_a_guide_is_checked_once(checks: GuideChecks, behind: Behind) -> None:
    checks.submit(request(1, **regex("a")))
    checks.submit(request(2, **regex("((")))
    behind.sink.wait_end(2)
    checks._checker.close()
    checks.submit(request(3, **regex("a")))
    with pytest.raises(InvalidArgumentError, match="The parenthesis is not closed"):
        checks.submit(request(4, **regex("((")))
    behind.sink.wait_end(3)
    assert behind.came == [1, 3]


def test_a_request_that_is_given_up_while_its_guide_is_checked(checks: GuideChecks, behind: Behind) -> None:
    checks.submit(request(1, **regex("a")))  # starts the checker, which takes a second
    checks.submit(request(2, **regex("b")))
    checks.cancel(1)
    behind.sink.wait_end(2)
    assert behind.came == [2]
    assert behind.cancelled == []


class SlowChecker:
    """Finds every guide good, when it is told to go on."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.checked: list[Guide] = []

    def check(self, guide: Guide) -> str:
        self.checked.append(guide)
        self.go.wait(TIMEOUT_S)
        return ""

    def close(self) -> None:
        self.go.set()


def test_many_costly_guides_hold_nobody_else_up(checks: GuideChecks, behind: Behind) -> None:
    slow = SlowChecker()
    checks._checker = slow  # type: ignore[assignment]
    for number in range(4):  # half of the line, and twice what the engine computes at a time
        checks.submit(request(number, **regex(f"a{number}")))
    with pytest.raises(UnavailableError, match="maximum queue size of 8 reached"):
        checks.submit(request(4, **regex("a4")))
    for number in range(10, 20):
        checks.submit(request(number))
        behind.sink.wait_end(number)
    assert behind.came == list(range(10, 20))
    checks.cancel(2)
    slow.go.set()
    for number in (0, 1, 3):
        behind.sink.wait_end(number)
    assert sorted(behind.came[10:]) == [0, 1, 3]
    assert [guide.text for guide in slow.checked] == ["a0", "a1", "a3"]


def test_a_guide_that_could_not_be_checked_is_checked_the_next_time(checks: GuideChecks, behind: Behind) -> None:
    slow = SlowChecker()
    slow.go.set()
    answers = [UnavailableError("the guide checker was ended")]

    def check(_: Guide) -> str:
        if answers:
            raise answers.pop()
        return ""

    slow.check = check  # type: ignore[method-assign]
    checks._checker = slow  # type: ignore[assignment]
    checks.submit(request(1, **regex("a")))
    assert isinstance(behind.sink.wait_end(1)[1], UnavailableError)
    checks.submit(request(2, **regex("a")))
    assert behind.sink.wait_end(2)[1] == "stop"


def test_closing_while_a_guide_is_checked(behind: Behind, engine_dir: Path) -> None:
    checks = GuideChecks(behind.queue, engine_dir)
    checks.submit(request(1, **regex("a")))
    checks.close()
    error = behind.sink.wait_end(1)[1]
    assert isinstance(error, UnavailableError)
    with pytest.raises(UnavailableError, match="shutting down"):
        checks.submit(request(2, **regex("b")))
    assert behind.came == []
