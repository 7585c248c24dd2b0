"""What a run leaves behind: the files of a run folder, and one record for each request.

The generator writes these, the analysis reads them; nothing else passes between the two. A run folder holds

``run.json``
    what was asked for and where it ran (:class:`RunInfo`), written before the first request and again at the end;
``requests.jsonl``
    one :class:`RequestRecord` a line, in no order;
``generator.jsonl``
    one :class:`GeneratorSample` a line: how the load generator itself was doing;
``server.jsonl``
    one sample of the server's own figures a line;
``summary.json``, ``report.html``, ``report.md``
    what the analysis made of it.

All times are integers in nanoseconds since the run's start, ``RunInfo.started_unix_ns``, taken from a monotonic clock.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, TextIO, TypeVar, Union, get_args, get_origin, get_type_hints

RUN_FILE = "run.json"
REQUESTS_FILE = "requests.jsonl"
GENERATOR_FILE = "generator.jsonl"
SERVER_FILE = "server.jsonl"
SUMMARY_FILE = "summary.json"
REPORT_HTML_FILE = "report.html"
REPORT_MARKDOWN_FILE = "report.md"

_Made = TypeVar("_Made", "RequestRecord", "GeneratorSample", "RunInfo")

FRONTS = ("triton-grpc", "triton-http", "triton-http-stream", "openai")


class BadRecordError(ValueError):
    """A line of a run folder that is not what it should be. The text names file, line, field and value."""


@dataclass(frozen=True)
class RequestRecord:
    """One request, from the moment it was due to its end.

    ``chunk_ns`` has the arrival of each response that carried text or tokens, ``chunk_tokens`` how many tokens each
    brought where the server says so, else it is empty. ``final_ns`` is the end of the stream, whatever it brought; None
    only when the run ended first. ``error_code`` is the protocol's own (``INVALID_ARGUMENT``, ``503``), or one of
    ours: ``timeout``, ``connection``, ``cut`` (the stream ended without a final response), ``bad_response``.
    """

    index: int  # place in the workload's seeded order, from 0; the same index is the same request on every front
    front: str  # one of FRONTS
    worker: int  # which Locust worker sent it
    intended_ns: int | None  # when it was due, for open-loop arrivals; None in a closed loop
    sent_ns: int
    chunk_ns: tuple[int, ...]
    final_ns: int | None
    prompt_tokens: int  # by the model's tokenizer, before it was sent
    requested_tokens: int  # max_tokens
    chunk_tokens: tuple[int, ...] = ()
    server_prompt_tokens: int | None = None  # what the server counted
    server_output_tokens: int | None = None
    local_output_tokens: int | None = None  # the text that came back, by the model's tokenizer
    finish_reason: str | None = None
    error_code: str | None = None
    error: str | None = None
    text: str | None = None
    request_id: str = ""
    conversation: int | None = None  # chat workloads: which conversation, and which turn of it
    turn: int | None = None
    warm_up: bool = False  # sent on purpose before the measured part


@dataclass(frozen=True)
class GeneratorSample:
    """How the load generator was doing in the second before ``at_ns``."""

    at_ns: int
    worker: int
    loop_lag_ms: float  # the longest time the event loop was late in that second
    cpu_share: float  # of one core, 0 to 1
    in_flight: int
    late_starts: int  # arrivals sent more than 10 ms after they were due


@dataclass(frozen=True)
class RunInfo:
    """What was asked for, and where it ran."""

    name: str
    started_unix_ns: int
    front: str
    target: str  # address and model, without credentials
    model: str
    workload: Mapping[str, Any]
    arrivals: Mapping[str, Any]  # kind, rate_per_s or users, seed, ...
    duration_s: float  # of the measured part, which begins when the warm-up ends
    workers: int
    seed: int
    slo_ms: Mapping[str, float] = field(default_factory=dict)  # e.g. {"ttft_p99_ms": 500.0, "tpot_p99_ms": 100.0}
    versions: Mapping[str, str] = field(default_factory=dict)
    host: Mapping[str, Any] = field(default_factory=dict)  # processor, cores, memory
    ended_ns: int | None = None
    warm_up_s: float = 0.0  # requests due (closed loop: sent) before this are marked warm_up
    settings: Mapping[str, Any] = field(default_factory=dict)  # the whole RunConfig, to run the same again
    checks: Mapping[str, Any] = field(default_factory=dict)  # what honesty found: counts, answers, generator
    invalid: tuple[str, ...] = ()  # why the figures must not be used; empty when they may


def write_line(stream: TextIO, record: RequestRecord | GeneratorSample | Mapping[str, Any]) -> None:
    """Add a record to a JSONL file."""
    values = dict(record) if isinstance(record, Mapping) else dataclasses.asdict(record)
    stream.write(json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n")


def read_requests(folder: Path) -> Iterator[RequestRecord]:
    """The requests of a run.

    Raises:
        BadRecordError: a line is not a record.
        FileNotFoundError: the folder has none.
    """
    path = folder / REQUESTS_FILE
    for number, values in _lines(path):
        yield _made(RequestRecord, values, path, number)


def read_generator(folder: Path) -> Iterator[GeneratorSample]:
    """How the generator was doing.

    Raises:
        BadRecordError: a line is not a sample.
        FileNotFoundError: the folder has none.
    """
    path = folder / GENERATOR_FILE
    for number, values in _lines(path):
        yield _made(GeneratorSample, values, path, number)


def write_run(folder: Path, run: RunInfo) -> None:
    """Write ``run.json``."""
    (folder / RUN_FILE).write_text(json.dumps(dataclasses.asdict(run), indent=2) + "\n", encoding="utf-8")


def read_run(folder: Path) -> RunInfo:
    """What was asked for.

    Raises:
        BadRecordError: ``run.json`` is not what it should be.
        FileNotFoundError: it is not there.
    """
    path = folder / RUN_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadRecordError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise BadRecordError(f"{path}: an object is expected, not {str(values)[:80]}")
    return _made(RunInfo, values, path, 1)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                values = json.loads(line)
            except ValueError as error:
                raise BadRecordError(f"{path}:{number}: not JSON: {error}") from error
            if not isinstance(values, dict):
                raise BadRecordError(f"{path}:{number}: an object is expected, not {str(values)[:80]}")
            yield number, values


def _made(kind: type[_Made], values: dict[str, Any], path: Path, number: int) -> _Made:
    """A record of what a line holds; lists become tuples."""
    known = _KINDS[kind]
    for name, value in values.items():
        wanted = known.get(name)
        if wanted is None:
            raise BadRecordError(f"{path}:{number}: unknown field {name}")
        # bool is an int to Python, and is none here.
        fits = isinstance(value, wanted.kinds) and (not isinstance(value, bool) or bool in wanted.kinds)
        if fits and wanted.element is not None:
            fits = all(type(one) is wanted.element for one in value)
            values[name] = tuple(value)
        if not fits:
            raise BadRecordError(f"{path}:{number}: {name} must be {wanted.words}, got {str(value)[:80]!r}")
    try:
        return kind(**values)
    except TypeError as error:
        raise BadRecordError(f"{path}:{number}: {error}") from error


@dataclass(frozen=True)
class _Kind:
    """What a field may hold.

    Attributes:
        kinds: what JSON has for it.
        words: the same for people.
        element: of a list: what its elements are.
    """

    kinds: tuple[type, ...]
    words: str
    element: type | None


_JSON: dict[Any, tuple[type, ...]] = {float: (float, int), Mapping: (dict,), tuple: (list,)}
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "an object",
          list: "a list", type(None): "null"}  # fmt: skip


def _kinds_of(kind: type[Any]) -> dict[str, _Kind]:
    found = {}
    for name, hint in get_type_hints(kind).items():
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        kinds = tuple(one for part in parts for one in _JSON.get(get_origin(part) or part, (get_origin(part) or part,)))
        element = next((get_args(part)[0] for part in parts if get_origin(part) is tuple), None)
        shown = [_WORDS[one] for one in kinds if not (one is int and float in kinds)]
        words = " or ".join(shown) + (f" of {element.__name__}" if element else "")
        found[name] = _Kind(kinds, words, element)
    return found


_KINDS = {kind: _kinds_of(kind) for kind in (RequestRecord, GeneratorSample, RunInfo)}
