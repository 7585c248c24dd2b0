"""The process that tries guides out, and the engine behind it: the real compiler, over a vocabulary of bytes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from engine_side import LIMITS, Sink
from server_processes import echo_spec, write_echo_release

from conch.contract import ENGINE
from conch.engines.base import Engine, GenerationRequest, Tokens
from conch.engines.guides import CheckerProcess, GuideChecks
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


def test_a_checker_without_a_release_says_so(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="is not part of a release"):
        CheckerProcess(tmp_path / "engine").check(Guide("regex", "a"))


class Behind(Engine):
    """Answers at once with one token; remembers who came."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.came: list[int] = []
        self.cancelled: list[int] = []
        self.closed = False

    def submit(self, request: GenerationRequest) -> None:
        self.came.append(request.request_id)
        self.sink.tokens(Tokens(request.request_id, [1], "stop"))

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
    checks = GuideChecks(behind, engine_dir, behind.sink)
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
    checks.cancel(1)
    assert (behind.came, behind.cancelled) == ([1], [1])
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
    assert behind.came == [1, 3]


def test_a_request_that_is_given_up_while_its_guide_is_checked(checks: GuideChecks, behind: Behind) -> None:
    checks.submit(request(1, **regex("a")))  # starts the checker, which takes a second
    checks.submit(request(2, **regex("b")))
    checks.cancel(1)
    behind.sink.wait_end(2)
    assert behind.came == [2]
    assert behind.cancelled == []


def test_closing_while_a_guide_is_checked(behind: Behind, engine_dir: Path) -> None:
    checks = GuideChecks(behind, engine_dir, behind.sink)
    checks.submit(request(1, **regex("a")))
    checks.close()
    error = behind.sink.wait_end(1)[1]
    assert isinstance(error, UnavailableError)
    with pytest.raises(UnavailableError, match="shutting down"):
        checks.submit(request(2, **regex("b")))
    assert behind.came == []
