"""Middle stage: requests in, tokens out as the engine makes them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

from conch.contract import (
    BEAM_WIDTH,
    DETOKENIZER,
    ENGINE,
    INPUT_IDS,
    INPUT_LENGTHS,
    NUM_RETURN_SEQUENCES,
    OUTPUT_IDS,
    SEND_RECEIPTS,
    SEQUENCE_LENGTH,
    STOP,
    STREAM,
    TEXT_OUTPUT,
)
from conch.engines.base import GenerationRequest
from conch.engines.factory import create_engine
from conch.errors import ConchError, InvalidArgumentError
from conch.repository.artifacts import ENGINE_DIR
from conch.repository.settings import ReleaseSettings
from conch.sampling import SamplingParams, resolve
from conch.text.detokenizer import ContextTracker
from conch.text.stop_words import StopMatcher
from conch.text.token_bytes import TokenBytes
from conch.triton import codec
from conch.triton.answers import Answer, Call, Row, nothing
from conch.triton.guard import as_conch_error
from conch.triton.model_engine import ModelEngine
from conch.triton.outbox import Outbox
from conch.triton.reporter import Reporter
from conch.triton.request_log import RequestLog
from conch.triton.tally import KEPT_TOKENS


class EngineStage:
    """The engine of one version, behind Triton's decoupled API.

    Args:
        folder: version folder in the repository.

    Raises:
        RepositoryError: a file is missing or damaged, or the engine cannot be loaded.
    """

    def __init__(self, folder: Path) -> None:
        settings = ReleaseSettings.read(folder)
        self._limits = settings.limits
        self._table = TokenBytes.load(folder, settings.limits.vocab_size)
        self._version = int(folder.name)
        serving = settings.spec.serving
        self._log_prompts = serving.log_prompts
        shown = self._table if self._log_prompts else None
        log = RequestLog(settings.spec.name, self._version, serving.log_format, shown)
        self._reporter = Reporter(settings.spec.name, self._version, log, keep_tokens=self._log_prompts)
        self._outbox = Outbox(serving.max_responses_per_step, self._detokenizer_answers, self._reporter)
        self._request_ids = itertools.count(1)
        # Triton's C++ backend is a model of its own, which this stage asks.
        is_model = settings.spec.engine.tensorrt_llm is not None
        make = partial(ModelEngine, settings.spec, self._version) if is_model else None
        self._engine = create_engine(settings.spec, folder / ENGINE_DIR, self._outbox, make)
        self._outbox.start(self._engine)
        self._reporter.start(lambda: self._engine.load)

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> None:
        """Take requests in; answers go through each request's response sender.

        Responses: OUTPUT_IDS (rows, 1, tokens), SEQUENCE_LENGTH (rows, 1), and what conch.contract.ENGINE lists as
        optional. One response for each token batch of a row when streamed, else one for all rows.
        """
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._take(request, sender)
            except Exception as error:
                response = codec.error_response(as_conch_error(error))
                sender.send(response, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _take(self, request: pb_utils.InferenceRequest, sender: pb_utils.ResponseSender) -> None:
        """Hand a request to the engine; what is raised was not sent."""
        codec.refuse_unknown_parameters(request, ENGINE)
        arrays = codec.read_arrays(request, ENGINE)
        controls = codec.engine_controls(arrays, len(arrays[INPUT_IDS.name]))
        if any(c.get(STOP.name) for c in controls):
            self._stop(request.request_id())
            response = pb_utils.InferenceResponse(nothing("cancelled"))
            sender.send(response, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            return
        prompts, rows = self._read(arrays, controls)
        receipts = arrays.get(SEND_RECEIPTS.name)
        self._outbox.register(
            Call(sender, rows, request.request_id()), receipts=receipts is not None and bool(receipts.all())
        )
        for ids, row in zip(prompts, rows, strict=True):
            try:
                self._engine.submit(GenerationRequest(row.request_id, ids, row.params))
            except Exception as error:
                self._outbox.failed(row.request_id, as_conch_error(error))
                break  # it ends the whole request, so nobody would wait for the later rows

    def _stop(self, client_id: str) -> None:
        if not client_id:
            raise InvalidArgumentError(f"{STOP.name} needs the request id of the request that shall end")
        self._outbox.stop(client_id)

    def close(self) -> None:
        """Stop the engine; what is in flight ends with an error."""
        self._engine.close()
        self._outbox.close()
        self._reporter.close()

    def _read(self, arrays: codec.Arrays, controls: list[dict[str, Any]]) -> tuple[list[list[int]], list[Row]]:
        input_ids, lengths = arrays[INPUT_IDS.name], arrays[INPUT_LENGTHS.name]
        count = len(controls)
        for control, default in ((STREAM, False), (NUM_RETURN_SEQUENCES, 1), (BEAM_WIDTH, 1)):
            if len({c.get(control.name, default) for c in controls}) > 1:
                raise InvalidArgumentError(f"{control.name} must be the same for every row of a request")
        prompts: list[list[int]] = []
        rows: list[Row] = []
        for index in range(count):
            try:
                ids = self._prompt(input_ids[index], int(lengths[index][0]))
                rows.append(self._row(controls[index], ids))
            except ConchError as error:
                if count > 1:
                    raise type(error)(f"row {index}: {error.message}", mend=error.mend) from None
                raise
            prompts.append(ids)
        return prompts, rows

    def _prompt(self, row: Any, length: int) -> list[int]:
        if not 1 <= length <= len(row):
            raise InvalidArgumentError(f"{INPUT_LENGTHS.name} must be in [1, {len(row)}], got {length}")
        if length > self._limits.max_input_len:
            raise InvalidArgumentError(
                f"{INPUT_IDS.name} must have at most {self._limits.max_input_len} tokens, got {length}"
            )
        ids: list[int] = row[:length].tolist()
        if min(ids) < 0 or max(ids) >= self._limits.vocab_size:
            bad = next(i for i in ids if not 0 <= i < self._limits.vocab_size)
            raise InvalidArgumentError(f"{INPUT_IDS.name} must be in [0, {self._limits.vocab_size}), got {bad}")
        return ids

    def _row(self, controls: dict[str, Any], ids: list[int]) -> Row:
        params = resolve(controls, len(ids), self._limits)
        answers = [Answer(ContextTracker(self._table), self._matcher(params)) for _ in range(params.num_sequences)]
        shown = ids[:KEPT_TOKENS] if self._log_prompts else ()
        repeated = ids if params.repeat_prompt else ()
        return Row(next(self._request_ids), params, len(ids), answers, prompt_ids=shown, repeated_ids=repeated)

    def _matcher(self, params: SamplingParams) -> StopMatcher | None:
        return StopMatcher(self._table, params.stop_words) if params.stop_words else None

    def _detokenizer_answers(self) -> bool:
        """Let the detokenizer decode nothing, and wait for it; False if there is none."""
        request = pb_utils.InferenceRequest(
            model_name=DETOKENIZER.name,
            model_version=self._version,
            requested_output_names=[TEXT_OUTPUT.name],
            inputs=[codec.tensor(OUTPUT_IDS, [], (1, 1, 0)), codec.tensor(SEQUENCE_LENGTH, 0, (1, 1))],
        )
        return not request.exec().has_error()
