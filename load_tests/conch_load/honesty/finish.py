"""After a run: count what came back, and say whether its figures may be used."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from conch_load.config import RunConfig
from conch_load.honesty.alone import check_answers
from conch_load.honesty.counts import check_counts
from conch_load.honesty.limits import check_generator, check_requests
from conch_load.records import (
    REQUESTS_FILE,
    RequestRecord,
    RunInfo,
    read_generator,
    read_requests,
    read_run,
    write_line,
    write_run,
)
from conch_load.users.prepare import prepare


def finish(folder: Path) -> RunInfo:
    """Fill in ``local_output_tokens`` of every record, and checks and verdict of ``run.json``.

    Raises:
        BadRecordError, FileNotFoundError: the folder is not one of a run.
        WorkloadError: the tokenizer is gone.
    """
    info = read_run(folder)
    config = RunConfig.model_validate(info.settings)
    prepared = prepare(config)
    records = sorted(
        (_counted(record, prepared.tokens.count_answer) for record in read_requests(folder)),
        key=lambda record: record.sent_ns,
    )
    partial = folder / f"{REQUESTS_FILE}.partial"
    with partial.open("w", encoding="utf-8") as stream:
        for record in records:
            write_line(stream, record)
    partial.replace(folder / REQUESTS_FILE)
    checks: dict[str, Any] = dict(info.checks)
    reasons = list(info.invalid)
    due = sum(1 for at in prepared.due_ns)
    for name, (figures, found) in {
        "generator": check_generator(config, list(read_generator(folder)), records),
        "requests": check_requests(config, records, due),
        "counts": check_counts(config, records, exact_prompts=prepared.tokens.knows_template),
        "answers": check_answers(checks.get("answers")),
    }.items():
        checks[name] = figures
        reasons += [reason for reason in found if reason not in reasons]
    workload = {**prepared.workload.describe()}
    info = dataclasses.replace(info, workload=workload, checks=checks, invalid=tuple(reasons))
    write_run(folder, info)
    return info


def _counted(record: RequestRecord, count: Any) -> RequestRecord:
    if record.text is None or record.local_output_tokens is not None:
        return record
    return dataclasses.replace(record, local_output_tokens=count(record.text))
